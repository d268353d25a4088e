"""One line of the query log: what is kept of a question and its answer, by how much the owner wants to know.

``full`` keeps everything; ``anonymous`` keeps of the client only its network (/24, /48), ``names`` no client at all,
``none`` keeps no line.  A line is one JSON object without spaces, so that the file is read by any tool and a torn last
line is told from a whole one.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cyfs_ns.config.house import Privacy
from cyfs_ns.errors import BadWire
from cyfs_ns.printable import printable

_SHOWN = 8  # answers of one line
_LONGEST = 200  # characters of one of them: a TXT record has room for a novel


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One answered question."""

    at: float
    """Seconds since the epoch."""
    client: str
    name: str
    rtype: str
    door: str
    """``udp``, ``tcp``, ``tls``, ``https``."""
    source: str
    """Where the answer came from, as in :class:`cyfs_ns.statistics.Heard`."""
    rcode: str
    answers: tuple[str, ...] = ()
    why: str = ""
    """List and rule, server, file: what decided."""
    milliseconds: float = 0.0
    times: int = 1
    """Equal questions that this line stands for."""


def to_line(entry: LogEntry, privacy: Privacy) -> bytes:
    """The line with its end, or nothing."""
    if privacy == "none":
        return b""
    shape: dict[str, Any] = asdict(entry)
    shape["client"] = shown_client(entry.client, privacy)
    shape["answers"] = [answer[:_LONGEST] for answer in entry.answers[:_SHOWN]]
    shape["why"] = entry.why[:_LONGEST]
    lean = {key: value for key, value in shape.items() if value not in ("", [], 0.0)}
    return json.dumps(lean, separators=(",", ":")).encode() + b"\n"


def from_line(untrusted: bytes) -> LogEntry:
    """Back.  Raises ``BadWire`` for what is no line of ours: a file can be torn or edited."""
    try:
        shape = json.loads(untrusted)
        return LogEntry(
            at=float(shape["at"]),
            client=_word(shape, "client"),
            name=_word(shape, "name"),
            rtype=_word(shape, "rtype"),
            door=_word(shape, "door"),
            source=_word(shape, "source"),
            rcode=_word(shape, "rcode"),
            answers=tuple(printable(str(each)) for each in shape.get("answers", ())),
            why=_word(shape, "why"),
            milliseconds=float(shape.get("milliseconds", 0)),
            times=int(shape.get("times", 1)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise BadWire("not a line of a query log") from None


def chosen(lines: Iterable[bytes], *, client: str = "", name: str = "", source: str = "") -> Iterator[LogEntry]:
    """The entries of ``lines`` that fit; ``name`` also fits everything below it, and ``client`` its network where only
    that was kept.  Torn lines are passed over."""
    clients = {client, network(client)}
    for line in lines:
        try:
            entry = from_line(line)
        except BadWire:
            continue
        below = not name or entry.name == name or entry.name.endswith("." + name)
        if below and (not client or entry.client in clients) and source in ("", entry.source):
            yield entry


def shown_client(client: str, privacy: Privacy) -> str:
    """As much of a client as may be kept; empty: nothing."""
    return client if privacy == "full" else network(client) if privacy == "anonymous" else ""


def network(client: str) -> str:
    """The network of a client, as told when clients are to stay unknown."""
    try:
        address = ipaddress.ip_address(client.partition("/")[0])
    except ValueError:
        return ""
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _word(shape: dict[str, Any], key: str) -> str:
    return printable(str(shape.get(key, "")))

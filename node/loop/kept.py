"""What a node knows when nobody can be asked: its last orders, and what it told last.  As bytes, with their digest.

Both are written by this machine for itself.  A file that is not whole is as good as none: the orders come again with
the store, and a report that was forgotten only says that its state began now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from node.loop.converge import Report
from zone.scheduler.service import NAME
from zone.scheduler.snapshot import Item, State, item_key, read_item

MOST_KEPT: Final = 64 << 20
"""Bytes of a file."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the store says this node is to run, at ``revision``."""

    revision: int
    texts: Mapping[str, str]
    """Service to its item as written."""
    held: frozenset[str] = frozenset()
    """Services that stay as they are, for a task that comes first."""

    def meant(self) -> tuple[dict[str, Item], dict[str, str]]:
        """Service to item, and to why that is not obeyed: it cannot be read, or waits for a task."""
        items, unread = {}, {}
        for service, text in self.texts.items():
            if service in self.held:
                unread[service] = "it waits for a task"
                continue
            try:
                items[service] = read_item(item_key("this", service), text)
            except BadWire as bad:
                unread[service] = str(bad)
        return items, unread

    def as_bytes(self) -> bytes:
        """To be kept; ``read_orders`` reads it back."""
        return _sealed({"revision": self.revision, "texts": dict(self.texts), "held": sorted(self.held)})


def orders_of(node: str, revision: int, entries: Mapping[str, str], held: frozenset[str] = frozenset()) -> Orders:
    """The orders among ``entries`` of the store; keys that are none are read past.  ``held``: who waits."""
    start = item_key(node, "")
    found = {key.removeprefix(start): text for key, text in entries.items() if key.startswith(start)}
    return Orders(revision, {service: text for service, text in found.items() if NAME.fullmatch(service)}, held)


def read_orders(untrusted: bytes) -> Orders:
    """Raises ``BadWire``."""
    body = _opened(untrusted, "orders")
    revision, texts, held = body.get("revision"), body.get("texts"), body.get("held", [])
    if not isinstance(revision, int) or not isinstance(texts, dict) or not isinstance(held, list):
        raise BadWire("orders: expected a revision, texts and who waits")
    found = {name: str(text) for name, text in texts.items() if NAME.fullmatch(name)}
    return Orders(revision, found, frozenset(map(str, held)))


def told_as_bytes(told: Mapping[str, Report]) -> bytes:
    """What was told last, to be kept; ``read_told`` reads it back."""
    return _sealed({name: [said.state, said.epoch, said.since, said.why] for name, said in told.items()})


def read_told(untrusted: bytes) -> dict[str, Report]:
    """Raises ``BadWire``."""
    found = {}
    for name, said in _opened(untrusted, "reports").items():
        match said:
            case [str(state), int(epoch), int() | float() as since, str(why)] if state in get_args(State):
                found[name] = Report(cast(State, state), epoch, float(since), why)
            case _:
                raise BadWire(f"reports: {name[:80]!r} is none")
    return found


def _sealed(body: dict[str, Any]) -> bytes:
    text = write_json(body).decode()
    return write_json({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text})


def _opened(untrusted: bytes, what: str) -> dict[str, Json]:
    sealed = read_object(untrusted, what)
    text = sealed.get("body")
    if not isinstance(text, str) or hashlib.sha256(text.encode()).hexdigest() != sealed.get("sha256"):
        raise BadWire(f"{what}: not what was written")
    return read_object(text.encode(), what)

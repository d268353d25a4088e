"""The configuration as written: typed looks into the tree, each of which knows its place and collects what is wrong.

A ``Section`` is one mapping of the file with its gaps.  Whoever asks it for a key says what belongs there; a wrong
value is noted and the default handed back, so that reading goes on and *all* faults come out at once.  What nobody
asked for is unknown, and ``finish`` says so, with the nearest known key.  A key that holds nothing (``key:``) counts
as absent.

``!env NAME`` and ``!file PATH`` are looked behind here, and only when the reader was given the means: a subscription's
reader was not.  What they bring never shows in a fault.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cyfs_ns.config.source import Map, Node, Scalar, Seq
from cyfs_ns.errors import ConfigFault
from cyfs_ns.printable import printable

MAX_FAULTS = 1000
"""Faults that are told one by one; the rest are counted."""
MAX_HINTS = 300
"""Looking for the word that was meant is slow; among more names, or after more faults, nobody looks."""

_MAX_SHOWN = 400
"""Characters of a message or a path: a stranger's text must not fill the screen."""

_TRUE = frozenset(("true", "yes", "on", "y"))
_FALSE = frozenset(("false", "no", "off", "n"))
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_INTEGER = re.compile(r"[+-]?(?:[0-9][0-9_]{0,19}|0x[0-9a-fA-F]{1,16}|0o[0-7]{1,22})")
_FLOAT = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
_SIZE = re.compile(r"([0-9]{1,12})\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_POWER = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|us|µs|ns|s|m|h|d)")
_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

T = TypeVar("T", bound=str)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a file: an ``error`` stops the load, a ``warning`` does not."""

    path: str
    """JSON pointer of the place, as ``/proxies/3/port``; ``/`` for the whole."""
    line: int
    """From 1; 0 when the fault has no line (a file that cannot be read)."""
    column: int
    """From 1; 0 likewise."""
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}: " if self.line else ""
        return f"{place}{self.severity}: {self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class FileText:
    """What ``!file`` found: the bytes, and whether others than the owner may read them."""

    data: bytes
    exposed: bool


ReadFile = Callable[[str], FileText]
"""Path, as written, to its content; raises ``ConfigFault``."""


class Reader:
    """The faults of one load, and the means to look behind ``!env`` and ``!file`` (None: they are refused)."""

    def __init__(self, environ: Mapping[str, str] | None = None, read_file: ReadFile | None = None) -> None:
        self._environ = environ
        self._read_file = read_file
        self._faults: list[Fault] = []
        self._untold = 0
        self.errors = 0

    def note(self, at: str, line: int, column: int, message: str, *, warning: bool = False) -> None:
        """Keep a fault; beyond ``MAX_FAULTS`` they are only counted."""
        self.errors += not warning
        if len(self._faults) < MAX_FAULTS:
            place, said = printable(at[:_MAX_SHOWN]) or "/", printable(message[:_MAX_SHOWN])
            self._faults.append(Fault(place, line, column, said, "warning" if warning else "error"))
        else:
            self._untold += 1

    def error(self, at: str, node: Node, message: str) -> None:
        self.note(at, node.line, node.column, message)

    def warn(self, at: str, node: Node, message: str) -> None:
        self.note(at, node.line, node.column, message, warning=True)

    def faults(self) -> tuple[Fault, ...]:
        """All of them, in the order of the file."""
        told = sorted(dict.fromkeys(self._faults), key=lambda fault: (fault.line, fault.column))
        if self._untold:
            more = f"and {self._untold} more faults like these"
            told.append(Fault("/", 0, 0, more, "error" if self.errors else "warning"))
        return tuple(told)

    def near(self, word: str, known: Iterable[str]) -> str:
        """``"; did you mean 'x'?"`` when something is near; nothing among very many, or after very many faults."""
        names = sorted(known) if len(self._faults) < MAX_HINTS else []
        match = difflib.get_close_matches(word[:64], names, n=1, cutoff=0.75) if len(names) <= MAX_HINTS else []
        return f"; did you mean {match[0]!r}?" if match else ""

    def text(self, at: str, node: Node) -> str | None:
        """The text of a scalar, looked up when it is a reference; None (and a fault) for anything else."""
        if not isinstance(node, Scalar):
            self.error(at, node, f"expected text, found {shown(node)}")
            return None
        if node.tag == "env":
            return self._from_environment(at, node)
        if node.tag == "file":
            return self._from_file(at, node)
        return node.text

    def _from_environment(self, at: str, node: Scalar) -> str | None:
        if self._environ is None:
            self.error(at, node, "!env is not allowed here")
            return None
        value = self._environ.get(node.text)
        if value is None:
            self.error(at, node, f"the environment has no variable {node.text!r}")
        return value

    def _from_file(self, at: str, node: Scalar) -> str | None:
        if self._read_file is None:
            self.error(at, node, "!file is not allowed here")
            return None
        try:
            found = self._read_file(node.text)
            text = found.data.decode("utf-8-sig")
        except ConfigFault as fault:
            self.error(at, node, str(fault))
            return None
        except UnicodeDecodeError:
            self.error(at, node, f"the file {node.text!r} is not UTF-8 text")
            return None
        if found.exposed:
            self.warn(at, node, f"the file {node.text!r} can be read by other users; give it mode 0600")
        return text.rstrip("\r\n")

    def plain(self, at: str, node: Node) -> Any:
        """A subtree as plain data by YAML 1.2's core rules: only true/false are booleans, only null and ~ nothing."""
        if isinstance(node, Map):
            return {key: self.plain(f"{at}/{pointed(key)}", value) for key, value in node.items.items()}
        if isinstance(node, Seq):
            return [self.plain(f"{at}/{index}", item) for index, item in enumerate(node.items)]
        text = self.text(at, node)
        if text is None or not node.plain:
            return text
        if text in _NULL:
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _INTEGER.fullmatch(text):
            return _to_int(text)
        return float(text) if _FLOAT.fullmatch(text) else text


class Section:
    """One mapping and its place.  Asking for a key makes it known."""

    def __init__(self, reader: Reader, node: Map, at: str) -> None:
        self.reader = reader
        self.tree = node
        self.path = at
        self._asked: set[str] = set()

    def at(self, key: str) -> str:
        """The place of a key, as a JSON pointer."""
        return f"{self.path}/{pointed(key)}"

    def has(self, key: str) -> bool:
        """Whether the key stands there with something behind it."""
        return self.node(key) is not None

    def node(self, key: str) -> Node | None:
        """The raw value, None when it is absent or null."""
        self._asked.add(key)
        node = self.tree.items.get(key)
        return None if node is None or is_null(node) else node

    def __iter__(self) -> Iterator[str]:
        return iter(self.tree.items)

    def error(self, key: str, message: str) -> None:
        """A fault at the key's value, or at the section itself when the key is absent."""
        node = self.tree.items.get(key)
        if node is None:
            self.reader.error(self.path, self.tree, message)
        else:
            self.reader.error(self.at(key), node, message)

    def warn(self, key: str, message: str) -> None:
        """As ``error``, but the load goes on."""
        node = self.tree.items.get(key, self.tree)
        self.reader.warn(self.at(key) if node is not self.tree else self.path, node, message)

    def text(self, key: str, default: str = "") -> str:
        """Any scalar as text."""
        node = self.node(key)
        if node is None:
            return default
        text = self.reader.text(self.at(key), node)
        return default if text is None else text

    def needed(self, key: str) -> str:
        """Text that must be there and not be empty; ``""`` with a fault when it is not."""
        node = self.node(key)
        if node is None:
            self.error(key, f"{key!r} is missing")
            return ""
        text = self.reader.text(self.at(key), node)
        if text is not None and not text.strip():
            self.error(key, f"{key!r} must not be empty")
        return text or ""

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean, in YAML 1.1's spellings."""
        node = self.node(key)
        if node is None:
            return default
        text = self._scalar_text(key, node, "true or false")
        if text is None:
            return default
        word = text.lower()
        if word in _TRUE:
            return True
        if word not in _FALSE:
            self.error(key, f"expected true or false, found {shown(node)}")
            return default
        return False

    def integer(self, key: str, default: int = 0, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number from ``low`` to ``high``."""
        node = self.node(key)
        if node is None:
            return default
        text = self._scalar_text(key, node, "a whole number")
        if text is None:
            return default
        if not _INTEGER.fullmatch(text):
            self.error(key, f"expected a whole number, found {shown(node)}")
            return default
        number = _to_int(text)
        if not low <= number <= high:
            self.error(key, f"{number} is out of range: {low} to {high}")
            return default
        return number

    def seconds(self, key: str, default: float = 0.0, *, unit: str = "s") -> float:
        """A duration in seconds: a bare number counts in ``unit``, text is Go's (``1h30m``, ``500ms``)."""
        node = self.node(key)
        if node is None:
            return default
        text = self._scalar_text(key, node, "a duration")
        if text is None:
            return default
        value = parse_duration(text, unit)
        if value is None:
            self.error(key, f"expected a duration such as 30, 500ms or 1h30m, found {shown(node)}")
            return default
        return value

    def size(self, key: str, default: int) -> int:
        """A number of bytes: a bare number, or with ``K``, ``M`` or ``G`` (powers of 1024)."""
        text = self.text(key)
        if not text:
            return default
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            self.error(key, f"expected a size such as 32M, found {_short(text)!r}")
            return default
        return int(match[1]) * _POWER[match[2].upper()]

    def choice(self, key: str, allowed: Sequence[T], default: T) -> T:
        """One of the words ``allowed``, in any case."""
        node = self.node(key)
        if node is None:
            return default
        text = self._scalar_text(key, node, "one of " + ", ".join(allowed))
        if text is None:
            return default
        for word in allowed:
            if text.lower() == word.lower():
                return word
        self.error(key, f"expected one of {', '.join(allowed)}; found {shown(node)}{self.reader.near(text, allowed)}")
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of text; one bare value counts as a list of one, as in mihomo."""
        return tuple(text for _, _, text in self.items(key))

    def items(self, key: str) -> list[tuple[str, Node, str]]:
        """The list under ``key`` as (place, node, text)."""
        node = self.node(key)
        if node is None:
            return []
        if isinstance(node, Scalar):
            text = self.reader.text(self.at(key), node)
            return [] if text is None else [(self.at(key), node, text)]
        if isinstance(node, Map):
            self.error(key, "expected a list, found a mapping")
            return []
        found = []
        for index, item in enumerate(node.items):
            at = f"{self.at(key)}/{index}"
            text = self.reader.text(at, item)
            if text is not None:
                found.append((at, item, text))
        return found

    def prefixes(self, key: str) -> tuple[Network, ...]:
        """A list of prefixes; a bare address is a prefix of its whole length."""
        found = []
        for at, node, text in self.items(key):
            try:
                found.append(ipaddress.ip_network(text.strip(), strict=False))
            except ValueError:
                self.reader.error(at, node, f"expected a prefix such as 192.168.0.0/16, found {shown(node)}")
        return tuple(found)

    def url(self, key: str, default: str = "") -> str:
        """An http or https URL."""
        text = self.text(key, default)
        if text and text != default:
            fault = _url_fault(text)
            if fault:
                self.error(key, fault)
        return text

    def table(self, key: str) -> Section | None:
        """The mapping under ``key``, or None."""
        node = self.node(key)
        if node is None:
            return None
        if not isinstance(node, Map):
            self.error(key, f"expected a mapping, found {shown(node)}")
            return None
        return Section(self.reader, node, self.at(key))

    def tables(self, key: str) -> list[Section]:
        """The list of mappings under ``key``."""
        node = self.node(key)
        if node is None:
            return []
        if not isinstance(node, Seq):
            self.error(key, f"expected a list, found {shown(node)}")
            return []
        found = []
        for index, item in enumerate(node.items):
            at = f"{self.at(key)}/{index}"
            if isinstance(item, Map):
                found.append(Section(self.reader, item, at))
            else:
                self.reader.error(at, item, f"expected a mapping, found {shown(item)}")
        return found

    def named_tables(self, key: str) -> list[tuple[str, Section]]:
        """The mapping of mappings under ``key``, in the order of the file."""
        outer = self.table(key)
        if outer is None:
            return []
        found = []
        for name in outer:
            inner = outer.table(name)
            if inner is not None:
                found.append((name, inner))
            elif not outer.has(name):
                outer.error(name, "expected a mapping, found nothing")
        return found

    def finish(self, known: Iterable[str] = ()) -> None:
        """Warn of every key that nobody asked for; ``known`` are read past in silence."""
        everything = self._asked.union(known)
        for key in self.tree.items:
            if key not in everything:
                line, column = self.tree.places.get(key, (self.tree.line, self.tree.column))
                message = f"unknown key {_short(key)!r}, ignored{self.reader.near(key, everything)}"
                self.reader.note(self.at(key), line, column, message, warning=True)

    def _scalar_text(self, key: str, node: Node, expected: str) -> str | None:
        if not isinstance(node, Scalar):
            self.error(key, f"expected {expected}, found {shown(node)}")
            return None
        text = self.reader.text(self.at(key), node)
        return None if text is None else text.strip()


def is_null(node: Node) -> bool:
    """Whether the node is YAML's null, an empty value included."""
    return isinstance(node, Scalar) and node.plain and node.text in _NULL


def shown(node: Node) -> str:
    """What stands there, for a message; what a reference would bring stays hidden."""
    if isinstance(node, Seq):
        return "a list"
    if isinstance(node, Map):
        return "a mapping"
    if node.tag in ("env", "file"):
        return f"what !{node.tag} brings"
    return "nothing" if is_null(node) else repr(_short(node.text))


def pointed(key: str) -> str:
    """A key as one step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def split_host_port(text: str) -> tuple[str, int] | None:
    """``host:port``, ``[v6]:port`` or ``:port``; None when it is none.  The host is not looked at."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        return None
    return (host[1:-1] if bracketed else host), int(port)


def parse_duration(text: str, unit: str = "s") -> float | None:
    """Seconds of ``90``, ``1h30m``, ``500ms``; None when it is none, or more than a hundred years."""
    if _FLOAT.fullmatch(text):
        value = float(text) * _UNIT[unit]
    else:
        value, end = 0.0, 0
        for part in _DURATION_PART.finditer(text):
            if part.start() != end:
                return None
            value, end = value + float(part[1]) * _UNIT[part[2]], part.end()
        if not end or end != len(text):
            return None
    return value if 0 <= value <= 100 * 366 * 86400.0 else None


def _to_int(text: str) -> int:
    digits = text.lstrip("+-")
    base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
    number = int(digits[2:] if base != 10 else digits.replace("_", ""), base)
    return -number if text.startswith("-") else number


def _url_fault(text: str) -> str:
    try:
        parts = urlsplit(text)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    return "" if named and not re.search(r"[\x00-\x20\x7f]", text) else "expected an http or https URL"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."

"""Names the owner wrote down: Clash's ``hosts:`` mapping and the text of ``/etc/hosts``.

A value is either addresses or another name, an *alias*, which is looked up again here and, if the table has no more to
say, is what should be asked of DNS instead.  ``localhost`` and everything below it is loopback unless written
otherwise; it must never be asked of a network (RFC 6761 section 6.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TypeAlias

from cyfs_ns import names
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault

HostValue: TypeAlias = tuple[str, ...] | str
"""Addresses as canonical text, or the name that stands in."""

_LOOPBACK = ("127.0.0.1", "::1")
_MAX_HOPS = 16


class Hosts:
    """The compiled table.  Immutable; raises ``ConfigFault`` for bad patterns and for aliases that go round."""

    __slots__ = ("_map",)

    def __init__(self, entries: Mapping[str, HostValue]) -> None:
        self._map: DomainMap[HostValue] = DomainMap({"+.localhost": _LOOPBACK, **entries})
        looping = [pattern for pattern, value in entries.items() if isinstance(value, str) and self._loops(value)]
        if looping:
            raise ConfigFault(f"these hosts are aliases of each other: {', '.join(looping)}")

    def lookup(self, name: str) -> HostValue | None:
        """A canonical name's addresses, the name to ask for instead, or ``None`` when nothing is written here."""
        found = self._map.get(name)
        while isinstance(found, str):
            following = self._map.get(found)
            if following is None:
                return found
            found = following
        return found

    def _loops(self, name: str) -> bool:
        # Every walk enters through some alias, so walking from each alias once finds every loop there can be.
        for _ in range(_MAX_HOPS):
            found = self._map.get(name)
            if not isinstance(found, str):
                return False
            name = found
        return True


def hosts_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of a hosts(5) file: a canonical address and its names, the first being the address's own.

    As every resolver does, what makes no sense is passed over.
    """
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) < 2:
            continue
        try:
            address = names.ip(fields[0].partition("%")[0])
        except BadWire:
            continue
        found = []
        for field in fields[1:]:
            with suppress(BadWire):
                found.append(names.name(field))
        yield address, found


def etc_hosts(text: str) -> dict[str, HostValue]:
    """The entries of a hosts(5) file by name."""
    gathered: dict[str, dict[str, None]] = {}
    for address, found in hosts_lines(text):
        for name in found:
            gathered.setdefault(name, {})[address] = None
    return {name: tuple(addresses) for name, addresses in gathered.items()}

"""Names the owner wrote down: Clash's ``hosts:`` mapping and the text of ``/etc/hosts``.

A value is either addresses or another name, an *alias*, which is looked up again here and, if the table has no more to
say, is what should be asked of DNS instead.  ``localhost`` and everything below it is loopback unless written
otherwise; it must never be asked of a network (RFC 6761 section 6.3).
"""

from __future__ import annotations

from collections.abc import Mapping
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


def clash_hosts(raw: Mapping[object, object], faults: list[str]) -> dict[str, HostValue]:
    """Clash's ``hosts:`` as entries for :class:`Hosts`; what cannot be meant goes to ``faults`` as ``key: why``."""
    entries: dict[str, HostValue] = {}
    for pattern, value in raw.items():
        try:
            DomainMap({str(pattern): True})
            entries[str(pattern)] = _clash_value(value)
        except (BadWire, ConfigFault) as fault:
            faults.append(f"{pattern}: {fault}")
    return entries


def _clash_value(value: object) -> HostValue:
    if isinstance(value, str):
        meant = names.host(value)
        return (meant,) if names.is_ip(meant) else meant
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        if len(value) == 1:
            return _clash_value(value[0])
        return tuple(dict.fromkeys(names.ip(each) for each in value))
    raise ConfigFault("wanted an address, a list of addresses or a name")


def etc_hosts(text: str) -> dict[str, HostValue]:
    """The entries of a hosts(5) file.  As every resolver does, lines that make no sense are passed over."""
    gathered: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        try:
            address = names.ip(fields[0].partition("%")[0]) if fields else ""
        except BadWire:
            continue
        for field in fields[1:]:
            try:
                gathered.setdefault(names.name(field), {})[address] = None
            except BadWire:
                continue
    return {name: tuple(addresses) for name, addresses in gathered.items()}

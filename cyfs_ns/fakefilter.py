"""Which names get a fake address: ``fake-ip-filter`` and its mode.

``blacklist`` names those that get real ones, ``whitelist`` those that get fake ones.  ``rule`` is a list of
``TYPE,payload,fake-ip`` or ``...,real-ip``, of which the first that fits decides; where none does, the address is fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from cyfs_ns import names
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, ConfigFault

FilterMode: TypeAlias = Literal["blacklist", "whitelist", "rule"]
Wants: TypeAlias = Callable[[str], bool]
"""Of a canonical name, whether its address is fake, or whether it is in a set."""

_Sets: TypeAlias = Callable[[str], Wants] | None
_SETS = ("rule-set:", "geosite:")


def fake_filter(mode: FilterMode, entries: Iterable[str], sets: _Sets) -> Wants:
    """The filter of these entries; ``sets`` finds what is called ``geosite:cn`` or ``rule-set:mine``.

    Raises ``ConfigFault``.
    """
    if mode == "rule":
        return _by_rules(entries, sets)
    listed = _listed(tuple(entries), sets)
    if mode == "whitelist":
        return listed
    return lambda name: not listed(name)


def _listed(entries: tuple[str, ...], sets: _Sets) -> Wants:
    plain = [entry for entry in entries if not entry.startswith(_SETS)]
    matchers = [_set(entry, sets) for entry in entries if entry.startswith(_SETS)]
    table = DomainMap(dict.fromkeys(plain, True))
    return lambda name: table.get(name) is not None or any(matcher(name) for matcher in matchers)


def _by_rules(lines: Iterable[str], sets: _Sets) -> Wants:
    rules: list[tuple[Wants, bool]] = []
    for line in lines:
        kind, *payload = [part.strip() for part in line.split(",")]
        what = payload.pop() if payload else ""
        if what.lower() not in ("fake-ip", "real-ip") or len(payload) > 1 or (not payload) != (kind == "MATCH"):
            raise ConfigFault(f"fake-ip-filter: {line[:80]!r} is not TYPE,payload,fake-ip or ...,real-ip")
        rules.append((_rule(kind, payload[0] if payload else "", line, sets), what.lower() == "fake-ip"))

    def wants(name: str) -> bool:
        return next((fake for fits, fake in rules if fits(name)), True)

    return wants


def _rule(kind: str, payload: str, line: str, sets: _Sets) -> Wants:
    try:
        match kind.upper():
            case "MATCH":
                return lambda name: True
            case "DOMAIN":
                wanted = names.name(payload)
                return lambda name: name == wanted
            case "DOMAIN-SUFFIX":
                suffix = names.name(payload.lstrip("."))
                return lambda name: name == suffix or name.endswith("." + suffix)
            case "DOMAIN-KEYWORD":
                keyword = payload.lower()
                return lambda name: keyword in name
            case "GEOSITE":
                return _set(f"geosite:{payload}", sets)
            case "RULE-SET":
                return _set(f"rule-set:{payload}", sets)
    except BadWire as fault:
        raise ConfigFault(f"fake-ip-filter: {line[:80]!r}: {fault}") from None
    raise ConfigFault(
        f"fake-ip-filter: {kind[:40]!r} is not one of DOMAIN, DOMAIN-SUFFIX, DOMAIN-KEYWORD, GEOSITE, RULE-SET, MATCH"
    )


def _set(name: str, sets: _Sets) -> Wants:
    if sets is None:
        raise ConfigFault(f"fake-ip-filter: there are no rule sets here, so {name[:60]!r} cannot be looked into")
    return sets(name)

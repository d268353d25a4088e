"""Lines that tell of a fault somebody should look at: few kinds, and each is told of once in a while.

What lines say is not proof of anything.  A service can write what it likes, so all that follows from a fault is that
somebody looks again, at what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import re2

from cyfs_ns.errors import ConfigFault
from zone.klog.line import LEVELS, Line

MOST_RULES: Final = 64
QUIET: Final = 60.0
"""Seconds in which the same fault of the same service is told once."""
_MOST_HELD: Final = 4096


class Kind(StrEnum):
    """What seems to be wrong."""

    CRASH_LOOP = "crash-loop"
    OUT_OF_MEMORY = "out-of-memory"
    DISK_FULL = "disk-full"
    STORE_AWAY = "store-away"
    RULE = "rule"
    """What the owner asked for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Lines of ``level`` and above that ``pattern`` (RE2) is found in; ``service`` empty: of any."""

    name: str
    pattern: str
    level: str = "warning"
    service: str = ""


_OWN: Final[Mapping[Kind, str]] = {
    Kind.CRASH_LOOP: r"(?i)crash.?loop|: counts as failed: ",
    Kind.OUT_OF_MEMORY: r"(?i)\bout of memory\b|oom-kill|used more than its .* of memory|\bMemoryError\b",
    Kind.DISK_FULL: r"(?i)no space left on device|disk is full|database or disk is full|disk quota exceeded",
    Kind.STORE_AWAY: r"(?i)etcdserver: no leader|the store (is|does not) .*(away|answer)",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that tells of one."""

    kind: Kind
    rule: str
    """Its name, for ``Kind.RULE``."""
    node: str
    service: str
    message: str


class Patterns:
    """Looks at lines as they come.  ``now`` is a clock that nobody sets."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Raises ``ConfigFault`` for a rule that cannot be."""
        if len(rules) > MOST_RULES:
            raise ConfigFault(f"{len(rules)} rules for faults, at most {MOST_RULES}")
        self._compiled = [(kind, Rule("", pattern), _compiled(kind, pattern)) for kind, pattern in _OWN.items()]
        for rule in rules:
            if rule.level not in LEVELS:
                raise ConfigFault(f"rule {rule.name}: a level is one of {', '.join(LEVELS)}")
            self._compiled.append((Kind.RULE, rule, _compiled(rule.name, rule.pattern)))
        self._told: dict[tuple[Kind, str, str, str], float] = {}

    def look(self, node: str, lines: Iterable[Line], now: float) -> list[Fault]:
        """The faults in ``lines`` that were not told a moment ago."""
        found = []
        for line in lines:
            # Parts of this program have a dot in their names, which no service has, and speak of services.
            service = line.attrs.get("about", line.service) if "." in line.service else line.service
            for kind, rule, pattern in self._compiled:
                if LEVELS.index(line.level) < LEVELS.index(rule.level) or rule.service not in ("", service):
                    continue
                key = (kind, rule.name, node, service)
                if now - self._told.get(key, -QUIET) >= QUIET and pattern.search(line.message):
                    if len(self._told) >= _MOST_HELD:
                        self._told = {held: at for held, at in self._told.items() if now - at < QUIET}
                    if len(self._told) < _MOST_HELD:
                        self._told[key] = now
                        found.append(Fault(kind, rule.name, node, service, line.message))
        return found


def _compiled(name: str, pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as bad:
        raise ConfigFault(f"rule {name}: {bad}") from None

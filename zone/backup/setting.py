"""What a zone says of its backups: ``system/backup/targets/<name>``, a value for each target.

    {"to": "/mnt/usb/backup", "on": "ood1", "every": "1d", "keep": {"last": 3, "daily": 7, "weekly": 4, "monthly": 6}}

``to`` is a directory, which is on the machine ``on``, or a URL; without ``on`` an OOD that leads makes the backup.
``every`` and ``keep`` may be left out, and each number of ``keep``.  ``security/backup/access/<name>`` has what a
server wants to hear (``user:password``), ``security/backup/secret`` the secret of the zone's chunks; both are sealed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Final

from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from zone.backup.retention import Retention

TARGETS: Final = "system/backup/targets"
ACCESS: Final = "security/backup/access"
SECRET_KEY: Final = "security/backup/secret"
MOST_TARGETS: Final = 16
MOST_PLACE: Final = 1024
LEAST_EVERY: Final = 60
"""Seconds between two backups."""
EVERY: Final = 86_400

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])\Z")
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}
_MOST_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One target."""

    to: str
    on: str = ""
    """The machine that has it; empty: whichever OOD leads."""
    every: int = EVERY
    """Seconds."""
    keep: Retention = field(default_factory=Retention)

    def text(self) -> str:
        """As the zone's configuration has it."""
        every = next(f"{self.every // size}{unit}" for unit, size in reversed(_UNITS.items()) if not self.every % size)
        said: dict[str, Json] = {"to": self.to, "every": every, "keep": asdict(self.keep)}
        return write_json(said | ({"on": self.on} if self.on else {})).decode()


def read_setting(untrusted: str) -> Setting:
    """Raises ``BadWire``, which says what is wrong."""
    said = Fields(read_object(untrusted, "target"), "target")
    to, on, every, keep = said.text_or_none("to", MOST_PLACE), said.take("on"), said.take("every"), said.take("keep")
    if unknown := [*said.rest()]:
        raise BadWire(f"target: {unknown[0][:40]!r} is not known")
    if not to or not to.isprintable():
        raise said.wrong("to", "is missing")
    if not isinstance(on, str | None):
        raise said.wrong("on", "is no name of a machine")
    if to.startswith("/") and not on:
        raise said.wrong("on", "is missing: a directory is on one machine")
    return Setting(to=to, on=on or "", every=EVERY if every is None else read_span(every), keep=_keep(keep))


def read_span(untrusted: Json) -> int:
    """The seconds of a time such as ``12h``.  Raises ``BadWire``."""
    found = _SPAN.match(untrusted) if isinstance(untrusted, str) else None
    if found is None or (seconds := int(found[1]) * _UNITS[found[2]]) < LEAST_EVERY:
        raise BadWire("'every' is a number of m(inutes), h(ours) or d(ays), as 12h")
    return seconds


def check_name(untrusted: str) -> str:
    """``untrusted``, which a target may be called.  Raises ``BadWire``."""
    if not _NAME.match(untrusted):
        raise BadWire(f"{untrusted[:40]!r} is no name of a target: lower case letters, digits and '-', 32 at most")
    return untrusted


def _keep(untrusted: Json) -> Retention:
    if untrusted is None:
        return Retention()
    rules = {one.name for one in fields(Retention)}
    if not isinstance(untrusted, Mapping) or untrusted.keys() - rules:
        raise BadWire(f"target: 'keep' has {', '.join(sorted(rules))} and no more")
    numbers: dict[str, int] = {}
    for name, number in untrusted.items():
        if not isinstance(number, int) or isinstance(number, bool) or number > _MOST_KEPT:
            raise BadWire(f"target: 'keep' has a number of backups as {name!r}, {_MOST_KEPT} at most")
        numbers[name] = number
    try:
        return Retention(**numbers)
    except ConfigFault as fault:
        raise BadWire(f"target: {fault}") from None

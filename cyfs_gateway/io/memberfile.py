"""What this machine remembers of the SNs it belongs to, on disk: ``memberships.json`` in the state directory.

Of each SN its domain, which it cannot change later, and the number of the last word that was signed for it.  A number
is on disk before it is used, so none is used twice whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from cyfs_gateway.membership import next_seq
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.fields import Fields
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.configfile import read_bounded

_NAME = "memberships.json"
_MOST = 1 << 18
_MOST_SNS = 256


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of one SN."""

    domain: str = ""
    seq: int = 0


_NOTHING = Remembered()


class MemberFile:
    """The file below ``home``, read when it is needed first."""

    def __init__(self, home: Path) -> None:
        self._path = home / _NAME
        self._held: dict[Did, Remembered] | None = None
        self._writing = trio.Lock()

    async def of(self, sn: Did) -> Remembered:
        """What is remembered of ``sn``.  Raises ``ConfigFault`` for a file that cannot be read."""
        return (await self._all()).get(sn.canonical, _NOTHING)

    async def learnt(self, sn: Did, domain: str) -> None:
        """``sn`` named its domain.  Raises ``ConfigFault``."""
        await self._put(sn, replace(await self.of(sn), domain=domain))

    async def next_seq(self, sn: Did, wall: float) -> int:
        """The number of the next word for ``sn``.  Raises ``ConfigFault``."""
        before = await self.of(sn)
        seq = next_seq(before.seq, wall)
        await self._put(sn, replace(before, seq=seq))
        return seq

    async def heard(self, sn: Did, seq: int) -> None:
        """``sn`` has heard a word of that number.  Raises ``ConfigFault``."""
        before = await self.of(sn)
        await self._put(sn, replace(before, seq=max(before.seq, seq)))

    async def _put(self, sn: Did, what: Remembered) -> None:
        async with self._writing:
            held = await self._all()
            if held.get(sn.canonical) == what:
                return
            held = dict(list({**held, sn.canonical: what}.items())[-_MOST_SNS:])
            try:
                await trio.to_thread.run_sync(partial(write_atomic, self._path, _written(held)))
            except OSError as fault:
                raise ConfigFault(f"{self._path}: {fault.strerror}") from fault
            self._held = held

    async def _all(self) -> dict[Did, Remembered]:
        if self._held is None:
            self._held = await trio.to_thread.run_sync(self._read)
        return self._held

    def _read(self) -> dict[Did, Remembered]:
        if not self._path.exists():
            return {}
        try:
            return _read(read_bounded(self._path, _MOST)[0])
        except (BadWire, ConfigFault) as fault:
            how = "remove it, and SNs are asked anew what their domain is"
            raise ConfigFault(f"{self._path}: {fault}; {how}") from None


def _written(held: Mapping[Did, Remembered]) -> bytes:
    told: dict[str, Json] = {str(sn): {"domain": one.domain, "seq": one.seq} for sn, one in held.items()}
    return write_json({"sns": told}) + b"\n"


def _read(data: bytes) -> dict[Did, Remembered]:
    told = Fields(read_object(data, _NAME), _NAME).take("sns")
    if not isinstance(told, dict):
        raise BadWire("sns is missing")
    found = {}
    for sn, each in told.items():
        if not isinstance(each, dict):
            raise BadWire(f"{sn} is no object")
        fields = Fields(dict(each), sn)
        domain = fields.text_or_none("domain") or ""
        found[parse_did(sn).canonical] = Remembered(names.name(domain) if domain else "", fields.number("seq"))
    return found

"""What our own name server says of the names below which authorities look for proofs.

Each is a small zone, ``_acme-challenge.NAME``, that an NS record of the domain hands to this gateway (or that lies in a
domain it serves).  It always exists, so that asking before a proof is there is answered *no such record*, and never
*no such name*, which resolvers would remember for everything below.
"""

from __future__ import annotations

from collections.abc import Iterable

from cyfs_ns.authority import Statement
from cyfs_ns.local import LocalBuilder, LocalNames, LocalSettings
from cyfs_ns.message import TXT
from cyfs_ns.records import txt_data
from cyfs_ns.reply import Reply
from cyfs_ns.wire import name_wire
from cyfs_ns.zonefile import Written

_LABEL = "_acme-challenge."
_TTL = 1  # the next order may follow at once, with another value


class ChallengeZone:
    """An :class:`~cyfs_ns.authority.Authority` for the challenge names of these canonical names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._said: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
        self._names = self._built()

    def covers(self, name: str) -> bool:
        return name in self._said

    def say(self, name: str, txt: str) -> bytes:
        """Add a value; gives the wire name whose answers are others now."""
        self._said[name] = tuple(dict.fromkeys((*self._said[name], txt)))
        return self._changed(name)

    def take_back(self, name: str, txt: str) -> bytes:
        self._said[name] = tuple(value for value in self._said[name] if value != txt)
        return self._changed(name)

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        found = self._names.lookup(name, rtype)
        return Statement(found, 0.0, "a proof for certificates") if isinstance(found, Reply) else None

    def _changed(self, name: str) -> bytes:
        self._names = self._built()
        return name_wire(_LABEL + name)

    def _built(self) -> LocalNames:
        builder = LocalBuilder(LocalSettings(ttl=_TTL, special=False, canary=False))
        for name, values in self._said.items():
            owner = name_wire(_LABEL + name)
            written = [Written(owner, TXT, _TTL, txt_data(value.encode()), 0) for value in values]
            builder.zone(_LABEL + name, written)
        return builder.build()

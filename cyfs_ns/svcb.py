"""The data of SVCB and HTTPS records (RFC 9460 section 2.2): priority, target, parameters; and the hints in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError

from cyfs_ns.errors import BadWire
from cyfs_ns.wire import read_name

MANDATORY, IPV4HINT, ECH, IPV6HINT = 0, 4, 5, 6

_PAIR = Struct("!HH")
_SIZES = {IPV4HINT: 4, IPV6HINT: 16}


@dataclass(frozen=True, slots=True)
class Service:
    """One record, as read; ``target`` is a wire name, ``params`` are key and value."""

    priority: bytes
    target: bytes
    params: tuple[tuple[int, bytes], ...]

    def addresses(self) -> Iterable[bytes]:
        """The hinted addresses, of 4 and of 16 octets."""
        for key, value in self.params:
            if (size := _SIZES.get(key, 0)) and len(value) % size == 0:
                yield from (value[at : at + size] for at in range(0, len(value), size))

    def without(self, keys: Collection[int]) -> bytes:
        """The data without these parameters, nor the demand that a client should know them."""
        kept = [(key, value) for key, value in self.params if key not in keys]
        out = [self.priority, self.target]
        for key, value in kept:
            if key == MANDATORY:
                value = b"".join(value[at : at + 2] for at in range(0, len(value), 2) if _key(value, at) not in keys)
                if not value:
                    continue
            out += (_PAIR.pack(key, len(value)), value)
        return b"".join(out)


def _key(value: bytes, at: int) -> int:
    return int.from_bytes(value[at : at + 2], "big")


def read_service(rdata: bytes) -> Service:
    """Reads data whose target is written out.  Raises ``BadWire``, also for keys out of order or doubled."""
    target, at = read_name(bytes(12) + rdata, 14)  # names are looked for behind a message's head
    if len(target) != at - 14:
        raise BadWire("an SVCB record whose target is compressed")
    params: list[tuple[int, bytes]] = []
    rest = rdata[at - 12 :]
    while rest:
        try:
            key, size = _PAIR.unpack_from(rest)
        except StructError:
            raise BadWire("an SVCB record ends within a parameter") from None
        if size > len(rest) - _PAIR.size or (params and key <= params[-1][0]):
            raise BadWire("an SVCB record whose parameters are cut or out of order")
        if key == MANDATORY and (not size or size % 2):
            raise BadWire("an SVCB record that demands half a parameter, or none")  # RFC 9460 section 8
        params.append((key, rest[_PAIR.size : _PAIR.size + size]))
        rest = rest[_PAIR.size + size :]
    return Service(rdata[:2], target, tuple(params))

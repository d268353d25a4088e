"""Writers of geosite.dat and geoip.dat, for tests only: a few lines of protobuf."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of varint and length-delimited fields."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def geosite_dat(sites: Mapping[str, Sequence[tuple[int, str, Sequence[str]]]]) -> bytes:
    """Code to ``(type, value, attributes)``."""
    return message(*((1, message((1, code.encode()), *map(_domain, names))) for code, names in sites.items()))


def geoip_dat(places: Mapping[str, Sequence[str]], reverse: Collection[str] = ()) -> bytes:
    """Code to prefixes; those in ``reverse`` are written as "all but these"."""
    return message(
        *(
            (1, message((1, code.encode()), *map(_network, networks), (3, int(code in reverse))))
            for code, networks in places.items()
        )
    )


def _domain(entry: tuple[int, str, Sequence[str]]) -> tuple[int, bytes]:
    kind, value, attributes = entry
    marks = ((3, message((1, attribute.encode()), (2, 1))) for attribute in attributes)
    return 2, message((1, kind), (2, value.encode()), *marks)


def _network(text: str) -> tuple[int, bytes]:
    network = ipaddress.ip_network(text)
    return 2, message((1, network.network_address.packed), (2, network.prefixlen))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))

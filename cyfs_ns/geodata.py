"""geosite.dat and geoip.dat: v2ray's lists of names and addresses by category, in protobuf, read by hand and on demand.

Both files are one repeated field 1, an entry a category, whose field 1 is its code; opening a file notes where each
category lies and reads none.  An entry of geosite.dat has names in field 2: ``type`` 1 (0 keyword, 1 regex, 2 name and
below, 3 name), ``value`` 2, ``attribute`` 3 with ``key`` 1.  An entry of geoip.dat has networks in field 2 (``ip`` 1 as
4 or 16 bytes, ``prefix`` 2) and ``reverse_match`` 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ahocorasick

from cyfs_ns.address import WIDTH, Prefix
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.patterns import PatternSet
from cyfs_ns.sets import CidrSet, DomainSet, HostSet, domain_entry, prefix_range

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEYWORD, _REGEX, _BELOW, _FULL = range(4)


class DatFile:
    """The categories of a dat file, by lower-case code.  Raises BadWire when the file is not one."""

    def __init__(self, untrusted: bytes | memoryview) -> None:
        self._data = memoryview(untrusted)
        self._where: dict[str, tuple[int, int]] = {}
        for number, value, start in _fields(self._data):
            if number == 1 and isinstance(value, memoryview):
                self._where[_code(value)] = (start, start + len(value))
        if not self._where:
            raise BadWire("a geo data file without a single category")

    def __contains__(self, code: str) -> bool:
        return code.lower() in self._where

    def codes(self) -> Sequence[str]:
        return tuple(self._where)

    def entry(self, code: str) -> memoryview:
        """The bytes of one category.  KeyError: there is none of that name."""
        start, end = self._where[code.lower()]
        return self._data[start:end]


def _code(entry: memoryview) -> str:
    for number, value, _ in _fields(entry):
        if number == 1 and isinstance(value, memoryview):
            return _text(value).lower()
    raise BadWire("a geo data category without a code")


def site_set(file: DatFile, category: str) -> HostSet:
    """The names of ``category``: ``cn``, ``google@ads`` (those with every attribute named), ``!cn`` (all but those).

    Raises ConfigFault when there is no such category or a regex in it cannot run, BadWire when its bytes are unsound.
    """
    negate = category.startswith("!")
    code, *attributes = category.removeprefix("!").lower().split("@")
    wanted = {attribute.strip() for attribute in attributes if attribute.strip()}
    if code.strip() not in file:
        raise ConfigFault(f"GEOSITE knows no category {code.strip()!r}: check its spelling or update GeoSite.dat")
    found = _SiteSet(_site_lines(file.entry(code.strip()), wanted))
    return _AllBut(found) if negate else found


def _site_lines(entry: memoryview, wanted: set[str]) -> Iterator[tuple[int, str]]:
    for number, value, _ in _fields(entry):
        if number != 2 or not isinstance(value, memoryview):
            continue
        kind, text, attributes = _KEYWORD, "", set[str]()
        for inner, content, _ in _fields(value):
            if inner == 1 and isinstance(content, int):
                kind = content
            elif inner == 2 and isinstance(content, memoryview):
                text = _text(content)
            elif inner == 3 and isinstance(content, memoryview):
                attributes.update(
                    _text(key) for at, key, _ in _fields(content) if at == 1 and isinstance(key, memoryview)
                )
        if text and wanted <= attributes:
            yield kind, text


class _SiteSet:
    """Names, keywords and regexes of one category."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        names, keywords, regexes = [], [], []
        for kind, text in lines:
            if kind == _KEYWORD:
                keywords.append(text.lower())
            elif kind == _REGEX:
                regexes.append(text)
            elif kind in (_BELOW, _FULL):
                entry = domain_entry(text.encode())
                if entry is not None and b"*" not in entry and not entry.startswith((b"+", b".")):
                    names.append(b"+." + entry if kind == _BELOW else entry)
        self._count = len(names) + len(keywords) + len(regexes)
        self._names = DomainSet(names)
        self._keywords = ahocorasick.Automaton()
        for keyword in keywords:
            self._keywords.add_word(keyword, True)
        self._keywords.make_automaton()
        self._any_keyword = bool(keywords)
        self._regexes = PatternSet(regexes)

    def match(self, host: str) -> bool:
        if self._names.match(host):
            return True
        if self._any_keyword and any(True for _ in self._keywords.iter(host)):
            return True
        return bool(self._regexes.matches(host))

    def __len__(self) -> int:
        return self._count


class _AllBut:
    def __init__(self, inner: HostSet) -> None:
        self._inner = inner

    def match(self, host: str) -> bool:
        return not self._inner.match(host)

    def __len__(self) -> int:
        return len(self._inner)


def country_set(file: DatFile, code: str) -> CidrSet:
    """The addresses of a country code.  Raises ConfigFault when there is none, BadWire when its bytes are unsound."""
    if code not in file:
        raise ConfigFault(f"GEOIP knows no code {code!r}: check its spelling or update GeoIP.dat")
    prefixes, reverse = [], False
    for number, value, _ in _fields(file.entry(code)):
        if number == 2 and isinstance(value, memoryview):
            prefixes.append(_network(value))
        elif number == 3 and isinstance(value, int):
            reverse = bool(value)
    ranges = [prefix_range(prefix) for prefix in prefixes]
    return CidrSet(_all_but(ranges) if reverse else ranges, len(prefixes))


def _network(entry: memoryview) -> Prefix:
    ip, bits = b"", 0
    for number, value, _ in _fields(entry):
        if number == 1 and isinstance(value, memoryview):
            ip = bytes(value)
        elif number == 2 and isinstance(value, int):
            bits = value
    family = {4: 4, 16: 6}.get(len(ip))
    if family is None or bits > WIDTH[family]:
        raise BadWire(f"geo data holds a network of {len(ip)} bytes and {bits} bits")
    return Prefix(family, int.from_bytes(ip, "big"), bits)


def _all_but(ranges: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    for family in (4, 6):
        low = 0
        for _, first, last in sorted(item for item in ranges if item[0] == family):
            if first > low:
                yield family, low, first - 1
            low = max(low, last + 1)
        if low < 1 << WIDTH[family]:
            yield family, low, (1 << WIDTH[family]) - 1


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise BadWire("geo data holds a text that is not UTF-8") from None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview, int]]:
    """The fields of a protobuf message: number, value, where the value begins.  Fixed-size ones are passed over."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise BadWire("field number 0 in geo data")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value, at
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if length > end - at:
                raise BadWire("a field reaches past the end of the geo data")
            yield number, data[at : at + length], at
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
            if at > end:
                raise BadWire("a field reaches past the end of the geo data")
        else:
            raise BadWire(f"wire type {kind} in geo data")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise BadWire("the geo data ends within a number")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise BadWire("a number of more than ten bytes in geo data")

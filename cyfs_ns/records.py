"""The data of one record: as a zone file writes it, and as it travels (RFC 1035 section 5, RFC 3597).

A type is a row of fields, and a field knows both its spellings; that is all there is to most types.  What a type's row
does not explain, and every type without a row, has the generic form of RFC 3597 (``\\# 4 0a000001``), so printing never
fails.  Reading has one error, ``BadWire``.

Text is more forgiving than RFC 1035 in two ways.  A TXT string may be longer than 255 octets and is split (certificates
and keys are), and octets outside ASCII stand for themselves, as UTF-8.  A ``;`` is an ordinary character here: comments
end where lines are read.  Names come out in lower case.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.message import rtype_number, rtype_text
from cyfs_ns.wire import escaped, name_text, name_wire

HINFO, LOC, NAPTR, DNAME, DS, SSHFP, TLSA, SVCB, HTTPS, URI, CAA = 13, 29, 35, 39, 43, 44, 52, 64, 65, 256, 257

_MAX_DATA = 65535
_MAX_STRING = 255
_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*+)"|((?:[^\s"\\]|\\.)++(?:"(?:[^"\\]|\\.)*+")?))', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-9]{3})|(.))", re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,10}\Z").match


class Token(NamedTuple):
    """One word of a line, still escaped."""

    text: str
    quoted: bool


def tokens(text: str) -> list[Token]:
    """The words of ``text``, what stands in quotes being one.  ``key="a b"`` is one word too.  Raises ``BadWire``."""
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadWire(f"a quote or a backslash without its second half: {text[at : at + 80]!r}")
        quoted, bare = match.groups()
        found.append(Token(bare if quoted is None else quoted, quoted is not None))
        at = match.end()
    return found


def absolute_name(text: str, origin: bytes) -> bytes:
    """A name as a zone file writes it: ``@`` is ``origin``, and without a dot at its end it stands below it."""
    if text == "@":
        return origin
    if not text.isascii():
        star = "*." if text.startswith("*.") else ""
        text = star + names.name(text.removeprefix(star)) + ("." if text.endswith(".") else "")
    wire = name_wire(text)
    dots = text.endswith(".") and (len(text) - len(text[:-1].rstrip("\\"))) % 2 == 1
    if dots or origin == b"\0":
        return wire
    if len(wire) + len(origin) > 256:
        raise BadWire(f"a name longer than 255 octets: {text[:80]!r}")
    return wire[:-1] + origin


def data_wire(rtype: int, text: str, origin: bytes = b"\0") -> bytes:
    """The data of a record of type ``rtype``, uncompressed.  Names without a dot at their end stand below ``origin``.

    The generic form is taken for every type and, where the type is known, must make sense as such.  Raises ``BadWire``
    saying what was expected.
    """
    words = _Words(tokens(text), origin)
    shape = _SHAPES.get(rtype)
    if words.left and words.left[-1] == Token("\\#", False):
        words.next("")
        data = _generic(words)
        if shape is not None:
            _explained(shape, data)
    elif shape is None:
        raise BadWire(f"data of type {rtype_text(rtype)} is written in the form \\# LENGTH HEX")
    else:
        data = b"".join(field.read(words) for field in shape)
        if rtype in (SVCB, HTTPS):
            _svc_check(data)
    if words.left:
        raise BadWire(f"{rtype_text(rtype)} data goes on after its end: {words.left[-1].text[:80]!r}")
    if len(data) > _MAX_DATA:
        raise BadWire(f"{rtype_text(rtype)} data of {len(data)} octets")
    return data


def data_text(rtype: int, rdata: bytes) -> str:
    """Uncompressed data as :func:`data_wire` reads it; names end with a dot.  Never fails."""
    shape = _SHAPES.get(rtype)
    if shape is not None:
        try:
            return _explained(shape, rdata)
        except BadWire:
            pass  # not what its type promises: the generic form can say anything
    return f"\\# {len(rdata)} {rdata.hex()}".rstrip()


def txt_data(value: bytes) -> bytes:
    """TXT data for one value of any length, in as many strings as it needs; readers put them together again."""
    pieces = [value[at : at + _MAX_STRING] for at in range(0, len(value), _MAX_STRING)] or [b""]
    return b"".join(bytes((len(piece),)) + piece for piece in pieces)


class _Words:
    """The words not yet read, the next one last."""

    def __init__(self, words: list[Token], origin: bytes) -> None:
        self.left = words[::-1]
        self.origin = origin

    def next(self, what: str) -> Token:
        if not self.left:
            raise BadWire(f"data ends where {what} should stand")
        return self.left.pop()


_Read: TypeAlias = Callable[[_Words], bytes]
_Print: TypeAlias = Callable[[bytes, int], tuple[str, int]]


class _Field(NamedTuple):
    read: _Read
    print: _Print
    """The text of what stands at an offset, and where it ends; ``BadWire`` or ``IndexError`` if it is cut off."""


def _explained(shape: tuple[_Field, ...], rdata: bytes) -> str:
    words, at = [], 0
    try:
        for field in shape:
            text, at = field.print(rdata, at)
            words.append(text)
    except IndexError:
        raise BadWire("record data ends too early") from None
    if at != len(rdata):
        raise BadWire("record data of a wrong length")
    return " ".join(words).rstrip()


def _cut(rdata: bytes, at: int, size: int) -> bytes:
    piece = rdata[at : at + size]
    if len(piece) < size:
        raise BadWire("record data ends too early")
    return piece


def _rest(rdata: bytes, at: int) -> bytes:
    return _cut(rdata, at, max(1, len(rdata) - at))


def _octets(text: str) -> bytes:
    """What escaped text stands for."""
    raw = text.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(_unescaped, raw) if b"\\" in raw else raw


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return match[2]
    if (value := int(match[1])) > 255:
        raise BadWire(f"\\{value} is no octet")
    return bytes((value,))


def _escaped(octets: bytes) -> str:
    return escaped(octets, b'"\\', 0x20)


# -- fields ------------------------------------------------------------------------------------------------------------


def _number(size: int) -> _Field:
    def read(words: _Words) -> bytes:
        return _whole(words.next("a number").text, size)

    return _Field(read, lambda rdata, at: (str(int.from_bytes(_cut(rdata, at, size), "big")), at + size))


def _whole(text: str, size: int) -> bytes:
    if not _DIGITS(text) or int(text) >= 1 << 8 * size:
        raise BadWire(f"expected a number below {1 << 8 * size}, found {text[:80]!r}")
    return int(text).to_bytes(size, "big")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:[0-9]{1,10}[smhdw])+\Z").match


def seconds(text: str) -> int:
    """A TTL: a number, or with units as ``1h30m`` (RFC 2308 has none, every zone file does).  Raises ``BadWire``."""
    lower = text.lower()
    if _DIGITS(lower):
        total = int(lower)
    elif _DURATION(lower):
        total = sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall("[0-9]+[a-z]", lower))
    else:
        raise BadWire(f"expected seconds, as 3600 or 1h, found {text[:80]!r}")
    if total > 0xFFFFFFFF:
        raise BadWire(f"{text[:80]!r} is longer than a record can say")
    return total


def _address(family: int, size: int, what: str) -> _Field:
    def read(words: _Words) -> bytes:
        text = words.next(what).text
        try:
            return socket.inet_pton(family, text)
        except (OSError, ValueError):
            raise BadWire(f"expected {what}, found {text[:80]!r}") from None

    return _Field(read, lambda rdata, at: (socket.inet_ntop(family, _cut(rdata, at, size)), at + size))


def _name_end(rdata: bytes, at: int) -> int:
    start = at
    while length := rdata[at]:
        at += 1 + length
        if length > 63 or at - start > 254:
            raise BadWire("no name")
    return at + 1


def _print_name(rdata: bytes, at: int) -> tuple[str, int]:
    end = _name_end(rdata, at)
    return name_text(rdata[at:end]) + ".", end


def _read_string(words: _Words) -> bytes:
    octets = _octets(words.next("a text").text)
    if len(octets) > _MAX_STRING:
        raise BadWire(f"a text of {len(octets)} octets, 255 are the most")
    return bytes((len(octets),)) + octets


def _print_string(rdata: bytes, at: int) -> tuple[str, int]:
    size = rdata[at]
    return f'"{_escaped(_cut(rdata, at + 1, size))}"', at + 1 + size


def _read_strings(words: _Words) -> bytes:
    data = txt_data(_octets(words.next("a text").text))
    while words.left:
        data += txt_data(_octets(words.next("").text))
    return data


def _print_strings(rdata: bytes, at: int) -> tuple[str, int]:
    found: list[str] = []
    while at < len(rdata) or not found:
        text, at = _print_string(rdata, at)
        found.append(text)
    return " ".join(found), at


def _read_tag(words: _Words) -> bytes:
    tag = words.next("a property tag").text
    if not (tag.isascii() and tag.isalnum() and len(tag) < 256):
        raise BadWire(f"expected a property tag such as issue, found {tag[:80]!r}")
    return bytes((len(tag),)) + tag.encode()


def _print_tag(rdata: bytes, at: int) -> tuple[str, int]:
    tag = _cut(rdata, at + 1, rdata[at])
    if not tag.isalnum():
        raise BadWire("no property tag")
    return tag.decode(), at + 1 + len(tag)


def _read_all(words: _Words) -> bytes:
    return _octets(words.next("a text").text)


def _print_all(rdata: bytes, at: int) -> tuple[str, int]:
    return f'"{_escaped(rdata[at:])}"', len(rdata)


def _joined(words: _Words, what: str) -> str:
    first = words.next(what).text
    rest = "".join(word.text for word in reversed(words.left))
    words.left.clear()
    return first + rest


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadWire(f"expected hexadecimal digits in pairs, found {text[:80]!r}") from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeError):
        raise BadWire(f"expected base64, found {text[:80]!r}") from None


def _generic(words: _Words) -> bytes:
    size = int.from_bytes(_whole(words.next("the length of the data").text, 2), "big")
    data = _hex(_joined(words, "hexadecimal data")) if size else b""
    if len(data) != size:
        raise BadWire(f"data of {len(data)} octets where {size} are announced")
    return data


_ALGORITHMS = {"RSASHA1": 5, "RSASHA256": 8, "RSASHA512": 10, "ECDSAP256SHA256": 13, "ECDSAP384SHA384": 14,
               "ED25519": 15, "ED448": 16}  # fmt: skip


def _read_algorithm(words: _Words) -> bytes:
    text = words.next("an algorithm").text
    return _whole(str(_ALGORITHMS.get(text.upper(), text)), 1)


def _read_type(words: _Words) -> bytes:
    return rtype_number(words.next("a record type").text).to_bytes(2, "big")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_stamp(words: _Words) -> bytes:
    text = words.next("a time").text
    if len(text) != 14:
        return _whole(text, 4)
    try:
        since = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC) - _EPOCH
        return (int(since.total_seconds()) & 0xFFFFFFFF).to_bytes(4, "big")
    except ValueError:
        raise BadWire(f"expected a time as YYYYMMDDHHMMSS, found {text[:80]!r}") from None


def _print_stamp(rdata: bytes, at: int) -> tuple[str, int]:
    when = _EPOCH + timedelta(seconds=int.from_bytes(_cut(rdata, at, 4), "big"))
    return when.strftime("%Y%m%d%H%M%S"), at + 4


# -- LOC (RFC 1876): places on earth -----------------------------------------------------------------------------------

_MERIDIAN = 1 << 31
_SEA_LEVEL = 10_000_000  # centimetres
_METRES = re.compile(r"(-?[0-9]{1,8})(?:\.([0-9]{1,2}))?m?\Z").match
_SIZES = ("1m", "10000m", "10m")


def _read_loc(words: _Words) -> bytes:
    latitude = _read_angle(words, "N", "S", 90)
    longitude = _read_angle(words, "E", "W", 180)
    altitude = _centimetres(words.next("an altitude").text, -_SEA_LEVEL) + _SEA_LEVEL
    if altitude > 0xFFFFFFFF:
        raise BadWire("an altitude above all there is to say")
    sizes = bytes(_power(_centimetres(words.left.pop().text if words.left else usual, 0)) for usual in _SIZES)
    return b"\0" + sizes + b"".join(value.to_bytes(4, "big") for value in (latitude, longitude, altitude))


def _read_angle(words: _Words, positive: str, negative: str, limit: int) -> int:
    parts: list[str] = []
    while (word := words.next(f"{positive} or {negative}").text.upper()) not in (positive, negative):
        parts.append(word)
    seconds_text, _, fraction = (parts[2] if len(parts) == 3 else "0").partition(".")
    digits = [*parts[:2], *["0"] * (2 - len(parts)), seconds_text, fraction.ljust(3, "0")]
    if not 1 <= len(parts) <= 3 or len(digits) != 4 or not all(map(_DIGITS, digits)) or len(fraction) > 3:
        raise BadWire(f"expected degrees, minutes and seconds, found {' '.join(parts)[:80]!r}")
    degrees, minutes, whole, thousandths = map(int, digits)
    value = ((degrees * 60 + minutes) * 60 + whole) * 1000 + thousandths
    if minutes > 59 or whole > 59 or value > limit * 3_600_000:
        raise BadWire(f"no such place: {' '.join(parts)[:80]!r} {word}")
    return _MERIDIAN + value if word == positive else _MERIDIAN - value


def _centimetres(text: str, lowest: int) -> int:
    match = _METRES(text)
    if match is None:
        raise BadWire(f"expected metres, found {text[:80]!r}")
    value = abs(int(match[1])) * 100 + int((match[2] or "").ljust(2, "0"))
    value = -value if text.startswith("-") else value
    if value < lowest:
        raise BadWire(f"{text[:80]!r} is too low")
    return value


def _power(value: int) -> int:
    """One digit and a power of ten, as RFC 1876 packs sizes; further digits are cut off."""
    exponent = max(0, len(str(value)) - 1)
    if exponent > 9:
        raise BadWire("a size above 90000 km")
    digit: int = value // 10**exponent
    return digit << 4 | exponent


def _print_loc(rdata: bytes, at: int) -> tuple[str, int]:
    body = _cut(rdata, at, 16)
    sizes = [(octet >> 4, octet & 15) for octet in body[1:4]]
    if body[0] or any(digit > 9 or exponent > (9 if digit else 0) for digit, exponent in sizes):
        raise BadWire("no place of version 0")
    latitude, longitude, altitude = (int.from_bytes(body[start : start + 4], "big") for start in (4, 8, 12))
    metres = [altitude - _SEA_LEVEL, *(digit * 10**exponent for digit, exponent in sizes)]
    words = [_print_angle(latitude, "NS", 90), _print_angle(longitude, "EW", 180)]
    words += [f"{'-' if value < 0 else ''}{abs(value) // 100}.{abs(value) % 100:02d}m" for value in metres]
    return " ".join(words), at + 16


def _print_angle(packed: int, halves: str, limit: int) -> str:
    value = packed - _MERIDIAN
    if abs(value) > limit * 3_600_000:
        raise BadWire("no place on earth")
    rest, thousandths = divmod(abs(value), 1000)
    minutes, whole = divmod(rest, 60)
    return f"{minutes // 60} {minutes % 60} {whole}.{thousandths:03d} {halves[value < 0]}"


# -- SVCB and HTTPS (RFC 9460, RFC 9461): parameters of a service ------------------------------------------------------

_KEYS = {0: "mandatory", 1: "alpn", 2: "no-default-alpn", 3: "port", 4: "ipv4hint", 5: "ech", 6: "ipv6hint",
         7: "dohpath"}  # fmt: skip
_KEY_NUMBERS = {text: number for number, text in _KEYS.items()}
_MANDATORY, _ALPN, _NO_DEFAULT_ALPN, _PORT, _HINT4, _ECH, _HINT6, _DOHPATH = range(8)
_LIST_ITEM = re.compile(rb"((?:[^,\\]|\\[,\\])+)(?:,|\Z)")


def _key_number(text: str) -> int:
    if text in _KEY_NUMBERS:
        return _KEY_NUMBERS[text]
    digits = text.removeprefix("key")
    # RFC 9460 section 2.1: one spelling only, so no zeros in front; 65535 is nobody's.
    if digits == text or not _DIGITS(digits) or digits != str(int(digits)) or int(digits) > 0xFFFE:
        raise BadWire(f"no service parameter: {text[:80]!r}")
    return int(digits)


def _read_params(words: _Words) -> bytes:
    found: dict[int, bytes] = {}
    while words.left:
        name, equals, value = words.next("").text.partition("=")
        key = _key_number(name)
        if key in found:
            raise BadWire(f"{name} stands twice")
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        found[key] = _param_wire(key, name, _octets(value), bool(equals))
    return b"".join(
        key.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for key, value in sorted(found.items())
    )


def _param_wire(key: int, name: str, value: bytes, equals: bool) -> bytes:
    if key == _NO_DEFAULT_ALPN:
        if value:
            raise BadWire(f"{name} takes no value")
        return b""
    if key > _DOHPATH:
        return value
    if not equals or not value:
        raise BadWire(f"{name} needs a value")
    if key == _ALPN:
        return b"".join(_alpn_wire(item) for item in _listed(value))
    if key == _DOHPATH:
        return value
    try:
        text = value.decode("ascii")
    except UnicodeError:
        raise BadWire(f"no value of {name}: {value[:80]!r}") from None
    if key == _MANDATORY:
        keys = sorted({_key_number(item) for item in text.split(",")})
        if len(keys) != text.count(",") + 1:
            raise BadWire("mandatory names a parameter twice")
        return b"".join(number.to_bytes(2, "big") for number in keys)
    if key == _PORT:
        return _whole(text, 2)
    if key == _ECH:
        return _base64(text)
    family = socket.AF_INET if key == _HINT4 else socket.AF_INET6
    try:
        return b"".join(socket.inet_pton(family, item) for item in text.split(","))
    except (OSError, ValueError):
        raise BadWire(f"expected addresses after {name}, found {text[:80]!r}") from None


def _alpn_wire(item: bytes) -> bytes:
    if not 1 <= len(item) <= 255:
        raise BadWire(f"no protocol: {item[:80]!r}")
    return bytes((len(item),)) + item


def _listed(value: bytes) -> Iterable[bytes]:
    """A comma list in which a backslash keeps a comma (RFC 9460 appendix A.1)."""
    at = 0
    while at < len(value) or value[at - 1 :] == b",":
        match = _LIST_ITEM.match(value, at)
        if match is None:
            raise BadWire(f"no list of protocols: {value[:80]!r}")
        yield match[1].replace(b"\\,", b",").replace(b"\\\\", b"\\")
        at = match.end()


def _params(rdata: bytes, at: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while at < len(rdata):
        key, size = int.from_bytes(_cut(rdata, at, 2), "big"), int.from_bytes(_cut(rdata, at + 2, 2), "big")
        if found and key <= found[-1][0]:
            raise BadWire("service parameters are out of order")
        found.append((key, _cut(rdata, at + 4, size)))
        at += 4 + size
    return found


def _svc_check(rdata: bytes) -> None:
    """What one parameter demands of the others (RFC 9460 sections 7.1.1 and 8)."""
    present = dict(_params(rdata, _name_end(rdata, 2)))
    needed = _numbers16(present.get(_MANDATORY, b""))
    if _MANDATORY in needed or not present.keys() >= set(needed):
        raise BadWire("mandatory names itself or a parameter that is not there")
    if _NO_DEFAULT_ALPN in present and _ALPN not in present:
        raise BadWire("no-default-alpn needs alpn beside it")


def _numbers16(value: bytes) -> list[int]:
    if len(value) % 2:
        raise BadWire("half a number")
    return [int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value), 2)]


def _print_params(rdata: bytes, at: int) -> tuple[str, int]:
    _svc_check(rdata)
    return " ".join(_param_text(key, value) for key, value in _params(rdata, at)), len(rdata)


def _param_text(key: int, value: bytes) -> str:
    name = _KEYS.get(key, f"key{key}")
    if key == 0xFFFF:
        raise BadWire("a service parameter that is nobody's")
    if key == _NO_DEFAULT_ALPN:
        if value:
            raise BadWire("no-default-alpn with a value")
        return name
    if key > _DOHPATH:
        return f'{name}="{_escaped(value)}"' if value else name
    if not value:
        raise BadWire(f"{name} without a value")
    if key == _MANDATORY:
        numbers = _numbers16(value)
        if numbers != sorted(set(numbers)):
            raise BadWire("mandatory parameters are out of order")
        return f"{name}={','.join(_KEYS.get(number, f'key{number}') for number in numbers)}"
    if key == _PORT:
        (port,) = _numbers16(_cut(value, 0, 2) if len(value) == 2 else b"\0")
        return f"{name}={port}"
    if key == _ECH:
        return f'{name}="{base64.b64encode(value).decode()}"'
    if key == _DOHPATH:
        return f'{name}="{_escaped(value)}"'
    if key == _ALPN:
        return f'{name}="{",".join(_alpn_texts(value))}"'
    family, size = (socket.AF_INET, 4) if key == _HINT4 else (socket.AF_INET6, 16)
    hints = [socket.inet_ntop(family, _cut(value, start, size)) for start in range(0, len(value), size)]
    return f"{name}={','.join(hints)}"


def _alpn_texts(value: bytes) -> Iterable[str]:
    at = 0
    while at < len(value):
        item = _cut(value, at + 1, value[at])
        if not item:
            raise BadWire("an empty protocol")
        yield _escaped(item.replace(b"\\", b"\\\\").replace(b",", b"\\,"))
        at += 1 + len(item)


# -- types -------------------------------------------------------------------------------------------------------------

_U8, _U16, _U32 = _number(1), _number(2), _number(4)
_V4, _V6 = _address(socket.AF_INET, 4, "an IPv4 address"), _address(socket.AF_INET6, 16, "an IPv6 address")
_NAME = _Field(lambda words: absolute_name(words.next("a name").text, words.origin), _print_name)
_STRING = _Field(_read_string, _print_string)
_TIME = _Field(lambda words: seconds(words.next("a time").text).to_bytes(4, "big"), _U32.print)
_STAMP = _Field(_read_stamp, _print_stamp)
_ALGORITHM = _Field(_read_algorithm, _U8.print)
_TYPE = _Field(_read_type, lambda rdata, at: (rtype_text(int.from_bytes(_cut(rdata, at, 2), "big")), at + 2))
_HEX = _Field(
    lambda words: _hex(_joined(words, "hexadecimal data")),
    lambda rdata, at: (_rest(rdata, at).hex(), len(rdata)),
)
_BASE64 = _Field(
    lambda words: _base64(_joined(words, "base64 data")),
    lambda rdata, at: (base64.b64encode(_rest(rdata, at)).decode(), len(rdata)),
)
_STRINGS = (_Field(_read_strings, _print_strings),)
_DIGEST = (_U16, _ALGORITHM, _U8, _HEX)
_KEY = (_U16, _U8, _ALGORITHM, _BASE64)
_CERTIFICATE = (_U8, _U8, _U8, _HEX)
_SERVICE = (_U16, _NAME, _Field(_read_params, _print_params))

_SHAPES: dict[int, tuple[_Field, ...]] = {
    1: (_V4,),
    2: (_NAME,),
    5: (_NAME,),
    6: (_NAME, _NAME, _U32, _TIME, _TIME, _TIME, _TIME),
    12: (_NAME,),
    HINFO: (_STRING, _STRING),
    15: (_U16, _NAME),
    16: _STRINGS,
    17: (_NAME, _NAME),
    18: (_U16, _NAME),
    28: (_V6,),
    LOC: (_Field(_read_loc, _print_loc),),
    33: (_U16, _U16, _U16, _NAME),
    NAPTR: (_U16, _U16, _STRING, _STRING, _STRING, _NAME),
    36: (_U16, _NAME),
    DNAME: (_NAME,),
    DS: _DIGEST,
    SSHFP: (_U8, _U8, _HEX),
    46: (_TYPE, _ALGORITHM, _U8, _U32, _STAMP, _STAMP, _U16, _NAME, _BASE64),
    48: _KEY,
    TLSA: _CERTIFICATE,
    53: _CERTIFICATE,
    59: _DIGEST,
    60: _KEY,
    61: (_BASE64,),
    SVCB: _SERVICE,
    HTTPS: _SERVICE,
    99: _STRINGS,
    URI: (_U16, _U16, _Field(_read_all, _print_all)),
    CAA: (_U8, _Field(_read_tag, _print_tag), _Field(_read_all, _print_all)),
}

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_gateway.sniff import MORE, NOT_IT, Sniffed, sniff_tls
from cyfs_gateway.sniff.tls import MAX_HELLO


def real_hello(host: str | None, alpn: list[str] | None = None) -> bytes:
    """What Python's own TLS sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(message: bytes, size: int) -> bytes:
    parts = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def hello_of(extensions: bytes, *, sized: bool = True) -> bytes:
    """A minimal ClientHello as one handshake message."""
    body = b"\x03\x03" + b"r" * 32 + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    if sized:
        body += len(extensions).to_bytes(2, "big") + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def server_name(host: bytes) -> bytes:
    entry = b"\0" + len(host).to_bytes(2, "big") + host
    return extension(0, len(entry).to_bytes(2, "big") + entry)


HELLO = real_hello("WWW.Example.com", ["h2", "http/1.1"])


@pytest.mark.parametrize("size", [16_384, 100, 40, 3000])
def test_a_real_hello_is_read_however_it_is_split(size: int) -> None:
    wire = in_records(HELLO[5:], size)
    found = Sniffed("tls", "www.example.com", ("h2", "http/1.1"))
    assert sniff_tls(wire) == found
    assert sniff_tls(wire + b"\x14\x03\x03\x00\x01\x01") == found
    assert all(sniff_tls(wire[:length]) is MORE for length in range(len(wire)))


def test_no_name_is_an_empty_host() -> None:
    assert sniff_tls(real_hello(None)) == Sniffed("tls", "")
    assert sniff_tls(in_records(hello_of(b"", sized=False), 16_384)) == Sniffed("tls", "")


@pytest.mark.parametrize(
    ("written", "host"),
    [
        (b"a.example", "a.example"),
        (b"A_b.Example.", "a_b.example"),
        (b"10.0.0.1", ""),
        (b"::1", ""),
        (b"Mijia Cloud", ""),
        (b"a\0.example", ""),
        (b"", ""),
        (b"a" * 300, ""),
    ],
)
def test_only_real_names_are_reported(written: bytes, host: str) -> None:
    assert sniff_tls(in_records(hello_of(server_name(written)), 16_384)) == Sniffed("tls", host)


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x17\x03\x03\x00\x10",
        b"\x16\x02\x00\x00\x10",
        b"\x16\x03\x05",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x10\x02",
        b"\x16\x03\x01\x00\x10\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x01\x01\x17",
    ],
)
def test_what_is_not_tls_is_told_at_once(wire: bytes) -> None:
    assert sniff_tls(wire) is NOT_IT


@pytest.mark.parametrize(
    "message",
    [
        hello_of(b"\0\0\xff\xff"),
        hello_of(b"\0"),
        b"\x01\0\0\x02\x03\x03",
        b"\x01\0\0\x00",
    ],
)
def test_a_broken_hello_is_not_it(message: bytes) -> None:
    assert sniff_tls(in_records(message, 16_384)) is NOT_IT


def test_a_crumbled_hello_is_given_up() -> None:
    assert sniff_tls(in_records(HELLO[5:], 2)) is NOT_IT
    assert sniff_tls(b"\x16\x03\x01\x40\x00\x01" + (MAX_HELLO + 1).to_bytes(3, "big")) is NOT_IT


def spoilt(wire: bytes, spots: dict[int, int]) -> bytes:
    changed = bytearray(wire)
    for at, value in spots.items():
        changed[at % len(wire)] = value
    return bytes(changed)


mutated = st.builds(
    spoilt,
    st.sampled_from([HELLO, in_records(HELLO[5:], 60), in_records(hello_of(server_name(b"a.example")), 9)]),
    st.dictionaries(st.integers(0, 2000), st.integers(0, 255), max_size=4),
)


@given(mutated | st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x16\x03\x01\0\x40\x01\0" + tail))
def test_an_answer_and_no_second_thoughts(wire: bytes) -> None:
    final = sniff_tls(wire)
    settled = False
    for length in range(0, len(wire) + 1, 7):
        found = sniff_tls(wire[:length])
        assert not settled or found == final
        settled = settled or found is not MORE
    if isinstance(final, Sniffed):
        assert len(final.host) < 255

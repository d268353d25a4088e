"""Provider files: what each format says, what is left out, and that hostile bytes give a set or BadWire, quickly."""

from __future__ import annotations

import gzip
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_gateway.rules.formats import inline_rule_set, parse_rule_set
from cyfs_gateway.rules.sets import Behavior, RuleSet
from cyfs_ns.address import parse_address, parse_prefix
from cyfs_ns.errors import BadWire
from cyfs_ns.sets import SuccinctTrie
from tests.cyfs_gateway.rules.mrs_writer import cidr_mrs, domain_mrs, pack

BEHAVIORS: list[Behavior] = ["domain", "ipcidr", "classical"]


def has(found: RuleSet, name: str) -> bool:
    if found.domains is not None:
        return found.domains.match(name)
    address = parse_address(name)
    assert found.cidrs is not None
    assert address is not None
    return found.cidrs.has(address)


def test_text_has_comments_blank_lines_a_bom_and_windows_line_ends():
    data = b"\xef\xbb\xbf# names\r\n+.Example.com\r\n\r\n// more\r\n  b.example  \r\n"
    found = parse_rule_set(data, "domain", "text")
    assert found.count == 2
    assert has(found, "www.example.com") and has(found, "b.example")
    assert not has(found, "c.b.example")


def test_names_beyond_ascii_become_a_labels():
    found = parse_rule_set("+.bücher.example\n*.中国".encode(), "domain", "text")
    assert has(found, "a.xn--bcher-kva.example") and has(found, "x.xn--fiqs8s")


def test_addresses_are_prefixes_or_bare_and_overlap_freely():
    found = parse_rule_set(b"10.0.0.0/8\n10.1.0.0/16\n9.255.255.255\n2001:db8::/32\n::1\n", "ipcidr", "text")
    assert found.count == 5
    assert all(has(found, ip) for ip in ("9.255.255.255", "10.0.0.0", "10.255.255.255", "2001:db8:f::1", "::1"))
    assert not any(has(found, ip) for ip in ("9.255.255.254", "11.0.0.0", "2001:db9::", "::2"))


def test_classical_lines_are_conditions_without_an_outbound():
    found = parse_rule_set(b"DOMAIN-SUFFIX,a.b\nIP-CIDR,10.0.0.0/8,no-resolve\nMATCH\n", "classical", "text")
    assert [str(rule) for rule in found.rules] == ["DOMAIN-SUFFIX,a.b", "IP-CIDR,10.0.0.0/8,no-resolve"]
    assert len(found.faults) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"payload:\n  - '+.a.example'\n  - \"b.example\"\n  # c\n  - c.example # d\n",
        b"# list\n\npayload: # x\n- +.a.example\n- b.example\n- c.example",
        b"name: x\nrules:\n  - +.a.example\n  - b.example\n  - c.example\n",
        b"payload: [+.a.example, 'b.example',\n c.example]\nother: {deep: [1, {x: y}]}\n",
        b"---\r\npayload:\r\n  - '+.a.example'\r\n  - b.example\r\n  - 'c.example'\r\n",
        b"payload:\n  - >-\n    +.a.example\n  - b.example\n  - !!str c.example\n",
    ],
)
def test_yaml_lists_in_all_their_shapes(data):
    found = parse_rule_set(data, "domain", "yaml")
    assert found.count == 3
    assert has(found, "x.a.example") and has(found, "b.example") and has(found, "c.example")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"payload:\n",
        b"payload: text\n",
        b"- a.example\n",
        b"payload:\n  - [a.example]\n",
        b"payload:\n  - {a: b}\n",
        b"payload:\n  - &x a.example\n  - *x\n",
        b"payload:\n  - 'a.example\n",
        b"other:\n  - a.example\n",
        b"payload:\n  - a\xff\n",
        b"payload:\n  - a\x00b\n",
        b"payload: " + b"[" * 100_000,
    ],
)
def test_yaml_that_is_no_list_of_strings_is_refused(data):
    with pytest.raises(BadWire):
        parse_rule_set(data, "domain", "yaml")


def test_an_alias_bomb_is_refused_at_its_first_alias():
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)), "payload: *a59"]
    with pytest.raises(BadWire, match="aliases"):
        parse_rule_set("\n".join(lines).encode(), "domain", "yaml")


def test_one_bad_line_does_not_cost_the_list_but_only_bad_lines_do():
    found = parse_rule_set(b"a.example\nhttp://b.example/\nc..d\n", "domain", "text")
    assert found.count == 1
    assert len(found.faults) == 2
    for data in (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", gzip.compress(b"a.example\n" * 99)):
        with pytest.raises(BadWire):
            parse_rule_set(data, "domain", "text")


def test_faults_are_few_and_short_however_long_the_list():
    found = parse_rule_set(b"a.example\n" + b"/" * 5000 + b"\n/\n" * 5000, "domain", "text")
    assert len(found.faults) < 20
    assert max(map(len, found.faults)) < 300


def test_a_file_over_the_limit_is_not_read():
    with pytest.raises(BadWire, match="over the limit"):
        parse_rule_set(b"a.example\n" * 100, "domain", "text", max_bytes=999)


def test_inline_lists_are_read_like_files():
    assert inline_rule_set([], "domain").count == 0
    assert inline_rule_set(["a.example", "b.example"], "domain").count == 2
    with pytest.raises(BadWire):
        inline_rule_set(["/"], "domain")


# mrs


def test_mrs_holds_names():
    found = parse_rule_set(
        domain_mrs(["+.google.com", "*.x.example", ".below.example", "exact.example"]), "domain", "mrs"
    )
    assert found.count == 4
    for host in ("google.com", "a.b.google.com", "1.x.example", "y.below.example", "exact.example"):
        assert has(found, host)
    for host in ("oogle.com", "1.2.x.example", "x.example", "below.example", "a.exact.example", "com", "", "."):
        assert not has(found, host)


def test_mrs_holds_addresses_of_both_families():
    prefixes = [prefix for text in ("10.0.0.0/8", "2001:db8::/32") if (prefix := parse_prefix(text)) is not None]
    found = parse_rule_set(cidr_mrs(prefixes), "ipcidr", "mrs")
    assert found.count == 2
    assert has(found, "10.1.2.3") and has(found, "2001:db8::5") and has(found, "::ffff:10.0.0.1")
    assert not has(found, "11.0.0.0") and not has(found, "2001:db9::")


def raw(behavior: int, *lengths_and_bytes: int | bytes, version: bytes = b"\x01", count: int = 1) -> bytes:
    body = b"".join(struct.pack(">q", part) if isinstance(part, int) else part for part in lengths_and_bytes)
    return pack(behavior, count, version + body)


HUGE = 1 << 62


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MRS\x01",
        zstandard.ZstdCompressor().compress(b"MRS\x02" + bytes(40)),
        zstandard.ZstdCompressor().compress(b"MRS\x01\x00" + struct.pack(">qq", 1, HUGE)),
        zstandard.ZstdCompressor().compress(b"MRS\x01\x00" + struct.pack(">qq", 1, -1)),
        zstandard.ZstdCompressor().compress(b"MRS\x01\x00" + struct.pack(">qq", -1, 0) + bytes(99)),
        raw(1, 1, bytes(32)),  # not of the behaviour asked for
        raw(2, 1, bytes(32)),
        raw(0, 0, version=b"\x02"),
        raw(0, HUGE, bytes(8)),
        raw(0, -8, bytes(8)),
        raw(0, 1, bytes(8), HUGE, bytes(8)),
        raw(0, 1, bytes(8), 1, bytes(8), HUGE, b"x"),
        raw(0, 1, bytes(8), 1, bytes(8), 1, b"x"),  # labels without nodes
        raw(0, 1, bytes(8), 1, b"\xff" * 8, 1, b"x"),  # nodes without labels
        domain_mrs(["a.b"])[:-3],
        raw(0, 1, bytes(8), 2, bytes(15) + b"\x06" + bytes(8), 1, b"x", b"more"),
    ],
)
def test_an_mrs_file_that_does_not_add_up_is_refused(data):
    with pytest.raises(BadWire):
        parse_rule_set(data, "domain", "mrs")


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">q", HUGE),
        struct.pack(">q", 1) + bytes(31),
        struct.pack(">q", 1) + b"\x01" + bytes(31),  # upside down
        struct.pack(">q", 1) + bytes(10) + b"\xff\xff" + bytes(4) + b"\xff" * 16,  # from one family into the other
    ],
)
def test_mrs_address_ranges_that_do_not_add_up_are_refused(body):
    with pytest.raises(BadWire):
        parse_rule_set(pack(1, 1, b"\x01" + body), "ipcidr", "mrs")


def test_mrs_holds_no_classical_rules():
    with pytest.raises(BadWire):
        parse_rule_set(domain_mrs(["a.b"]), "classical", "mrs")


def test_a_zstd_bomb_is_stopped_at_the_limit():
    bomb = zstandard.ZstdCompressor(level=19).compress(b"MRS\x01\x00" + bytes(200_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(BadWire, match="more than 1000000 bytes"):
        parse_rule_set(bomb, "domain", "mrs", max_bytes=1_000_000)
    with pytest.raises(BadWire, match="more than"):  # many small frames are one bomb too
        parse_rule_set(zstandard.compress(bytes(100_000)) * 50, "domain", "mrs", max_bytes=1_000_000)


def test_a_zstd_window_beyond_reason_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(BadWire, match="zstd"):
        parse_rule_set(wide.compress(bytes(1000)) + wide.flush(), "domain", "mrs")


# anything at all


def outcome(data: bytes, behavior: Behavior, format: str) -> RuleSet | None:
    try:
        return parse_rule_set(data, behavior, format, max_bytes=1 << 20)  # type: ignore[arg-type]
    except BadWire:
        return None


FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"payload:", b"\n", b"\n  - ", b"\n- ", b"'", b'"', b"+.a.b", b"*.c", b"10.0.0.0/8", b"DOMAIN,a.b"),
                *(
                    b"#",
                    b"//",
                    b"&x ",
                    b"*x",
                    b"[",
                    b"]",
                    b"{",
                    b": ",
                    b"::1/128",
                    b"AND,((",
                    b"))",
                    b"---\n",
                    b"\t",
                    b"\r",
                ),
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=24,
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(FRAGMENTS, FRAGMENTS.map(b"payload:\n  - ".__add__), st.binary(max_size=200)), st.sampled_from(BEHAVIORS)
)
def test_any_text_or_yaml_is_a_set_or_bad_wire(data, behavior):
    for format in ("text", "yaml"):
        found = outcome(data, behavior, format)
        if found is not None and found.behavior == "domain":
            has(found, "a.b")


ITEMS = st.lists(
    st.one_of(
        st.sampled_from(
            ["+.a.b", "a.b", "1.2", "null", "true", "1:30", "a:b", "2001:db8::", "x#y", "~", "DOMAIN,a.b", "0x1"]
        ),
        st.text(alphabet="ab.:+*-#, '", min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(ITEMS, st.sampled_from(["'", '"', ""]))
def test_the_quick_yaml_reader_reads_what_the_full_one_does(items, quote):
    body = "".join(f"  - {quote}{item}{quote}\n" for item in items)
    quick, full = (
        outcome(head + body.encode(), "classical", "yaml") for head in (b"payload:\n", b"? other\n: x\n? payload\n:\n")
    )
    assert (quick is None) == (full is None)
    if quick is not None and full is not None:
        assert (quick.rules, quick.faults) == (full.rules, full.faults)


GOOD = [domain_mrs(["+.google.com", "*.x.example", "exact.example"]), cidr_mrs([parse_prefix("10.0.0.0/8")])]  # type: ignore[list-item]
BODIES = [zstandard.decompress(good, max_output_size=1 << 16) if good else b"" for good in GOOD]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(BODIES), st.data())
def test_a_damaged_mrs_file_is_a_set_or_bad_wire(body, data):
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for content in (bytes(damaged), bytes(damaged[:cut]), bytes(damaged) + b"x"):
        for behavior in BEHAVIORS[:2]:
            found = outcome(zstandard.compress(content), behavior, "mrs")
            if found is not None:
                has(found, "www.google.com" if behavior == "domain" else "10.0.0.1")
                if behavior == "domain":
                    has(found, "a." * 60 + "example")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 60))
def test_any_bytes_as_mrs_are_a_set_or_bad_wire(data, at):
    for content in (data, zstandard.compress(data), GOOD[0][:at] + data):
        assert outcome(content, "domain", "mrs") is None or content.startswith(GOOD[0])


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=8, max_size=32), st.binary(max_size=40), st.text(alphabet="a.*+b", max_size=60))
def test_any_three_pieces_are_a_trie_that_answers_or_bad_wire(bits, labels, host):
    bits = bits[: len(bits) // 8 * 8]
    try:
        trie = SuccinctTrie(bits, bits, labels, 1)
    except BadWire:
        return
    assert trie.match(host) in (True, False)

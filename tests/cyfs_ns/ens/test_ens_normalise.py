"""Names in their one spelling: the published vectors of ENSIP-15, another implementation, and what it costs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import ens_normalize
import pytest
from enschain import PLACE
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.ens.namehash import dns_encoded, from_dns, keccak, namehash, to_dns
from cyfs_ns.ens.nfc import compose, decompose
from cyfs_ns.ens.normalise import MAX_NAME, normalise
from cyfs_ns.ens.tables import spec_version, tables
from cyfs_ns.errors import BadWire

VECTORS = PLACE / "ensip15-8.0.0.json"


def ours(name: str) -> str | None:
    try:
        return normalise(name).name
    except BadWire:
        return None


def theirs(name: str) -> str | None:
    try:
        normal: str = ens_normalize.ens_normalize(name)
        return normal
    except ens_normalize.DisallowedSequence:
        return None


def test_it_agrees_with_every_published_vector() -> None:
    if not VECTORS.exists():
        pytest.skip("tools/install-chain fetches the vectors of ENSIP-15")
    head, *vectors = json.loads(VECTORS.read_text())
    assert spec_version() == f"ENSIP-15 of {head['derived'][:10]}, Unicode {head['unicode'].split()[0]}"
    assert len(vectors) > 38_000
    wrong = [
        (vector["name"], ours(vector["name"]))
        for vector in vectors
        if ours(vector["name"]) != (None if vector.get("error") else vector.get("norm", vector["name"]))
    ]
    assert wrong == []


# Characters near the trouble: letters with look-alikes, marks, emoji and their parts, punctuation, digits of all kinds.
PARTS = st.one_of(
    st.sampled_from([chr(point) for point in range(0x20, 0x7F)]),
    st.sampled_from(sorted(tables().looks_like)),
    st.sampled_from(sorted(tables().mapped)),
    st.sampled_from(
        ["\ufe0f", "\u200d", "\u200c", "\u20e3", "\u0301", "\u0323", "\u0345", "\u2019", "\u30fb", "\u2044"]
    ),
    st.sampled_from(["👩", "🏽", "💻", "🇫", "🇷", "❤️", "#️⃣", "👨‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☺", "1️⃣"]),
    st.sampled_from(["а", "о", "р", "с", "α", "ο", "é", "ö", "가", "ᄀ", "ᅡ", "ᆨ", "中", "あ", "ア", "ا", "א", "ก", "क"]),
    st.characters(),
)


@given(st.lists(PARTS, max_size=8).map("".join))
@settings(max_examples=200, deadline=None)
def test_it_agrees_with_another_implementation(name: str) -> None:
    assert ours(name) == theirs(name)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_normal_name_or_the_one_error_and_normal_names_stay(name: str) -> None:
    normal = ours(name)
    if normal is not None:
        assert ours(normal) == normal
        assert from_dns(to_dns(normal)).name == normal if "" not in normal.split(".") else True


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_canonical_forms_come_to_rest(text: str) -> None:
    rules = tables()
    assert compose(decompose(text, rules), rules) == compose(text, rules)
    assert decompose(compose(text, rules), rules) == decompose(text, rules)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a..eth", "it is empty"),
        ("\u00ad.eth", "nothing is left of it"),
        ("ab_c.eth", "an underscore may only stand at the beginning"),
        ("ab--c.eth", "its third and fourth characters are hyphens"),
        ("a b.eth", "U+0020"),
        ("g\u043eogle.eth", "it mixes scripts"),
        ("\u0430\u0440\u0440\u0435.eth", "looks like Latin"),
        ("\u0301a.eth", "leads"),
        ("💩\u0301.eth", "follows an emoji"),
        ("\u2019a.eth", "may not stand at an end"),
        ("a\u2019\u2019b.eth", "may not stand together"),
        ("\u05d0\u05b0\u05b0.eth", "stands twice"),
        ("\u05d0\u05b0\u05b1\u05b2\u05b3\u05b4.eth", "more than 4 marks"),
        ("x" * (MAX_NAME + 1), "characters"),
    ],
)
def test_a_refusal_names_the_rule(name: str, rule: str) -> None:
    with pytest.raises(BadWire, match=rule.replace("+", r"\+")):
        normalise(name)


def test_what_could_be_read_as_something_else_comes_with_warnings() -> None:
    assert normalise("vitalik.eth").warnings == ()
    assert normalise("Ваня.eth").warnings == ("'а' (U+0430) looks like 'a' (U+0061)",)
    (restricted,) = normalise("\u13e3\u13b3.eth").warnings[-1:]
    assert "not in everyday use" in restricted
    assert any("different scripts" in warning for warning in normalise("δοκ.ваня.eth").warnings)


def spelt(label: str) -> str:
    return "xn--" + label.encode("punycode").decode()


def test_dns_asks_in_one_spelling_only() -> None:
    assert from_dns(f"{spelt('ваня')}.eth.").name == "ваня.eth"
    assert from_dns("VITALIK.eth").name == "vitalik.eth"
    assert from_dns(f"{spelt('💻')}.eth").name == "💻.eth"
    assert to_dns("ваня.eth") == f"{spelt('ваня')}.eth"
    for asked, why in [
        ("xn--!.eth", "is no Punycode"),
        ("xn--99999999.eth", "is no Punycode"),
        ("xn--vitalik-.eth", "ASCII as Punycode"),
        (f"{spelt('Ваня')}.eth", "another spelling"),
        (f"{spelt('gооgle')}.eth", "mixes scripts"),
        (f"{spelt('a２')}.eth", "another spelling"),
        (f"{spelt('❤️')}.eth", "another spelling"),
        ("ваня.eth", "not a name as DNS asks for it"),
        ("a\u3002eth", "not a name as DNS asks for it"),
    ]:
        with pytest.raises(BadWire, match=why):
            from_dns(asked)


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", max_size=40).map(lambda tail: "xn--" + tail))
@settings(max_examples=200, deadline=None)
def test_any_question_is_a_name_or_the_one_error(asked: str) -> None:
    try:
        name = from_dns(asked).name
    except BadWire:
        return
    assert to_dns(name) == asked.rstrip(".")


def test_nodes_are_the_published_ones() -> None:
    # ENSIP-1's own examples.
    assert namehash("") == bytes(32)
    assert namehash("eth").hex() == "93cdeb708b7545dc668eb9280176169d1c33cfd8ed6f04690a0bcc88a93fc4ae"
    assert namehash("foo.eth").hex() == "de9b09fd7c5f901e23a3f19fecc54828e9c848539801e86591bd9801b019f84f"
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert dns_encoded("a.eth") == b"\x01a\x03eth\0"
    assert dns_encoded("a" * 255 + ".eth")[:1] == b"\xff"
    assert dns_encoded("") == b"\0"
    with pytest.raises(BadWire, match="256 octets"):
        dns_encoded("a" * 256)


MEASURE = """
import json, sys
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
from cyfs_ns.ens.normalise import normalise
normalise("vitalik.eth")
assert "cyfs_ns.ens.tables" in sys.modules
before = resident()
from cyfs_ns.ens.tables import tables
ascii_only = tables.cache_info().currsize
for name in json.load(sys.stdin):
    try:
        normalise(name)
    except Exception:
        pass
print(resident() - before, ascii_only)
"""


def test_it_takes_less_than_8_mb_and_nothing_for_ascii() -> None:
    names = [
        "ваня.eth",
        "👨‍👩‍👧nick.eth",
        "中文.eth",
        "가나다.eth",
        *(chr(point) + "x" for point in range(0xA0, 0x3000, 7)),
    ]
    grown, loaded = subprocess.run(
        [sys.executable, "-c", MEASURE], input=json.dumps(names), capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(loaded) == 0
    assert int(grown) <= 8 << 20


def test_the_tables_are_what_the_tool_makes_of_the_published_specification() -> None:
    tool = PLACE.parent / "tools" / "make-ens-tables"
    module = ModuleType("make_ens_tables")
    module.__file__ = str(tool)
    exec(compile(tool.read_text(), tool, "exec"), module.__dict__)  # noqa: S102 - a program of ours without a .py
    specification = Path(importlib.util.find_spec("ens").submodule_search_locations[0]) / "specs"
    spec = json.loads((specification / "normalization_spec.json").read_text())
    if spec["created"][:10] not in spec_version():
        pytest.skip("another edition of the specification is installed")
    forms = json.loads((specification / "nf.json").read_text())
    kept = (PLACE.parent / "cyfs_ns" / "ens" / "ensip15.bin").read_bytes()
    assert zlib.decompress(kept.partition(b"\n")[2]) == module.pack(spec, forms)

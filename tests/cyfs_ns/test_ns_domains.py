from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.domains import DomainMap, canonical
from cyfs_ns.errors import ConfigFault


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("a.example", ["a.example"], ["example", "b.a.example", "xa.example"]),
        ("*.example", ["a.example"], ["example", "b.a.example"]),
        (".example", ["a.example", "b.a.example"], ["example", "xexample"]),
        ("+.example", ["example", "a.example", "b.a.example"], ["xexample", "example.com"]),
        ("a.*.example", ["a.b.example"], ["a.example", "b.b.example", "a.b.c.example"]),
        ("+.BÜCHER.example", ["a.xn--bcher-kva.example"], ["bcher.example"]),
        ("*", ["nas"], ["nas.lan"]),
        ("*ads.example", ["ads.example", "bads.example", "a.ads.example", "b.c-ads.example"], ["ds.example", "ads.a"]),
        ("*-CDN.b.example", ["a-cdn.b.example", "c.a-cdn.b.example"], ["a-cdn.example", "cdn.b.example"]),
        ("*ds", ["ads", "a.ds"], ["dsa", "ads.example"]),
    ],
)
def test_a_pattern_matches(pattern: str, hits: list[str], misses: list[str]) -> None:
    table = DomainMap({pattern: True})
    assert [table.get(name) for name in hits] == [True] * len(hits)
    assert [table.get(name) for name in misses] == [None] * len(misses)


def test_a_label_beats_a_star_beats_everything_below() -> None:
    table = DomainMap({"+.example": "below", "*.example": "star", "a.example": "exact", "+.c.example": "c"})
    asked = ["example", "x.example", "a.example", "a.b.example", "c.example", "d.c.example"]
    assert [table.get(name) for name in asked] == ["below", "star", "exact", "below", "c", "c"]


def test_a_label_beats_its_end_beats_a_star() -> None:
    table = DomainMap({"*.example": "star", "*s.example": "s", "*ds.example": "ds", "+.ads.example": "ads"})
    asked = ["a.example", "as.example", "b.as.example", "bads.example", "ads.example", "b.ads.example", "b.a.example"]
    assert [table.get(name) for name in asked] == ["star", "s", "s", "ds", "ads", "ads", None]


def test_every_bad_pattern_is_named() -> None:
    with pytest.raises(ConfigFault, match=r"(?s)a b.*\+\.\+\.x.*\.\..*\*ü.*x\*y.*\+\.\*z"):
        DomainMap({"a b": 1, "+.+.x": 1, "..": 1, "*ü.example": 1, "x*y": 1, "+.*z": 1, "fine.example": 1})


_labels = st.lists(st.sampled_from(["a", "b", "c", "ba"]), min_size=1, max_size=4)


def _matches(pattern: str, name: str) -> bool:
    """The definition, one pattern at a time."""
    if pattern.startswith("+."):
        return _matches(pattern[2:], name) or _matches(pattern[1:], name)
    if pattern.startswith("."):
        depth = pattern.count(".")
        labels = name.split(".")
        return len(labels) > depth and _matches(pattern[1:], ".".join(labels[-depth:]))
    if pattern.startswith("*") and pattern[1:2] not in ("", "."):
        return name.endswith(pattern[1:])
    wanted, labels = pattern.split("."), name.split(".")
    return len(wanted) == len(labels) and all(w in ("*", label) for w, label in zip(wanted, labels, strict=True))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", ".", "+."]), st.lists(st.sampled_from("abc*"), min_size=1, max_size=4))
        | st.tuples(st.just("*"), st.lists(st.sampled_from("abc"), min_size=1, max_size=4)),
        max_size=8,
    ),
    _labels,
)
def test_some_pattern_matches_exactly_when_the_map_finds_one(
    patterns: list[tuple[str, list[str]]], labels: list[str]
) -> None:
    written = [prefix + ".".join(parts) for prefix, parts in patterns]
    name = ".".join(labels)
    found = DomainMap({pattern: pattern for pattern in written}).get(name)
    if found is None:
        assert not any(_matches(pattern, name) for pattern in written)
    else:
        assert _matches(found, name)


def test_labels_keep_their_places_behind_other_dots_and_the_root():
    table = DomainMap({"*.a.example.": "star", "+。b。example.": "below", "c．example.": "exact"})
    names = ("x.a.example", "a.example", "x.example", "y.x.b.example", "c.example", "x.c.example")
    assert [table.get(name) for name in names] == ["star", None, None, "below", "exact", None]
    with pytest.raises(ConfigFault, match="not allowed"):
        DomainMap({"+.x\u2024example": 1})


@pytest.mark.parametrize(
    "pattern", ["*.a..", "+.b.example..", "+.a.\u200b", "*.a.\u00ad", "*a..b", "a..b", ".", "+.", ""]
)
def test_an_empty_label_is_a_fault_wherever_it_stands(pattern: str) -> None:
    with pytest.raises(ConfigFault, match="not a host name"):
        DomainMap({pattern: 1})


@given(st.text(alphabet="abxAB*+.-_ü。．ßé\u00ad\u200b1", max_size=24))
def test_any_pattern_is_a_fault_or_means_the_same_once_mapped(pattern: str) -> None:
    try:
        table = DomainMap({pattern: True})
    except ConfigFault:
        return
    mapped = canonical(pattern)
    again = DomainMap({mapped: True})
    assert mapped.isascii()
    assert canonical(mapped) == mapped
    for name in (
        "a",
        "b",
        "a.b",
        "x.a.b",
        mapped.lstrip("+.*"),
        "x." + mapped.lstrip("+.*"),
        mapped.replace("*", "a").lstrip("+."),
    ):
        assert table.get(name) == again.get(name)

"""YAML to a tree with places: what is folded, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.config import source
from cyfs_ns.config.source import BadYaml, Map, Node, Scalar, Seq, parse_yaml, tree_of


def plain(node: Node | None) -> Any:
    match node:
        case Map():
            return {key: plain(value) for key, value in node.items.items()}
        case Seq():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.text
    return None


def test_scalars_stay_text_and_know_whether_they_were_quoted() -> None:
    root, _ = parse_yaml(b"a: on\nb: 'on'\n123: 0x10\n")
    assert plain(root) == {"a": "on", "b": "on", "123": "0x10"}
    assert isinstance(root, Map)
    first, second = root.items["a"], root.items["b"]
    assert isinstance(first, Scalar) and isinstance(second, Scalar)
    assert (first.plain, second.plain) == (True, False)
    assert (second.line, second.column) == (2, 4)
    assert root.places["123"] == (3, 1)


def test_merge_keys_fold_in_with_the_own_and_the_earlier_winning() -> None:
    text = b"""
x: &x {a: x, b: x}
y: &y {b: y, c: y}
one: {<<: *x, a: own}
two:
  <<: [*x, *y]
  d: own
"""
    root = plain(parse_yaml(text)[0])
    assert root["one"] == {"a": "own", "b": "x"}
    assert root["two"] == {"a": "x", "b": "x", "c": "y", "d": "own"}


def test_a_quoted_arrow_is_an_ordinary_key() -> None:
    assert plain(parse_yaml(b"'<<': {a: 1}")[0]) == {"<<": {"a": "1"}}


def test_a_second_document_is_seen_and_not_read() -> None:
    assert parse_yaml(b"a: 1\n---\n[[[")[1] == 2


@pytest.mark.parametrize("text", [b"", b"# only a comment\n", b"---\n", b"\xef\xbb\xbf"])
def test_nothing_is_no_tree(text: bytes) -> None:
    assert parse_yaml(text) == (None, 0)


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, 1, "'a' stands here twice, first on line 1"),
        (b"a: 1\n b: 2\n", 2, 3, "mapping values"),
        (b"a: [1\nb: 2]]", 2, 2, "expected"),
        (b"a: \xff\n", 1, 4, "UTF-8"),
        (b"ok: 1\na: \x07", 2, 4, "not allowed"),
        (b"a: *b", 1, 4, "no anchor"),
        (b"a: &a [*a]", 1, 8, "inside what it names"),
        (b"a: 1\n<<: 2\n", 2, 5, "mapping or a list of mappings"),
        (b"? [a]\n: 1", 1, 3, "plain text"),
        (b"!env A: 1", 1, 1, "plain text"),
        (b"a: !!python/object/apply:os.system [id]", 1, 4, "unknown tag !!python"),
        (b"a: !shell x", 1, 4, "unknown tag !shell"),
        (b'a: "\\uD800"', 1, 7, "Unicode"),
        (b"[" * 100_000, 1, 65, "64 levels"),
        (b"a: &a {b: 1}\n" + b"c: " + b"[" * 63 + b"*a" + b"]" * 63, 2, 67, "64 levels"),
    ],
)
def test_what_is_refused_says_where(text: bytes, line: int, column: int, says: str) -> None:
    with pytest.raises(BadYaml) as caught:
        parse_yaml(text)
    assert says in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)


def test_an_alias_bomb_is_counted_not_exploded() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    with pytest.raises(BadYaml, match="aliases are written out"):
        parse_yaml("\n".join(lines).encode())


def test_a_merge_bomb_is_counted_too() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 30)]
    with pytest.raises(BadYaml, match="aliases are written out"):
        parse_yaml("\n".join(lines).encode())


def test_a_giant_file_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 1000)
    with pytest.raises(BadYaml, match="at most 1000"):
        parse_yaml(b"a" * 1001)


def test_directives_without_end_are_refused() -> None:
    with pytest.raises(BadYaml, match="directives"):
        parse_yaml(b"".join(b"%%TAG !a%d! b\n" % number for number in range(100)) + b"--- a")


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_NODES", 1000)
    with pytest.raises(BadYaml, match="more than 1000 values"):
        parse_yaml(b"- x\n" * 1001)


yamlish = st.lists(
    st.sampled_from(
        (
            *(
                b"a",
                b": ",
                b"\n",
                b"- ",
                b"  ",
                b"&a ",
                b"*a",
                b"<<: ",
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b"!env ",
                b"!!str ",
            ),
            *(
                b"'",
                b'"',
                b"|\n",
                b">\n",
                b"? ",
                b"#",
                b"---\n",
                b"\xff",
                b"\x00",
                b"%TAG ! x\n",
                b"\\x",
                b"1",
                b"\xc3\xa9",
            ),
        )
    ),
    max_size=60,
).map(b"".join)


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=200), yamlish))
def test_any_bytes_give_a_tree_or_the_one_error(data: bytes) -> None:
    try:
        root, second = parse_yaml(data)
    except BadYaml as bad:
        assert bad.line >= 0
    else:
        assert root is None or isinstance(root, Map | Seq | Scalar)
        assert second >= 0


json_like = st.recursive(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100)
@given(json_like)
def test_plain_data_becomes_a_tree_and_comes_back(value: Any) -> None:
    assert plain(tree_of(value)) == value


def test_data_that_no_tree_can_hold_is_refused() -> None:
    with pytest.raises(BadYaml, match="cannot stand here"):
        tree_of({"a": object()})
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadYaml, match="levels deep"):
        tree_of(deep)

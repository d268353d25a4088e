"""Keys, values, paths, and what a transaction comes to: all without a store."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyfs_ns.identity.strictjson import read_json, write_json
from zone.config import keys, model
from zone.config.faults import NEXT, Code, ConfigError
from zone.config.keys import At, Below, Each, check_key, child, interval
from zone.config.model import (
    Append,
    AtRevision,
    Change,
    Commit,
    Create,
    Delete,
    Entry,
    HasValue,
    Reading,
    RemovePath,
    Set,
    SetPath,
    Transaction,
    check_value,
    decide,
    keys_needed,
)
from zone.config.pointer import put, read_pointer, remove


def refused(code: Code):
    return pytest.raises(ConfigError, match=NEXT[code])


# -- keys

SEGMENTS = st.text("abcXYZ019._@+~-", min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(
    "good",
    ["boot/config", "users/alice/apps/photo@alice/spec", "a", "_meta", "x" * 128, "/".join("a" * 16), "...", "~0"],
)
def test_a_key(good):
    assert check_key(good) == good and At(good).key == good


@pytest.mark.parametrize(
    "bad",
    [
        *["", "/", "/a", "a/", "a//b", ".", "a/../b", "a b", "a:b", "a*", "*", "{user}", "a\0", "a\n", "\u00e4"],
        *["x" * 129, "/".join("a" * 17), "/".join(["x" * 100] * 6), "a" * 100_000, "\ud800"],
    ],
)
def test_no_key(bad):
    with refused(Code.INVALID):
        check_key(bad)
    with refused(Code.INVALID):
        Set(bad, "1")


@given(KEYS, KEYS)
def test_the_interval_of_a_scope_holds_its_keys_and_no_other(prefix, key):
    for scope in (At(prefix), Below(prefix), Below()):
        first, beyond = interval(scope)
        assert (first <= key < beyond) == (key in scope)
        assert (first.encode() <= key.encode() < beyond.encode()) == (key in scope)
    below = Below(prefix)
    if key in below:
        assert key == f"{prefix}/{child(below, key)}" or key.startswith(f"{prefix}/{child(below, key)}/")


@pytest.mark.parametrize("key", ["a/b/info", "a/info/info", "a/a/info"])
def test_one_key_of_each(key):
    first, beyond = interval(Each("a", "info"))
    assert key in Each("a", "info") and first <= key < beyond
    assert key not in Each("a/b", "info") and f"{key}/info" not in Each("a", "info")


@pytest.mark.parametrize("key", ["a/info", "a/b", "a/b/c/info", "b/a/info", "aa/b/info", "a/b/xinfo", "a/b/info/x"])
def test_none_of_each(key):
    assert key not in Each("a", "info")


@pytest.mark.parametrize(
    ("prefix", "name"), [("", "x"), ("a", ""), ("a", "b/c"), ("a/*", "b"), ("a", "*"), ("/a", "b")]
)
def test_each_of_nothing(prefix, name):
    with refused(Code.INVALID):
        Each(prefix, name)


@given(st.text())
def test_whatever_is_a_key_has_its_limits(untrusted):
    try:
        check_key(untrusted)
    except ConfigError as fault:
        assert fault.code is Code.INVALID
    else:
        assert len(untrusted) <= keys.MOST_KEY and untrusted.isascii() and untrusted.isprintable()


# -- values


@pytest.mark.parametrize(
    "bad", ["", "{", "{'a':1}", '{"a":1,"a":2}', "NaN", "1e999", "1 2", '"\\ud800"', "[" * 40, "\ud800"]
)
def test_no_value(bad):
    with refused(Code.INVALID):
        check_value(bad)


def test_a_value_has_a_limit_in_bytes():
    check_value(json.dumps("x" * (model.MOST_VALUE - 2)))
    for text in ("x" * (model.MOST_VALUE - 1), "\u00e4" * (model.MOST_VALUE // 2)):
        with refused(Code.TOO_LARGE):
            check_value(json.dumps(text, ensure_ascii=False))


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_whatever_is_a_value_is_json(untrusted):
    try:
        check_value(untrusted)
    except ConfigError as fault:
        assert fault.code is Code.INVALID
    else:
        json.loads(untrusted)


# -- pointers

PLACES = [
    ({"a": 1}, "/a", 2, {"a": 2}),
    ({"a": 1}, "", 2, 2),
    ({}, "/a/b/c", 1, {"a": {"b": {"c": 1}}}),
    ({"a": [1, 2]}, "/a/1", 3, {"a": [1, 3]}),
    ({"a": [1, 2]}, "/a/-", 3, {"a": [1, 2, 3]}),
    ({"a": []}, "/a/-/b", 3, {"a": [{"b": 3}]}),
    ({"a": [{"b": 1}]}, "/a/0/b", None, {"a": [{"b": None}]}),
    ({"a/b": 1, "m~n": 2}, "/a~1b", 3, {"a/b": 3, "m~n": 2}),
    ({"a/b": 1, "m~n": 2}, "/m~0n", 3, {"a/b": 1, "m~n": 3}),
    ({"~1": 1}, "/~01", 3, {"~1": 3}),
    ({"": 1}, "/", 3, {"": 3}),
    ({"0": 1}, "/0", 3, {"0": 3}),
]


@pytest.mark.parametrize(("value", "path", "new", "expected"), PLACES)
def test_a_path_is_put(value, path, new, expected):
    assert put(copy.deepcopy(value), read_pointer(path), new) == expected


@pytest.mark.parametrize(
    ("value", "path"), [([1], "/1"), ([1], "/01"), ([1], "/-1"), ([1], "/a"), (1, "/a"), ({"a": "b"}, "/a/b")]
)
def test_a_path_that_leads_through_nothing(value, path):
    with refused(Code.INVALID):
        put(value, read_pointer(path), 0)
    before = json.dumps(value)
    assert not remove(value, read_pointer(path)) and json.dumps(value) == before


@pytest.mark.parametrize("path", ["a", "/~", "/~2", "/a~", "/" + "a" * 2000])
def test_no_pointer(path):
    with refused(Code.INVALID):
        read_pointer(path)


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [({"a": 1, "b": 2}, "/a", {"b": 2}), ([1, 2, 3], "/1", [1, 3]), ({"a": [{"b": 1}]}, "/a/0/b", {"a": [{}]})],
)
def test_a_path_is_removed(value, path, expected):
    value = copy.deepcopy(value)
    assert remove(value, read_pointer(path)) and value == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab~/", max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab~/0-", max_size=2), below, max_size=3),
    max_leaves=10,
)


@given(JSON, st.lists(st.text("ab~/0-", max_size=2), min_size=1, max_size=4))
def test_what_was_put_into_objects_is_removed_again(value, steps):
    pointer = read_pointer("".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps))
    assert pointer == tuple(steps)
    try:
        changed = put(copy.deepcopy(value), pointer, "new")
    except ConfigError as fault:
        assert fault.code is Code.INVALID
        return
    found = changed
    for step in steps:
        found = found[step] if isinstance(found, dict) else found[-1 if step == "-" else int(step)]
    assert found == "new"
    if isinstance(value, dict):
        value.pop(steps[0], None)
        assert remove(changed, pointer[:1]) and changed == value


# -- transactions


def there(**values: object) -> dict[str, Entry]:
    return {key: Entry(key, json.dumps(value), 7 + place, 3, 2) for place, (key, value) in enumerate(values.items())}


def done(*actions, entries=None, **values):
    """The writes of ``actions`` where ``values`` are, as Python values."""
    commit = decide(Transaction(actions), there(**values))
    return {key: None if text is None else json.loads(text) for key, text in commit.writes.items()}


def test_every_write_is_guarded_by_what_was_seen():
    transaction = Transaction((Set("a", "1"), Append("b", "2"), Set("d", "3")), (AtRevision("c", 0),))
    assert keys_needed(transaction) == ["a", "b", "c", "d"]
    commit = decide(transaction, there(b=[1], d=2))
    assert commit == Commit({"a": 0, "b": 7, "c": 0, "d": 8}, {"a": "1", "b": "[1,2]", "d": "3"})


def test_a_value_is_parsed_and_written_once_however_many_actions_it_has(monkeypatch: pytest.MonkeyPatch):
    parsed: list[str] = []
    written: list[object] = []

    def read(text: str, what: str):
        parsed.append(text)
        return read_json(text, what)

    def write(value):
        written.append(value)
        return write_json(value)

    large = {"list": list(range(20_000)), "map": {}}
    entries = there(a=large)
    changes = tuple(
        action
        for number in range(300)
        for action in (SetPath("a", f"/map/{number}", "1"), SetPath("a", "/list/-", "2"), RemovePath("a", "/list/0"))
    )
    transaction = Transaction(changes, tuple(HasValue("a", "1") for _ in range(100)))
    same = Transaction(changes, tuple(HasValue("b", "1") for _ in range(100)))
    monkeypatch.setattr(model, "read_json", read)
    monkeypatch.setattr(model, "write_json", write)
    with refused(Code.CONFLICT):
        decide(transaction, entries)
    parsed.clear()
    commit = decide(same, {**entries, "b": Entry("b", "1", 3, 3, 1)})
    made = json.loads(commit.writes["a"] or "")
    assert made == {"list": [*range(300, 20_000), *[2] * 300], "map": {str(number): 1 for number in range(300)}}
    # Once as it was and once to check what it came to.
    assert sum(len(text) > 1000 for text in parsed) == 2
    assert sum(isinstance(value, dict) for value in written) == 2


def test_a_key_goes_with_the_lease_it_was_set_under_last():
    entries = {key: Entry(key, "[]", 7, 3, 2, lease=5) for key in "abcd"}
    changes = (Append("a", "1"), Set("b", "1"), Set("c", "1", 6), Delete("d"), Create("e", "1", 6), Set("f", "1"))
    assert decide(Transaction(changes), entries).leases == {"a": 5, "c": 6, "e": 6}
    assert decide(Transaction((Delete("a"), Create("a", "[]"), Append("a", "1"))), entries).leases == {}
    for lease in (-1, 1 << 63):
        for make in (Set, Create):
            with refused(Code.INVALID):
                make("a", "1", lease)


def test_what_a_transaction_may_bring_and_look_into():
    large = json.dumps("x" * (model.MOST_VALUE - 2))
    with refused(Code.TOO_LARGE):
        Transaction(tuple(SetPath("a", "/x", large) for _ in range(5)))
    with refused(Code.TOO_LARGE):
        Transaction((Set("a", "1"),), tuple(HasValue("b", large) for _ in range(5)))
    entries = {key: Entry(key, large, 3, 3, 1) for key in "abcde"}
    assert decide(Transaction(tuple(Set(key, "1") for key in "abcde")), entries).writes == dict.fromkeys("abcde", "1")
    with refused(Code.TOO_LARGE):
        decide(Transaction((Set("f", "1"),), tuple(HasValue(key, "1") for key in "abcde")), entries)


def test_a_value_that_cannot_be_read_may_be_replaced_or_removed_and_nothing_else():
    for code in (Code.DENIED, Code.DAMAGED):
        entries = {"a": Entry("a", None, 7, 3, 2, fault=code)}
        assert decide(Transaction((Set("a", "1"),)), entries) == Commit({"a": 7}, {"a": "1"})
        assert decide(Transaction((Delete("a"),), (AtRevision("a", 7),)), entries) == Commit({"a": 7}, {"a": None})
        for action in (Append("a", "1"), SetPath("a", "/x", "1"), RemovePath("a", "/x")):
            with refused(code):
                decide(Transaction((action,)), entries)
        with refused(code):
            decide(Transaction((Set("b", "1"),), (HasValue("a", "1"),)), entries)
        with refused(Code.EXISTS):
            decide(Transaction((Create("a", "1"),)), entries)


def test_what_is_printed_tells_no_value():
    secret = '"hunter2"'
    for value in (
        *(
            Set("a", secret),
            Create("a", secret),
            Append("a", secret),
            SetPath("a", "/b", secret),
            HasValue("a", secret),
        ),
        *(Entry("a", secret, 2, 2, 1), Commit({"a": 0}, {"a": secret}), Change(2, (Entry("a", secret, 2, 2, 1),))),
        *(Transaction((Set("a", secret),), (HasValue("a", secret),)), Reading(2, (Entry("a", secret, 2, 2, 1),))),
    ):
        assert "hunter2" not in repr(value)


def test_actions_follow_each_other():
    assert done(Set("a", "{}"), SetPath("a", "/b", "[]"), SetPath("a", "/b/-", "1")) == {"a": {"b": [1]}}
    assert done(Delete("a"), Create("a", "2"), a=1) == {"a": 2}
    assert done(Create("a", "2"), Delete("a")) == {}
    assert done(Append("a", '"c"'), a="b") == {"a": "bc"}
    assert done(Delete("a"), RemovePath("b", "/x"), a=1, b={"x": 1}) == {"a": None, "b": {}}


def test_what_changes_nothing_writes_nothing_unless_it_is_set():
    assert done(RemovePath("a", "/x"), a={"y": 1}) == {}
    assert done(Set("a", "1"), RemovePath("b", "/x"), a=1, b=2) == {"a": 1}


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (Create("a", "1"), Code.EXISTS),
        (Append("b", "1"), Code.MISSING),
        (SetPath("b", "/x", "1"), Code.MISSING),
        (RemovePath("b", "/x"), Code.MISSING),
        (Delete("b"), Code.MISSING),
        (Append("a", "1"), Code.INVALID),
        (SetPath("a", "/x", "1"), Code.INVALID),
    ],
)
def test_an_action_that_cannot_be_done_says_why(action, code):
    with refused(code) as told:
        done(Set("c", "1"), action, a=1)
    assert told.value.code is code and action.key in str(told.value)


@pytest.mark.parametrize(
    ("comparison", "holds"),
    [
        (AtRevision("a", 7), True),
        (AtRevision("a", 6), False),
        (AtRevision("a", 0), False),
        (AtRevision("b", 0), True),
        (AtRevision("b", 7), False),
        (HasValue("a", '{ "y": [1], "x": true }'), True),
        (HasValue("a", '{"x":1,"y":[1]}'), False),
        (HasValue("b", "null"), False),
    ],
)
def test_comparisons(comparison, holds):
    transaction = Transaction((Set("c", "1"),), (comparison,))
    entries = there(a={"x": True, "y": [1]})
    if holds:
        guards = {comparison.key: 7 if comparison.key in entries else 0, "c": 0}
        assert decide(transaction, entries) == Commit(guards, {"c": "1"})
    else:
        with refused(Code.CONFLICT):
            decide(transaction, entries)


def test_limits_of_a_transaction():
    with refused(Code.INVALID):
        Transaction(())
    with refused(Code.TOO_LARGE):
        Transaction((Set("a", "1"),) * (model.MOST_ACTIONS + 1))
    large = json.dumps("x" * (model.MOST_VALUE - 2))
    decide(Transaction(tuple(Set(f"k{i}", large) for i in range(3))), {})
    with refused(Code.TOO_LARGE):
        # The keys count as well.
        decide(Transaction(tuple(Set(f"k{i}", large) for i in range(4))), {})
    with refused(Code.TOO_LARGE):
        done(SetPath("a", "/y", large), a={"x": "x"})
    with refused(Code.INVALID):
        done(SetPath("a", "/x" * 40, "1"), a={})
    with refused(Code.INVALID):
        RemovePath("a", "")
    with refused(Code.INVALID):
        AtRevision("a", -1)

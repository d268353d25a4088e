"""Requests of system_config as callers spell them, and how much room each has."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Each
from zone.config.model import (
    MOST_VALUE,
    Append,
    AtRevision,
    Create,
    Delete,
    Entry,
    HasValue,
    RemovePath,
    Set,
    SetPath,
    Transaction,
    check_value,
)
from zone.config.quota import Room, charges, check_room, plots
from zone.config.wire import (
    is_large,
    plain,
    plain_scope,
    read_entry,
    read_scope,
    read_scopes,
    read_transaction,
    stored,
    text_transaction,
    told,
)

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=8,
)


def entry(key: str, value: str | None) -> Entry:
    return Entry(key, value, 3, 2, 1)


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | JSONS.map(json.dumps)
    | JSONS.map(lambda v: f" {json.dumps(v)}\n")
)
def test_every_text_comes_back_as_it_was_written(text):
    value = stored(text)
    assert check_value(value) == value
    assert told(entry("k", value)) == text


@given(JSONS)
def test_what_is_json_can_be_looked_into(value):
    made = json.loads(stored(json.dumps(value)))
    assert made == (json.dumps(value) if isinstance(value, str) else value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("-----BEGIN", '"-----BEGIN"'),
        ("eyJ.eyJ.x", '"eyJ.eyJ.x"'),
        ("", '""'),
        ("5", "5"),
        ('"s"', '"\\"s\\""'),
        ('{"a":1,"a":2}', '"{\\"a\\":1,\\"a\\":2}"'),
        ("NaN", '"NaN"'),
        ("[" * 40 + "]" * 40, json.dumps("[" * 40 + "]" * 40)),
    ],
)
def test_how_a_text_is_kept(text, value):
    assert stored(text) == value and told(entry("k", value)) == text


def test_a_text_that_is_none_or_a_giant():
    with pytest.raises(ConfigError):
        stored("\ud800")
    with pytest.raises(ConfigError, match="at most"):
        stored("x" * (MOST_VALUE + 1))
    with pytest.raises(ConfigError):
        told(Entry("k", None, 3, 2, 1, fault=Code.DENIED))


def test_a_transaction_of_the_forerunner():
    made = text_transaction(
        {
            "actions": {
                "a": {"action": "create", "value": '{"x":1}'},
                "b": {"action": "update", "value": "text"},
                "c": {"action": "append", "value": "more"},
                "d": {"action": "set_by_path", "all_set": {"/x": {"y": 1}, "/z": None}},
                "e": {"action": "set_py_path", "all_set": {"/x": 1}},
                "f": {"action": "remove"},
            },
            "main_key": {"key": "a", "revision": 7},
        }
    )
    assert made.actions == (
        Create("a", '{"x":1}'),
        Set("b", '"text"'),
        Append("c", '"more"'),
        SetPath("d", "/x", '{"y":1}'),
        RemovePath("d", "/z"),
        SetPath("e", "/x", "1"),
        Delete("f"),
    )
    assert made.comparisons == (AtRevision("a", 7),)
    older = text_transaction({"actions": {"a": {"action": "remove"}}, "main_key": "nodes/a/config:12"})
    assert older.comparisons == (AtRevision("nodes/a/config", 12),)


@pytest.mark.parametrize(
    "params",
    [
        *[{}, {"actions": []}, {"actions": {}}, {"actions": {"a": "remove"}}, {"actions": {"a": {"action": "eat"}}}],
        *[{"actions": {"a": {"action": "create"}}}, {"actions": {"a": {"action": "update", "value": 7}}}],
        *[{"actions": {"a": {"action": "set_by_path", "all_set": made}}} for made in (None, {}, [], {"x": 1})],
        *[{"actions": {"**": {"action": "remove"}}}, {"actions": {"a": {"action": "set_by_path", "value": "1"}}}],
        *[
            {"actions": {"a": {"action": "remove"}}, "main_key": key}
            for key in (7, "a", "a:", "a:x", "a:-1", {}, {"key": "a"}, {"key": "a", "revision": "7"}, "a:" + "9" * 40)
        ],
    ],
    ids=str,
)
def test_no_transaction_of_the_forerunner(params):
    with pytest.raises(ConfigError):
        text_transaction(params)


def test_a_transaction_of_values():
    made = read_transaction(
        {
            "actions": [
                {"do": "set", "key": "a", "value": {"x": 1}, "lease": "5"},
                {"do": "create", "key": "b", "value": None},
                {"do": "append", "key": "c", "value": [1]},
                {"do": "set-path", "key": "d", "path": "/x", "value": None},
                {"do": "remove-path", "key": "d", "path": "/y"},
                {"do": "delete", "key": "e"},
            ],
            "if": [{"key": "a", "revision": 0}, {"key": "b", "value": "s"}],
        }
    )
    assert made.actions == (
        Set("a", '{"x":1}', 5),
        Create("b", "null"),
        Append("c", "[1]"),
        SetPath("d", "/x", "null"),
        RemovePath("d", "/y"),
        Delete("e"),
    )
    assert made.comparisons == (AtRevision("a", 0), HasValue("b", '"s"'))


@pytest.mark.parametrize(
    "bad",
    [
        *[{}, {"actions": {}}, {"actions": [1]}, {"actions": [{"do": "set", "key": "a"}]}],
        *[{"actions": [{"do": "eat", "key": "a"}]}, {"actions": [{"do": "delete"}]}],
        *[{"actions": [{"do": "delete", "key": "a", "value": 1}]}, {"actions": [{"do": "delete", "key": "a/"}]}],
        *[
            {"actions": [{"do": "set", "key": "a", "value": 1, "lease": lease}]}
            for lease in (1, "-1", True, "", str(2**63))
        ],
        *[{"actions": [{"do": "delete", "key": "a"}], "if": made} for made in (1, [1], [{"key": "a"}])],
        {"actions": [{"do": "delete", "key": "a"}], "if": [{"key": "a", "revision": 1, "value": 1}]},
        {"actions": [{"do": "set", "key": "a", "value": float("nan")}]},
    ],
    ids=str,
)
def test_no_transaction_of_values(bad):
    with pytest.raises(ConfigError):
        read_transaction(bad)


@given(
    st.recursive(JSONS, lambda inner: st.dictionaries(st.sampled_from(["actions", "if", "key", "do", "value"]), inner))
)
def test_anything_else_fails_in_one_way(said):
    params = said if isinstance(said, dict) else {"actions": said}
    for read in (read_transaction, text_transaction, read_scopes):
        try:
            read(params)
        except ConfigError as fault:
            assert fault.code in (Code.INVALID, Code.TOO_LARGE)


def test_scopes():
    assert read_scope({"at": "a/b"}) == At("a/b") and read_scope({"below": ""}) == Below("")
    for scope in (At("a/b"), Below(), Below("a"), Each("a", "b"), Each("a/b", "c")):
        assert read_scope(plain_scope(scope)) == scope
    for bad in ("", "a", "a/*", "*/a", "/*/", "a/*/b/c", "a/*/*", "a/*/*/b"):
        with pytest.raises(ConfigError):
            read_scope({"each": bad})
    for bad in ({}, {"at": "a", "below": "a"}, {"at": ""}, {"below": "/"}, "a", None, {"in": "a"}, {"at": 1}):
        with pytest.raises(ConfigError):
            read_scope(bad)
    assert read_scopes({"scopes": []}) == []
    for bad in ([{"at": "a"}] * 2049, [{"below": "a"}] * 17, [{"each": "a/*/b"}] * 17):
        with pytest.raises(ConfigError):
            read_scopes({"scopes": bad})


def test_entries_for_callers():
    assert plain(entry("k", "[1]")) == {"key": "k", "revision": 3, "created": 2, "version": 1, "value": [1]}
    assert "value" not in plain(entry("k", None))
    assert plain(Entry("k", None, 3, 2, 1, 9, Code.DENIED))["fault"] == "denied"
    assert plain(Entry("k", "null", 3, 2, 1, 9))["lease"] == "9"
    for made in (entry("k", " [1] "), entry("k", None), Entry("k", None, 3, 2, 1, 9, Code.DAMAGED)):
        assert read_entry(plain(made, as_text=True)) == made


@given(
    JSONS | st.fixed_dictionaries({"key": st.just("k")}, optional={"text": JSONS, "fault": JSONS, "revision": JSONS})
)
def test_no_entry(said):
    with pytest.raises(ConfigError):
        read_entry(said)


@given(JSONS, st.integers(1, 60))
def test_what_is_large(value, room):
    assert not is_large(value, 10_000) or len(json.dumps(value)) > 1000
    assert is_large([value, "x" * room], room)


# -- room


def test_the_plots_of_a_key():
    assert [plot for plot, _ in plots("users/alice/apps/photos/settings")] == ["users/alice", "users/alice/apps/photos"]
    assert [plot for plot, _ in plots("users/alice/apps/photos")] == ["users/alice"]
    assert [plot for plot, _ in plots("data/a/x/y")] == ["data/a"]
    for key in ("users/alice", "data/a", "boot/config", "nodes/n/config/a", "services/a/settings"):
        assert not list(plots(key))


SOME = st.sampled_from([f"devices/box/{name}" for name in "abc"])
VALUES = st.sampled_from(['"x"', '"xxxxxxxx"', "1"])


@given(
    st.dictionaries(SOME, VALUES),
    st.lists(st.builds(Set, SOME, VALUES) | st.builds(Delete, SOME), min_size=1, max_size=4, unique_by=lambda a: a.key),
)
def test_what_is_counted_is_what_is_there(present, actions):
    charge = charges(Transaction(tuple(actions))).get("devices/box")
    after = dict(present)
    for action in actions:
        if isinstance(action, Set):
            after[action.key] = action.value
        else:
            after.pop(action.key, None)
    if charge is not None:
        found = charge.after(entry(key, value) for key, value in present.items())
        assert found == Room(sum(len(key) + len(value) for key, value in after.items()), len(after))


def test_a_full_plot_takes_what_makes_it_smaller():
    full = [entry(f"devices/box/{number}", '"' + "x" * 1000 + '"') for number in range(600)]
    one = charges(Transaction((Set("devices/box/0", '"y"'),)))["devices/box"]
    assert check_room("devices/box", one, full).keys == 600
    for action in (Set("devices/box/0", '"' + "y" * 2000 + '"'), Create("devices/box/new", "1")):
        with pytest.raises(ConfigError) as caught:
            check_room("devices/box", charges(Transaction((action,)))["devices/box"], full)
        assert caught.value.code is Code.FULL
    assert not charges(Transaction((Delete("devices/box/0"), RemovePath("devices/box/1", "/x"))))

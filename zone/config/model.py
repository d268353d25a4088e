"""What is asked and answered: entries, readings, changes, and transactions.

A request that exists is well formed: making one checks its keys, values and limits, and raises ``ConfigError``.

A transaction is a list of actions, done in their order, under comparisons; all of it happens, as one revision, or
nothing.  Revisions count from 1, the empty store; 0 is the revision of a key that is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.config.faults import Code, ConfigError
from zone.config.keys import check_key
from zone.config.pointer import put, read_pointer, remove

MOST_VALUE: Final = 256 * 1024
"""Bytes of one value."""
MOST_WRITTEN: Final = 1024 * 1024
"""Bytes of values and keys in one transaction; etcd refuses requests of 1.5 MiB as a matter of course."""
MOST_ACTIONS: Final = 2048
"""Actions and comparisons of one transaction."""


def check_value(untrusted: str) -> str:
    """``untrusted``, which is a JSON text that means one thing to every reader.  Raises ``ConfigError``."""
    if len(untrusted) > MOST_VALUE or len(untrusted.encode("utf-8", "replace")) > MOST_VALUE:
        raise ConfigError(Code.TOO_LARGE, f"a value has at most {MOST_VALUE} bytes")
    read_value(untrusted)
    return untrusted


def read_value(text: str) -> Json:
    """The value in ``text``.  Raises ``ConfigError``."""
    try:
        return read_json(text, "value")
    except BadWire as bad:
        raise ConfigError(Code.INVALID, str(bad)) from None


def _written(value: Json) -> str:
    try:
        return write_json(value).decode()
    except (ValueError, TypeError, RecursionError) as bad:
        raise ConfigError(Code.INVALID, f"no JSON value: {bad}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as one revision left it.  ``value`` is None where that revision deleted it."""

    key: str
    value: str | None
    revision: int
    """The revision that wrote this."""
    created: int
    """The revision that made the key; 0 for a deletion."""
    version: int
    """How many times it was written since then; 0 for a deletion."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was there at ``revision``, in the order of keys.

    ``fresh`` is False if the store could not make sure that nothing newer was acknowledged, and the reader had said
    that old news are better than none.
    """

    revision: int
    entries: tuple[Entry, ...]
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What the transaction of ``revision`` did to the watched keys, all of it, in the order of keys."""

    revision: int
    entries: tuple[Entry, ...]


# -- comparisons


@dataclass(frozen=True, slots=True)
class AtRevision:
    """The key was written last by ``revision``; 0: it is absent."""

    key: str
    revision: int

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.revision < 0:
            raise ConfigError(Code.INVALID, f"{self.revision} is no revision")


@dataclass(frozen=True, slots=True)
class HasValue:
    """The key's value equals ``value`` as JSON: spaces and the order of names do not matter."""

    key: str
    value: str

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)


Comparison: TypeAlias = AtRevision | HasValue


# -- actions


@dataclass(frozen=True, slots=True)
class Set:
    """Give the key this value, whether it was there or not."""

    key: str
    value: str

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)


@dataclass(frozen=True, slots=True)
class Create:
    """Give the key this value.  It must be absent (``EXISTS``)."""

    key: str
    value: str

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)


@dataclass(frozen=True, slots=True)
class Append:
    """Add to the end of the key's value: a new element to an array, or a string to a string.

    The key must be there (``MISSING``).
    """

    key: str
    value: str

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)


@dataclass(frozen=True, slots=True)
class SetPath:
    """Put ``value`` where the JSON pointer ``path`` (RFC 6901) leads in the key's value, which must be there.

    Objects that are missing on the way are made.  An element of an array is replaced; ``-`` adds one to its end.
    """

    key: str
    path: str
    value: str

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)
        read_pointer(self.path)


@dataclass(frozen=True, slots=True)
class RemovePath:
    """Remove what the JSON pointer ``path`` leads to in the key's value, which must be there.

    Nothing happens where it leads nowhere.
    """

    key: str
    path: str

    def __post_init__(self) -> None:
        check_key(self.key)
        if not read_pointer(self.path):
            raise ConfigError(Code.INVALID, "the empty path is the whole value: delete the key")


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the key, which must be there (``MISSING``)."""

    key: str

    def __post_init__(self) -> None:
        check_key(self.key)


Action: TypeAlias = Set | Create | Append | SetPath | RemovePath | Delete


@dataclass(frozen=True, slots=True)
class Transaction:
    """``actions``, if every one of ``comparisons`` holds (``CONFLICT``)."""

    actions: tuple[Action, ...]
    comparisons: tuple[Comparison, ...] = ()

    def __post_init__(self) -> None:
        if not self.actions:
            raise ConfigError(Code.INVALID, "a transaction without an action")
        if len(self.actions) + len(self.comparisons) > MOST_ACTIONS:
            raise ConfigError(Code.TOO_LARGE, f"a transaction has at most {MOST_ACTIONS} actions and comparisons")


@dataclass(frozen=True, slots=True)
class Commit:
    """What a store is asked to do: ``writes`` (None deletes), if ``guards`` tell which revision wrote each key last.

    A key is deleted only under a guard that says it is there, so that all stores agree on what a deletion is.
    """

    guards: Mapping[str, int]
    writes: Mapping[str, str | None]


# -- what a transaction comes to


def keys_needed(transaction: Transaction) -> list[str]:
    """The keys whose entries :func:`decide` has to see, sorted."""
    blind = {action.key for action in transaction.actions if isinstance(action, Set)}
    seeing = {action.key for action in transaction.actions if not isinstance(action, Set)}
    compared = {comparison.key for comparison in transaction.comparisons}
    # A key that is only set, and not compared, may hold whatever it likes.
    return sorted(seeing | compared | (blind & seeing))


def decide(transaction: Transaction, entries: Mapping[str, Entry]) -> Commit:
    """The writes that ``transaction`` comes to, guarded by what was seen.  Raises ``ConfigError``.

    ``entries``: those of :func:`keys_needed` that are there, read at one revision.  If a guard does not hold when the
    writes are made, read and decide again.
    """
    for comparison in transaction.comparisons:
        _compare(comparison, entries.get(comparison.key))
    guards = {key: entries[key].revision if key in entries else 0 for key in keys_needed(transaction)}
    before = {key: entry.value for key, entry in entries.items()}
    after = dict(before)
    for action in transaction.actions:
        after[action.key] = _done(action, after.get(action.key))
    set_keys = {action.key for action in transaction.actions if isinstance(action, Set | Create)}
    writes = {
        key: value
        for key, value in sorted(after.items())
        if (key in set_keys and value is not None) or value != before.get(key)
    }
    size = sum(len(key) + len((value or "").encode()) for key, value in writes.items())
    if size > MOST_WRITTEN:
        raise ConfigError(Code.TOO_LARGE, f"a transaction writes at most {MOST_WRITTEN} bytes")
    return Commit(guards, writes)


def _compare(comparison: Comparison, entry: Entry | None) -> None:
    key = comparison.key
    if isinstance(comparison, AtRevision):
        found = entry.revision if entry is not None else 0
        if found != comparison.revision:
            wanted = f"at revision {comparison.revision}" if comparison.revision else "absent"
            there = f"at revision {found}" if found else "absent"
            raise ConfigError(Code.CONFLICT, f"{key} is {there}, not {wanted}")
    elif entry is None or entry.value is None or _plain(entry.value) != _plain(comparison.value):
        raise ConfigError(Code.CONFLICT, f"{key} has another value" if entry is not None else f"{key} is absent")


def _plain(text: str) -> str:
    """One form for all texts of the same value; in Python alone, 1 would equal true and 1.0."""
    return _written(read_value(text))


def _done(action: Action, text: str | None) -> str | None:
    if isinstance(action, Set):
        return action.value
    if isinstance(action, Create):
        if text is not None:
            raise ConfigError(Code.EXISTS, f"{action.key} is there already")
        return action.value
    if text is None:
        raise ConfigError(Code.MISSING, f"{action.key} is absent")
    if isinstance(action, Delete):
        return None
    try:
        value = read_value(text)
        if isinstance(action, Append):
            changed = _appended(value, read_value(action.value))
        elif isinstance(action, SetPath):
            changed = put(value, read_pointer(action.path), read_value(action.value))
        else:
            changed = remove(value, read_pointer(action.path))
            if changed is value:
                return text
        return check_value(_written(changed))
    except ConfigError as fault:
        raise ConfigError(fault.code, f"{action.key}: {fault.message}") from None


def _appended(value: Json, more: Json) -> Json:
    if isinstance(value, str) and isinstance(more, str):
        return value + more
    if isinstance(value, list):
        return [*value, more]
    raise ConfigError(Code.INVALID, "only arrays take another element, and strings a string")

"""What is asked and answered: entries, readings, changes, and transactions.

A request that exists is well formed: making one checks its keys, values and limits, and raises ``ConfigError``.

A transaction is a list of actions, done in their order, under comparisons; all of it happens, as one revision, or
nothing.  Revisions count from 1, the empty store; 0 is the revision of a key that is absent.

A lease is a promise of somebody to show a sign of life every so often.  A key that was given its value under a lease is
deleted when the lease expires or is revoked; all keys of a lease go as one revision.  A key goes with the lease it was
set under last, or with none; changes of a part of its value leave it where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.config.faults import Code, ConfigError
from zone.config.keys import check_key
from zone.config.pointer import put, read_pointer, remove

MOST_VALUE: Final = 256 * 1024
"""Bytes of one value."""
MOST_WRITTEN: Final = 1024 * 1024
"""Bytes of values and keys in one transaction, as it is asked for and as it is written; etcd refuses requests of
1.5 MiB as a matter of course."""
MOST_OPENED: Final = 1024 * 1024
"""Bytes of values that one transaction looks into, by paths, by appending and by comparing."""
MOST_ACTIONS: Final = 2048
"""Actions and comparisons of one transaction."""


MOST_TTL: Final = 24 * 60 * 60
"""Seconds of a lease."""
_MOST_LEASE: Final = (1 << 63) - 1


def check_ttl(untrusted: int) -> int:
    """``untrusted``, which are the seconds of a lease.  Raises ``ConfigError``."""
    if not 0 < untrusted <= MOST_TTL:
        raise ConfigError(Code.INVALID, f"a lease lives for 1 to {MOST_TTL} s")
    return untrusted


def check_lease(untrusted: int) -> int:
    """``untrusted``, which may be the number of a lease; 0 is none.  Raises ``ConfigError``."""
    if not 0 <= untrusted <= _MOST_LEASE:
        raise ConfigError(Code.INVALID, f"{untrusted} is no lease")
    return untrusted


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
    """A key as one revision left it.

    ``value`` is None where that revision deleted it, and where ``fault`` says why nobody here can read it.
    """

    key: str
    value: str | None = field(repr=False)
    revision: int
    """The revision that wrote this."""
    created: int
    """The revision that made the key; 0 for a deletion."""
    version: int
    """How many times it was written since then; 0 for a deletion."""
    lease: int = 0
    """The lease it goes with; 0 if with none, and for a deletion."""
    fault: Code | None = None
    """``DENIED``: the value is sealed, and not for this OOD.  ``DAMAGED``: it is not what a store of ours wrote."""

    def text(self) -> str | None:
        """The value; None for a deletion.  Raises ``ConfigError`` if there is one that cannot be read."""
        if self.fault is not None:
            why = "sealed, and not for this OOD" if self.fault is Code.DENIED else "not what was written"
            raise ConfigError(self.fault, f"{self.key}: the value is {why}")
        return self.value


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
    value: str = field(repr=False)

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)


Comparison: TypeAlias = AtRevision | HasValue


# -- actions


@dataclass(frozen=True, slots=True)
class Set:
    """Give the key this value, whether it was there or not.

    ``lease``: the one it goes with from now on; 0: with none.  It must be there (``MISSING``).
    """

    key: str
    value: str = field(repr=False)
    lease: int = 0

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)
        check_lease(self.lease)


@dataclass(frozen=True, slots=True)
class Create:
    """Give the key this value, under ``lease`` as with :class:`Set`.  It must be absent (``EXISTS``)."""

    key: str
    value: str = field(repr=False)
    lease: int = 0

    def __post_init__(self) -> None:
        check_key(self.key)
        check_value(self.value)
        check_lease(self.lease)


@dataclass(frozen=True, slots=True)
class Append:
    """Add to the end of the key's value: a new element to an array, or a string to a string.

    The key must be there (``MISSING``).
    """

    key: str
    value: str = field(repr=False)

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
    value: str = field(repr=False)

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
        if self.size > MOST_WRITTEN:
            raise ConfigError(Code.TOO_LARGE, f"a transaction brings at most {MOST_WRITTEN} bytes")

    @property
    def size(self) -> int:
        """Bytes of all it brings: the values to write and to compare with."""
        return sum(len(getattr(part, "value", "").encode()) for part in (*self.actions, *self.comparisons))


@dataclass(frozen=True, slots=True)
class Commit:
    """What a store is asked to do: ``writes`` (None deletes), if ``guards`` tell which revision wrote each key last.

    A key is deleted only under a guard that says it is there, so that all stores agree on what a deletion is.
    """

    guards: Mapping[str, int]
    writes: Mapping[str, str | None] = field(repr=False)
    leases: Mapping[str, int] = field(default_factory=dict)
    """The leases of those of the keys written that have one."""


# -- what a transaction comes to


def keys_needed(transaction: Transaction) -> list[str]:
    """The keys whose entries :func:`decide` has to see, sorted: all, also those that are only set.

    Every write is guarded by what was seen.  Otherwise a commit that nobody knows the fate of could be made later, over
    what others were told has been written since.
    """
    return sorted({part.key for part in (*transaction.actions, *transaction.comparisons)})


def decide(transaction: Transaction, entries: Mapping[str, Entry]) -> Commit:
    """The writes that ``transaction`` comes to, guarded by what was seen.  Raises ``ConfigError``.

    ``entries``: those of :func:`keys_needed` that are there, read at one revision.  If a guard does not hold when the
    writes are made, read and decide again.  Takes a second for the largest that are allowed.
    """
    drafts = {key: _Draft(key, entries.get(key)) for key in keys_needed(transaction)}
    opened = {part.key for part in (*transaction.comparisons, *transaction.actions) if isinstance(part, _LOOKING)}
    if sum(len((entries[key].value or "").encode()) for key in opened & entries.keys()) > MOST_OPENED:
        raise ConfigError(Code.TOO_LARGE, f"a transaction looks into values of at most {MOST_OPENED} bytes")
    for comparison in transaction.comparisons:
        _compare(comparison, drafts[comparison.key])
    for action in transaction.actions:
        _do(action, drafts[action.key])
    writes: dict[str, str | None] = {}
    for draft in drafts.values():
        writes |= _writes(draft)
    size = sum(len(key) + len((value or "").encode()) for key, value in writes.items())
    if size > MOST_WRITTEN:
        raise ConfigError(Code.TOO_LARGE, f"a transaction writes at most {MOST_WRITTEN} bytes")
    guards = {key: entries[key].revision if key in entries else 0 for key in drafts}
    leases = {key: drafts[key].lease for key, value in writes.items() if value is not None and drafts[key].lease}
    return Commit(guards, writes, leases)


class _Draft:
    """The value of one key while a transaction is decided: parsed at most once, and written at most once."""

    def __init__(self, key: str, entry: Entry | None) -> None:
        self.key = key
        self.entry = entry
        self.there = entry is not None
        self.lease = entry.lease if entry is not None else 0
        self.is_set = self.is_edited = False
        self._text: str | None = None
        """What was given instead of what the entry has, if anything was."""
        self._value: Json = None
        self._plain: str | None = None
        self._is_parsed = False

    def put(self, text: str | None, lease: int = 0) -> None:
        """Give it this value, or none."""
        self._text, self.lease = text, lease
        self.there = self.is_set = text is not None
        self.is_edited = self._is_parsed = False

    def edit(self, value: Json) -> None:
        self._value, self.is_edited = value, True

    def value(self) -> Json:
        """The value, which may be changed in place by who calls :meth:`edit` then.  Raises ``ConfigError``."""
        if not self._is_parsed:
            self._value, self._is_parsed = read_value(self._found() or ""), True
        return self._value

    def plain(self) -> str:
        """One form for all texts of the value as it was.  Raises ``ConfigError``."""
        if self._plain is None:
            self._plain = _written(self.value())
        return self._plain

    def text(self) -> str | None:
        """The value as it is to be written.  Raises ``ConfigError``."""
        return check_value(_written(self._value)) if self.is_edited else self._found()

    def _found(self) -> str | None:
        if self._text is not None or self.entry is None:
            return self._text
        return self.entry.text()


_LOOKING: Final = HasValue | Append | SetPath | RemovePath
"""What has to know the value that is there."""


def _writes(draft: _Draft) -> dict[str, str | None]:
    with _about(draft.key):
        if not draft.there:
            return {draft.key: None} if draft.entry is not None else {}
        if not draft.is_set and not draft.is_edited:
            return {}
        text = draft.text()
        # What is edited and comes out as it was is no change; what is set is one always.
        return {draft.key: text} if draft.is_set or draft.entry is None or text != draft.entry.value else {}


def _compare(comparison: Comparison, draft: _Draft) -> None:
    key = comparison.key
    if isinstance(comparison, AtRevision):
        found = draft.entry.revision if draft.entry is not None else 0
        if found != comparison.revision:
            wanted = f"at revision {comparison.revision}" if comparison.revision else "absent"
            there = f"at revision {found}" if found else "absent"
            raise ConfigError(Code.CONFLICT, f"{key} is {there}, not {wanted}")
    elif not draft.there:
        raise ConfigError(Code.CONFLICT, f"{key} is absent")
    # One form for all texts of the same value; in Python alone, 1 would equal true and 1.0.
    elif draft.plain() != _written(read_value(comparison.value)):
        raise ConfigError(Code.CONFLICT, f"{key} has another value")


def _do(action: Action, draft: _Draft) -> None:
    if isinstance(action, Create) and draft.there:
        raise ConfigError(Code.EXISTS, f"{action.key} is there already")
    if isinstance(action, Set | Create):
        draft.put(action.value, action.lease)
        return
    if not draft.there:
        raise ConfigError(Code.MISSING, f"{action.key} is absent")
    if isinstance(action, Delete):
        draft.put(None)
        return
    with _about(action.key):
        value = draft.value()
        if isinstance(action, Append):
            draft.edit(_appended(value, read_value(action.value)))
        elif isinstance(action, SetPath):
            draft.edit(put(value, read_pointer(action.path), read_value(action.value)))
        elif remove(value, read_pointer(action.path)):
            draft.edit(value)


@contextmanager
def _about(key: str) -> Iterator[None]:
    """A fault of a value, told with its key."""
    try:
        yield
    except ConfigError as fault:
        told = fault.message if fault.message.startswith(f"{key}: ") else f"{key}: {fault.message}"
        raise ConfigError(fault.code, told) from None


def _appended(value: Json, more: Json) -> Json:
    """``value``, an array changed in place, or a string."""
    if isinstance(value, str) and isinstance(more, str):
        return value + more
    if isinstance(value, list):
        value.append(more)
        return value
    raise ConfigError(Code.INVALID, "only arrays take another element, and strings a string")

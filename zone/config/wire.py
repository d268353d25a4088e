"""Requests of system_config as its callers write them, and answers as they read them.

There are two ways to spell a value.  The forerunner's methods (``sys_config_…``) know texts: JSON documents, tokens,
PEM files.  A text that is a JSON object, array, number, ``true``, ``false`` or ``null`` is that value here, so that the
zone's own parts can look into it; any other text is a JSON string with it.  Reading turns it round, so every text comes
back as it was written.  Our own methods have JSON values as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below, Each, Scope, check_key
from zone.config.model import (
    MOST_ACTIONS,
    MOST_VALUE,
    Action,
    Append,
    AtRevision,
    Comparison,
    Create,
    Delete,
    Entry,
    HasValue,
    RemovePath,
    Set,
    SetPath,
    Transaction,
    check_lease,
    read_value,
)

MOST_SUBTREES: Final = 16
"""Of one reading; keys are as many as a transaction has."""
LARGE: Final = 32 * 1024
"""Characters from which on a request or an answer is worked on in a thread."""


# -- texts


def stored(text: str) -> str:
    """The JSON text that stands for the forerunner's ``text``.  Raises ``ConfigError``."""
    if len(text) > MOST_VALUE:
        raise ConfigError(Code.TOO_LARGE, f"a value has at most {MOST_VALUE} bytes")
    try:
        value = read_json(text)
    except BadWire:
        value = ""
    return text if not isinstance(value, str) else _json(text)


def told(entry: Entry) -> str:
    """The text that ``stored`` made the value of, or one for a value that another wrote.  Raises ``ConfigError``."""
    text = entry.text() or ""
    if not text.lstrip(" \t\r\n").startswith('"'):
        return text
    value = read_value(text)
    assert isinstance(value, str)
    return value


def text_of(params: Mapping[str, Json], name: str) -> str:
    """Raises ``ConfigError``."""
    found = params.get(name)
    if not isinstance(found, str):
        raise ConfigError(Code.INVALID, f"{name!r} is a text, and is needed")
    return found


def path_action(key: str, path: str, value: Json) -> Action:
    """Put ``value`` where ``path`` leads; null removes what is there, as with the forerunner."""
    return RemovePath(key, path) if value is None else SetPath(key, path, _json(value))


def text_transaction(params: Mapping[str, Json]) -> Transaction:
    """``sys_config_exec_tx``: ``actions`` by key, if ``main_key`` is at its revision.  Raises ``ConfigError``."""
    wanted = params.get("actions")
    if not isinstance(wanted, Mapping):
        raise ConfigError(Code.INVALID, "'actions' is an object, and is needed")
    actions: list[Action] = []
    for key, said in wanted.items():
        if not isinstance(said, Mapping):
            raise ConfigError(Code.INVALID, f"{key[:80]}: an action is an object")
        actions += _text_actions(key, said)
    return Transaction(tuple(actions), _main_key(params.get("main_key")))


def _text_actions(key: str, said: Mapping[str, Json]) -> list[Action]:
    match said.get("action"):
        case "create":
            return [Create(key, stored(text_of(said, "value")))]
        case "update":
            return [Set(key, stored(text_of(said, "value")))]
        case "append":
            return [Append(key, _json(text_of(said, "value")))]
        # The second is how a client of the forerunner misspells it.
        case "set_by_path" | "set_py_path":
            paths = said.get("all_set")
            if not isinstance(paths, Mapping) or not paths:
                raise ConfigError(Code.INVALID, f"{key[:80]}: 'all_set' is an object of paths and values")
            return [path_action(key, path, value) for path, value in paths.items()]
        case "remove":
            return [Delete(key)]
        case other:
            raise ConfigError(Code.INVALID, f"{key[:80]}: {str(other)[:40]!r} is no action")


def _main_key(said: Json) -> tuple[Comparison, ...]:
    if said is None:
        return ()
    if isinstance(said, str):
        key, _, digits = said.rpartition(":")
        revision: Json = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 17 else None
    elif isinstance(said, Mapping):
        key, revision = text_of(said, "key"), said.get("revision")
    else:
        key, revision = "", None
    if type(revision) is not int:
        raise ConfigError(Code.INVALID, "'main_key' is a key and the revision it has to be at")
    return (AtRevision(key, revision),)


# -- values


def read_transaction(params: Mapping[str, Json]) -> Transaction:
    """``transact``: ``actions`` in their order, if all of ``if`` holds.  Raises ``ConfigError``."""
    actions, comparisons = _objects(params, "actions"), _objects(params, "if")
    return Transaction(tuple(map(_action, actions)), tuple(map(_comparison, comparisons)))


def _action(said: Mapping[str, Json]) -> Action:
    key = text_of(said, "key")
    match said.get("do"):
        case "set":
            _only(said, "key", "do", "value", "text", "lease")
            return Set(key, _value(said), lease_of(said))
        case "create":
            _only(said, "key", "do", "value", "text", "lease")
            return Create(key, _value(said), lease_of(said))
        case "append":
            _only(said, "key", "do", "value")
            return Append(key, _value(said))
        case "set-path":
            _only(said, "key", "do", "path", "value")
            return SetPath(key, text_of(said, "path"), _value(said))
        case "remove-path":
            _only(said, "key", "do", "path")
            return RemovePath(key, text_of(said, "path"))
        case "delete":
            _only(said, "key", "do")
            return Delete(key)
        case other:
            raise ConfigError(Code.INVALID, f"{str(other)[:40]!r} is no action")


def _comparison(said: Mapping[str, Json]) -> Comparison:
    key = text_of(said, "key")
    if "value" in said:
        _only(said, "key", "value")
        return HasValue(key, _value(said))
    _only(said, "key", "revision")
    return AtRevision(key, integer(said, "revision"))


def read_scope(said: Json) -> Scope:
    """``{"at": KEY}``, ``{"below": PREFIX}`` or ``{"each": "PREFIX/*/NAME"}``.  Raises ``ConfigError``."""
    if isinstance(said, Mapping) and len(said) == 1:
        if "at" in said:
            return At(text_of(said, "at"))
        if "below" in said:
            return Below(text_of(said, "below"))
        if "each" in said:
            prefix, _, name = text_of(said, "each").partition("/*/")
            return Each(prefix, name)
    raise ConfigError(Code.INVALID, "a scope is one of {'at': KEY}, {'below': PREFIX} and {'each': 'PREFIX/*/NAME'}")


def plain_scope(scope: Scope) -> dict[str, Json]:
    """What ``read_scope`` reads."""
    match scope:
        case At(key):
            return {"at": key}
        case Below(prefix):
            return {"below": prefix}
        case Each():
            return {"each": str(scope)}


def read_scopes(params: Mapping[str, Json]) -> list[Scope]:
    """``scopes`` of a reading.  Raises ``ConfigError``."""
    said = _objects(params, "scopes")
    if len(said) > MOST_ACTIONS or sum("at" not in scope for scope in said) > MOST_SUBTREES:
        raise ConfigError(Code.INVALID, f"'scopes' are {MOST_ACTIONS} at most, and {MOST_SUBTREES} of them subtrees")
    return [read_scope(scope) for scope in said]


def integer(params: Mapping[str, Json], name: str, default: int | None = None) -> int:
    """Raises ``ConfigError``."""
    found = params.get(name, default)
    if type(found) is not int or found < 0:
        raise ConfigError(Code.INVALID, f"{name!r} is a number from 0 on, and is needed")
    return found


def lease_of(params: Mapping[str, Json]) -> int:
    """``lease``, in digits because etcd's are larger than numbers of JSON; 0 where there is none.

    Raises ``ConfigError``.
    """
    digits = text_of(params, "lease") if "lease" in params else "0"
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ConfigError(Code.INVALID, "'lease' is a text of digits")
    return check_lease(int(digits))


def plain(entry: Entry, *, as_text: bool = False) -> dict[str, Json]:
    """An entry for callers: a deletion has no ``value``, and neither has one that cannot be read.

    ``as_text``: with ``text`` instead, as the store has it.
    """
    said: dict[str, Json] = {
        "key": entry.key,
        "revision": entry.revision,
        "created": entry.created,
        "version": entry.version,
    }
    if entry.lease:
        said["lease"] = str(entry.lease)
    if entry.fault is not None:
        said["fault"] = entry.fault
    elif entry.value is not None:
        said |= {"text": entry.value} if as_text else {"value": read_value(entry.value)}
    return said


def read_entry(untrusted: Json) -> Entry:
    """What ``plain`` wrote with ``as_text``.  Raises ``ConfigError``."""
    if not isinstance(untrusted, Mapping):
        raise ConfigError(Code.INVALID, "an entry is an object")
    key, text, fault = check_key(text_of(untrusted, "key")), untrusted.get("text"), untrusted.get("fault")
    if text is not None and not isinstance(text, str):
        raise ConfigError(Code.INVALID, f"{key}: 'text' is a text")
    if fault not in (None, Code.DENIED, Code.DAMAGED):
        raise ConfigError(Code.INVALID, f"{key}: no fault of an entry")
    return Entry(
        key,
        text,
        integer(untrusted, "revision"),
        integer(untrusted, "created"),
        integer(untrusted, "version"),
        lease_of(untrusted),
        Code(fault) if isinstance(fault, str) else None,
    )


def is_large(value: Json, room: int = LARGE) -> bool:
    """Whether ``value`` has about ``room`` characters or more; looks at no more than these."""
    waiting = [value]
    while waiting and room > 0:
        found = waiting.pop()
        room -= 8
        if isinstance(found, str):
            room -= len(found)
        elif isinstance(found, Mapping):
            room -= sum(map(len, found)) if len(found) < room else room
            waiting += found.values()
        elif isinstance(found, list | tuple):
            waiting += found
    return room <= 0


def _value(said: Mapping[str, Json]) -> str:
    """``value``, or ``text`` as the store will have it."""
    if ("value" in said) == ("text" in said):
        raise ConfigError(Code.INVALID, "'value' is needed, or 'text'")
    return text_of(said, "text") if "text" in said else _json(said["value"])


def _json(value: Json) -> str:
    try:
        return write_json(value).decode()
    except (ValueError, TypeError, RecursionError) as bad:
        raise ConfigError(Code.INVALID, f"no JSON value: {bad}") from None


def _objects(params: Mapping[str, Json], name: str) -> list[Mapping[str, Json]]:
    found = params.get(name, [])
    if isinstance(found, list | tuple) and all(isinstance(each, Mapping) for each in found):
        return [each for each in found if isinstance(each, Mapping)]
    raise ConfigError(Code.INVALID, f"{name!r} is an array of objects")


def _only(said: Mapping[str, Json], *names: str) -> None:
    if unknown := sorted(said.keys() - set(names)):
        raise ConfigError(Code.INVALID, f"{unknown[0][:40]!r} has no meaning there")

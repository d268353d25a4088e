"""Keys: paths of segments, and the subtrees below them.

A key is at most 512 characters in at most 16 segments between slashes; a segment is at most 128 letters, digits and
``. _ @ + ~ -`` of ASCII, and neither ``.`` nor ``..``.  So a key needs no escaping in a URL path, is a name in any file
system, sorts the same everywhere, and never looks like a pattern (``*``) or a placeholder (``{user}``) of a rule.

``users/alice`` may hold a value and have keys below it; it is not below itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from zone.config.faults import Code, ConfigError

MOST_KEY: Final = 512
MOST_SEGMENT: Final = 128
MOST_SEGMENTS: Final = 16

_SEGMENT: Final = re.compile(rf"(?!\.\.?\Z)[A-Za-z0-9._@+~-]{{1,{MOST_SEGMENT}}}\Z")


def check_key(untrusted: str) -> str:
    """``untrusted``, which is a key.  Raises ``ConfigError``."""
    segments = untrusted.split("/", MOST_SEGMENTS)
    if len(untrusted) > MOST_KEY or len(segments) > MOST_SEGMENTS or not all(map(_SEGMENT.match, segments)):
        raise ConfigError(Code.INVALID, f"{untrusted[:80]!r} is no key")
    return untrusted


@dataclass(frozen=True, slots=True)
class At:
    """One key."""

    key: str

    def __post_init__(self) -> None:
        check_key(self.key)

    def __contains__(self, key: str) -> bool:
        return key == self.key

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Below:
    """Every key below ``prefix``, which may be empty: then every key."""

    prefix: str = ""

    def __post_init__(self) -> None:
        if self.prefix:
            check_key(self.prefix)

    @property
    def start(self) -> str:
        """What each of these keys begins with."""
        return f"{self.prefix}/" if self.prefix else ""

    def __contains__(self, key: str) -> bool:
        return key.startswith(self.start)

    def __str__(self) -> str:
        return f"{self.start}**"


@dataclass(frozen=True, slots=True)
class Each:
    """``PREFIX/*/NAME``: the key ``name`` of each that there is right below ``prefix``, and nothing else of them."""

    prefix: str
    name: str

    def __post_init__(self) -> None:
        check_key(self.prefix)
        check_key(f"{self.prefix}/-/{self.name}")
        if "/" in self.name:
            raise ConfigError(Code.INVALID, f"{self.name[:80]!r} is more than one segment")

    def __contains__(self, key: str) -> bool:
        if not (key.startswith(f"{self.prefix}/") and key.endswith(f"/{self.name}")):
            return False
        return key.count("/") == self.prefix.count("/") + 2

    def __str__(self) -> str:
        return f"{self.prefix}/*/{self.name}"


Scope: TypeAlias = At | Below | Each
"""What is read or watched."""


def interval(scope: Scope) -> tuple[str, str]:
    """The keys of ``scope`` as an interval in the order of their bytes: the first, and the first that is beyond.  For
    ``Each`` others are between them."""
    if isinstance(scope, At):
        return scope.key, scope.key + "\0"
    # "0" follows "/", and DEL follows whatever a key may hold.
    return (f"{scope.prefix}/", f"{scope.prefix}0") if scope.prefix else ("+", "\x7f")


def child(prefix: Below, key: str) -> str:
    """The name right below ``prefix`` on the way to ``key``, which is below it."""
    return key[len(prefix.start) :].partition("/")[0]

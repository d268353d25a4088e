"""Choosing and renaming proxies by their names: ``filter``, ``exclude-filter``, ``exclude-type`` and ``proxy-name``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import re2

from cyfs_ns.errors import ConfigFault
from tunnels.namefilter import NameFilter

_MAX_PATTERN = 4096
_REFERENCE = re.compile(r"\$(?:\$|([0-9]{1,2})|\{([0-9]{1,2})\})")


class Sieve:
    """What stays of a list of proxies.  A text may hold several expressions, split by backticks."""

    def __init__(self, wanted: str = "", unwanted: str = "", types: str = "") -> None:
        """Raises ``ConfigFault`` for an expression that cannot be used."""
        self._wanted = [NameFilter(part) for part in wanted.split("`") if part]
        self._unwanted = [NameFilter(part) for part in unwanted.split("`") if part]
        self._types = {word.strip().lower() for word in types.split("|")} - {""}

    def keep(self, proxies: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Names of the (name, type) pairs that stay: in the order of the wanted expressions, then as they came."""
        left = [
            name
            for name, kind in proxies
            if kind.lower() not in self._types and not any(found.matches(name) for found in self._unwanted)
        ]
        if not self._wanted:
            return tuple(left)
        return tuple(dict.fromkeys(name for found in self._wanted for name in left if found.matches(name)))


def renamer(pattern: str, target: str) -> Callable[[str], str]:
    """Replaces each match of ``pattern``; ``$1`` and ``${1}`` in ``target`` are groups.  Raises ``ConfigFault``."""
    if len(pattern) > _MAX_PATTERN:
        raise ConfigFault(f"an expression may have {_MAX_PATTERN} characters at most")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeError) as fault:
        raise ConfigFault(f"{pattern[:60]!r} is no expression that RE2 can read: {fault}") from None
    groups: int = compiled.groups

    def reference(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        number = int(found[1] or found[2])
        if number > groups:
            raise ConfigFault(f"{target[:60]!r} names group {number}; {pattern[:60]!r} has {groups}")
        return f"\\g<{number}>"

    template = _REFERENCE.sub(reference, target.replace("\\", "\\\\"))

    def rename(name: str) -> str:
        renamed: str = compiled.sub(template, name)
        return renamed

    return rename

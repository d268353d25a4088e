"""Patterns on proxy names, as the ``filter`` keys of groups and providers hold them.

They come with strangers' subscriptions, so they run on RE2, whose time is linear in the name.  RE2 has no look-ahead,
yet real configurations use it for one purpose: ``^(?=.*A)(?!.*B).*$``, "has A and lacks B".  Exactly that form,
look-aheads that begin with ``.*`` at the front of the pattern, is taken apart into plain patterns that must or must not
be found.
"""

from __future__ import annotations

import re
from typing import Any, Final

import re2

from cyfs_ns.errors import ConfigFault

_LONGEST: Final = 4096
_FLAGS: Final = re.compile(r"\(\?[imsU]+\)")
_LOOKAHEAD: Final = re.compile(r"\(\?([=!])(?:\.\*\??)")


class NameFilter:
    """One pattern; it may match anywhere in the name.  Raises ``ConfigFault`` when it cannot be used."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ConfigFault(f"a filter may have {_LONGEST} characters at most")
        flags = found[0] if (found := _FLAGS.match(text)) else ""
        rest = text[len(flags) :].removeprefix("^")
        self._conditions: list[tuple[bool, Any]] = []
        while look := _LOOKAHEAD.match(rest):
            end = _closing(rest, look.end())
            self._add(look[1] == "=", flags + rest[look.end() : end], text)
            rest = rest[end + 1 :]
        self._add(True, flags + "^" + rest if self._conditions else text, text)

    def _add(self, wanted: bool, pattern: str, text: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._conditions.append((wanted, re2.compile(pattern, options)))
        except re2.error as fault:
            raise ConfigFault(f"filter {text!r} cannot be used: {fault}") from None

    def matches(self, name: str) -> bool:
        """Whether the name holds what it must and nothing that it must not."""
        return all((pattern.search(name) is not None) is wanted for wanted, pattern in self._conditions)


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that is open at ``at`` closes; the end of ``text`` when it does not."""
    depth = 1
    in_class = False
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if not depth:
                return at
        at += 1
    return len(text)

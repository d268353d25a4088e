"""Regexes that strangers wrote, many at a time: RE2 sets, which look at a text once whatever they hold.

RE2 runs in time linear in the text and in a fixed memory.  Case does not count, as in mihomo.
"""

from __future__ import annotations

from collections.abc import Sequence

import re2

from cyfs_ns.errors import ConfigFault

_SET_SIZE = 256
_MEMORY = 8 << 20  # bytes a set may use, its cache of states included


def check_regex(pattern: str) -> str:
    """What keeps RE2 from running ``pattern``, or an empty text."""
    try:
        re2.compile(pattern, _options())
    except (re2.error, UnicodeEncodeError) as fault:
        return str(fault) or "it cannot be read"
    return ""


def wildcard_regex(pattern: str) -> str:
    """``*`` is any text, ``?`` any one character, and the whole must match."""
    body = "".join({"*": ".*", "?": "."}.get(letter) or re2.escape(letter) for letter in pattern)
    return f"(?s)\\A{body}\\z"


class PatternSet:
    """Regexes asked together.  Raises ConfigFault when one of them cannot run."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._sets: list[tuple[int, re2.Set]] = []
        for start in range(0, len(patterns), _SET_SIZE):
            self._add(start, patterns[start : start + _SET_SIZE])

    def _add(self, start: int, patterns: Sequence[str]) -> None:
        together = re2.Set.SearchSet(_options())
        try:
            for pattern in patterns:
                together.Add(pattern)
        except (re2.error, UnicodeEncodeError) as fault:
            raise ConfigFault(f"a regex cannot be run by RE2: {fault}") from None
        try:
            together.Compile()
        except re2.error:  # too big to run together; half of them may do
            if len(patterns) == 1:
                raise ConfigFault(f"the regex {patterns[0][:80]!r} needs too much memory: make it simpler") from None
            middle = len(patterns) // 2
            self._add(start, patterns[:middle])
            self._add(start + middle, patterns[middle:])
        else:
            self._sets.append((start, together))

    def matches(self, text: str) -> list[int]:
        """Which of the regexes match somewhere in ``text``."""
        data = text.encode(errors="replace")
        return [start + at for start, together in self._sets for at in together.Match(data) or ()]


def _options() -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _MEMORY
    return options

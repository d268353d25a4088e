"""Lines of the log that others can cause, as often as they like.

Of each of them a few are told in a minute; the next one that is told says how many were not.  When there are too many
to remember, those who are new count as one.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

_SECONDS: Final = 60.0
_MOST: Final = 1024


class Seldom:
    """``line`` of ``log``, at most ``most`` times a minute by the same."""

    def __init__(self, log: logging.Logger, line: str, most: int = 1) -> None:
        self._log, self._line, self._most = log, line, most
        self._told: dict[object, tuple[float, int, int]] = {}
        """By whom: until when they are counted, how many lines were told, and how many were not."""

    def tell(self, *what: object, by: object = None) -> None:
        """``what`` the line says of whoever ``by`` is."""
        now = trio.current_time()
        if by not in self._told and len(self._told) >= _MOST:
            self._told = {one: told for one, told in self._told.items() if now < told[0]}
            if len(self._told) >= _MOST:
                by = None
        until, told, untold = self._told.get(by, (0.0, 0, 0))
        if now >= until:
            until, told = now + _SECONDS, 0
        if told == self._most:
            self._told[by] = until, told, untold + 1
            self._log.debug(self._line, *what)
            return
        self._told[by] = until, told + 1, 0
        more = f" ({untold} more since the last such line)" if untold else ""
        self._log.info(self._line + more, *what)

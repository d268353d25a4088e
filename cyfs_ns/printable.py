"""Text from strangers, made safe to show on one line of a terminal or a log.

Host names, user names and error texts come from the wire.  Shown raw they could forge a second log record (CR, LF),
drive the terminal (ESC and C1 controls) or reorder what the eye reads (bidirectional controls).  Everything of that
kind is replaced by its visible escape, so nothing is lost and nothing acts.
"""

from __future__ import annotations

import re

_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str) -> str:
    """``text`` on one line, with characters that act rather than show as ``\\n``, ``\\x1b``, ``\\u202e`` ..."""
    if text.isprintable():
        return text
    return _ACTS.sub(lambda hit: hit.group().encode("unicode_escape").decode("ascii"), text)

"""Names of files that strangers chose, and what is derived from them.

A name from afar is one component of a path and nothing else: it leads nowhere, hides nothing, is no option to a program
and draws nothing on a terminal.  What breaks that is refused rather than mended, since two names could become one.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

from cyfs_ns.errors import BadWire

MOST_NAME: Final = 200
"""Bytes of UTF-8; file systems take 255, and a partial file has a longer name than the whole."""

_DRAWN_ELSEWHERE: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""They turn the direction of writing: with them ``exe.gpj`` is shown as something else."""
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_name(untrusted: str) -> str:
    """``untrusted``, if it can be the name of a file here.  Raises ``BadWire``, which says why not."""
    try:
        size = len(untrusted.encode())
    except UnicodeEncodeError:
        raise BadWire("a name that is no UTF-8") from None
    if not 0 < size <= MOST_NAME:
        raise BadWire(f"a name of {size} bytes, at most {MOST_NAME} are taken")
    if "/" in untrusted or "\\" in untrusted:
        raise BadWire("a name with a path in it")
    if untrusted[0] in ".-~" or untrusted[0].isspace() or untrusted[-1].isspace():
        raise BadWire("a name that begins with a dot, dash or tilde, or with or after a space")
    if any(unicodedata.category(letter) in _FORBIDDEN or letter in _DRAWN_ELSEWHERE for letter in untrusted):
        raise BadWire("a name with control characters")
    return untrusted


def part_name(name: str, sender: str, size: int, mtime: int) -> str:
    """Where ``sender``'s file of that name, size and time of change is kept until it is whole."""
    return f"{part_prefix(name, sender)}{_short(f'{size} {mtime}')}.part"


def part_prefix(name: str, sender: str) -> str:
    """What the names of all partial files of this name and sender begin with."""
    return f".{name}.{_short(sender)}-"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

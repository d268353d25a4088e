"""The code that stands on the terminal of a machine and lets a person accept an owner for it on its page.

Ten letters and digits that are not mistaken for each other, 50 bits.  It is good for one activation.  Who guesses is
slowed down to a pace at which nobody gets through; that slows the owner down too, who can do without the page.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import Final

_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MEANT: Final = str.maketrans("ILOU", "110V")
"""As people read them (Crockford's base 32); U is none of the letters."""
DICE: Final = 10
"""Random bytes for one code."""
WRONG_AT_ONCE: Final = 10
"""Wrong codes that are answered without delay."""
SECONDS_EACH: Final = 10.0
"""After these one more wrong code is."""


class Answer(Enum):
    """Whether a code is the one."""

    RIGHT = "right"
    WRONG = "wrong"
    LATER = "later"


def make_code(dice: bytes) -> str:
    """A code of ``DICE`` random bytes."""
    letters = "".join(_LETTERS[byte & 31] for byte in dice[:DICE])
    return f"{letters[:5]}-{letters[5:]}"


class Guard:
    """One code, and how often it was guessed."""

    def __init__(self, code: str) -> None:
        self._digest = _digest(code)
        self._wrong = 0.0
        self._at = 0.0

    def look(self, untrusted: str, now: float) -> Answer:
        """Whether ``untrusted`` is the code; ``now`` is monotonic, in seconds."""
        self._wrong = max(0.0, self._wrong - (now - self._at) / SECONDS_EACH)
        self._at = now
        if self._wrong > WRONG_AT_ONCE - 1:
            return Answer.LATER
        if hmac.compare_digest(_digest(untrusted), self._digest):
            return Answer.RIGHT
        self._wrong += 1
        return Answer.WRONG


def _digest(code: str) -> bytes:
    plain = code[:100].upper().replace("-", "").replace(" ", "").translate(_MEANT)
    return hashlib.sha256(plain.encode("utf-8", "replace")).digest()

"""A key as 24 English words, for paper (BIP-39).

The words spell the 32 bytes of the seed itself and 8 bits of checksum.  They are no wallet: nothing is derived from
them, and there is no passphrase that could be forgotten.  Errors name the place of a word and never the word.
"""

from __future__ import annotations

import functools

from mnemonic import Mnemonic

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import SecretKey

COUNT = 24

_MOST = 4096


def words_of(key: SecretKey) -> tuple[str, ...]:
    """The words that bring ``key`` back."""
    return tuple(_english().to_mnemonic(key.seed).split(" "))


def key_of(written: str) -> SecretKey:
    """The key behind ``written``: words in any case, with any space between, numbered or not.  Raises ``BadWire``."""
    if len(written) > _MOST:
        raise BadWire(f"{COUNT} words are shorter than this")
    words = [word for word in written.lower().split() if not word.rstrip(".):").isdigit()]
    if len(words) != COUNT:
        raise BadWire(f"{len(words)} words, and a key has {COUNT}")
    known = _known()
    if wrong := [str(at) for at, word in enumerate(words, 1) if word not in known]:
        which = f"word {wrong[0]} is" if len(wrong) == 1 else f"words {', '.join(wrong)} are"
        raise BadWire(f"{which} not in the list of BIP-39; look for a letter that was misread")
    try:
        return SecretKey(bytes(_english().to_entropy(words)))
    except ValueError:
        raise BadWire("the checksum of the words is wrong: one is another word, or two changed places") from None


@functools.cache
def _english() -> Mnemonic:
    return Mnemonic("english")


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(_english().wordlist)

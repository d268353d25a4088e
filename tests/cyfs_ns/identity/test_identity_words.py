"""Words: the published vectors of BIP-39 with 256 bits, and what people do to words on paper."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.words import key_of, words_of

VECTORS = [
    ("00" * 32, "abandon " * 23 + "art"),
    (
        "7f" * 32,
        "legal winner thank year wave sausage worth useful " * 2 + "legal winner thank year wave sausage worth title",
    ),
    (
        "80" * 32,
        "letter advice cage absurd amount doctor acoustic avoid " * 2
        + "letter advice cage absurd amount doctor acoustic bless",
    ),
    ("ff" * 32, "zoo " * 23 + "vote"),
    (
        "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c",
        "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel tennis"
        " maple dilemma loan word shrug inflict delay length",
    ),
    (
        "9f6a2878b2520799a44ef18bc7df394e7061a224d2c33cd015b157d746869863",
        "panda eyebrow bullet gorilla call smoke muffin taste mesh discover soft ostrich alcohol speed nation flash"
        " devote level hobby quick inner drive ghost inside",
    ),
    (
        "066dca1a2bb7e8a1db2832148ce9933eea0f3ac9548d793112d9a95c9407efad",
        "all hour make first leader extend hole alien behind guard gospel lava path output census museum junior mass"
        " reopen famous sing advance salt reform",
    ),
    (
        "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
        "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group"
        " space point ten exist slush involve unfold",
    ),
]
"""Trezor's list, the ones of 32 bytes (BIP-39, test vectors)."""


@pytest.mark.parametrize(("entropy", "words"), VECTORS)
def test_the_vectors_of_the_standard(entropy: str, words: str) -> None:
    assert key_of(words).seed.hex() == entropy
    assert " ".join(words_of(SecretKey(bytes.fromhex(entropy)))) == words.strip()


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_there_and_back(seed: bytes) -> None:
    words = words_of(SecretKey(seed))
    numbered = "\n".join(f"{at}. {word.upper()}" for at, word in enumerate(words, 1))
    assert key_of(numbered).seed == seed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("abandon " * 23, "23 words, and a key has 24"),
        ("abandon " * 24, "the checksum of the words is wrong"),
        ("abandon " * 22 + "abandom art", "word 23 is not in the list"),
        ("abandom " * 2 + "abandon " * 21 + "art", "words 1, 2 are not in the list"),
        ("x" * 5000, "24 words are shorter than this"),
    ],
)
def test_what_is_wrong_is_said_without_the_words(words: str, said: str) -> None:
    with pytest.raises(BadWire, match=said) as caught:
        key_of(words)
    assert "aband" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@settings(max_examples=100)
@given(st.text(max_size=300))
def test_whatever_is_typed_is_a_key_or_the_one_error(text: str) -> None:
    with suppress(BadWire):
        key_of(text)

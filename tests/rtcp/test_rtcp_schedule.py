"""Keys: the published vectors of a whole session and of its streams."""

from __future__ import annotations

import hashlib

import pytest

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import dev_did
from rtcp.packet import Purpose
from rtcp.schedule import Keys, Transcript, agree, control_keys, public_of, stream_keys
from tests.rtcp.pair import ALICE, BOB, ID

SHARED = bytes.fromhex("9e004098efc091d4ec2663b4e9f5cfd4d7064571690b4bea97ab146ab9f35056")
TRANSCRIPT = Transcript(
    i_host=f"{ALICE.public.x}.dev.did",
    r_host="responder.example",
    i_did=str(dev_did(ALICE.public)),
    r_did=str(dev_did(BOB.public)),
    i_xpub=public_of(b"\x11" * 32),
    r_xpub=public_of(b"\x22" * 32),
    i_nonce=(1).to_bytes(16, "big"),
    r_nonce=(2).to_bytes(16, "big"),
)


def test_the_keys_of_the_published_session():
    assert TRANSCRIPT.i_xpub.hex() == "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
    assert TRANSCRIPT.r_xpub.hex() == "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"
    assert agree(b"\x11" * 32, TRANSCRIPT.r_xpub) == agree(b"\x22" * 32, TRANSCRIPT.i_xpub) == SHARED
    digest = hashlib.sha256(TRANSCRIPT.tail()).hexdigest()
    assert digest == "2e4cac88cf2c7a8bb528387b854a8602f4240b605275af21159d4fd0fbaaf7c8"
    keys = control_keys(SHARED, TRANSCRIPT)
    assert keys.key.hex() == "47bf0449ba01875bf180c786ef075f40aba9722898927bbd6749c2c997050792"
    assert keys.iv.hex() == "17d57a59172bbd21026a975cda0fe49a"
    assert keys.nonce_base(True).hex() == "abd2297775818fa94964af2a"
    assert keys.nonce_base(False).hex() == "93267bc92b85ca78d3573be5"


@pytest.mark.parametrize(
    ("purpose", "key", "iv"),
    [
        (
            Purpose.STREAM,
            "eac1830621a588a5555108e93fa228aa0f14627c6cd1e7b026188ef54bffd5ec",
            "fa359c5ba01e6514db0d5a784b5cf13e",
        ),
        (
            Purpose.DATAGRAM,
            "c9eb6e1382a53b917549a4ed22b8a8b19942acd1d6cf9b29bc105855c4ee3bba",
            "07aeebf09ba2d11868d6841d4ac2a4a4",
        ),
    ],
)
def test_the_keys_of_the_published_streams(purpose, key, iv):
    keys = stream_keys(bytes(range(32)), ID, purpose)
    assert (keys.key.hex(), keys.iv.hex()) == (key, iv)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_key_that_fixes_the_secret_is_refused(point):
    with pytest.raises(BadWire):
        agree(b"\x11" * 32, point)


def test_keys_do_not_show():
    assert repr(Keys(b"k" * 32, b"i" * 16)) == "Keys()"

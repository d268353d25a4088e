"""A second, small peer of version 4, written from its description alone: the standard library and ``cryptography``.

It shares no line with ``rtcp/``, so that an agreement of the two says something.  It is trusting where ours is careful:
it checks what makes the protocol work, and lets the rest be.

Each step is a generator that yields an ``int`` (so many bytes are needed) or ``bytes`` (to be sent).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HELLO, ACK, PING, PONG, ROPEN, ROPEN_RESP, OPEN, OPEN_RESP, CONFIRM, RESULT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

Step = Generator[int | bytes, bytes, Any]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def compact(value: object, alphabetical: bool = False) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=alphabetical, ensure_ascii=False).encode()


def jwt(claims: dict[str, Any], seed: bytes) -> str:
    signed = b64(b'{"alg":"EdDSA"}') + "." + b64(compact(claims, alphabetical=True))
    return signed + "." + b64(Ed25519PrivateKey.from_private_bytes(seed).sign(signed.encode()))


def verified(token: str, key: bytes) -> dict[str, Any]:
    signed, _, signature = token.rpartition(".")
    Ed25519PublicKey.from_public_bytes(key).verify(unb64(signature), signed.encode())
    claims = json.loads(unb64(signed.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


def expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF with SHA-256 and no salt; all our outputs fit in one block."""
    prk = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")[:size]


def packet(command: int, seq: int, body: dict[str, Any]) -> bytes:
    text = compact(body)
    return (8 + len(text)).to_bytes(2, "big") + bytes((8, command)) + seq.to_bytes(4, "big") + text


class Records:
    """Both directions of one connection; ``dialled``: whether we made it."""

    def __init__(self, key: bytes, iv: bytes, dialled: bool) -> None:
        self._aead = AESGCM(key)
        mine, theirs = (b"A", b"B") if dialled else (b"B", b"A")
        self._bases = [hashlib.sha256(b"rtcp-aead-nonce/" + one + iv).digest()[:12] for one in (mine, theirs)]
        self._counts = [0, 0]
        self._plain = b""

    def _nonce(self, way: int) -> bytes:
        base, count = self._bases[way], self._counts[way].to_bytes(8, "big")
        self._counts[way] += 1
        return base[:4] + bytes(a ^ b for a, b in zip(base[4:], count, strict=True))

    def seal(self, plain: bytes) -> bytes:
        sealed = self._aead.encrypt(self._nonce(0), plain, None)
        return len(sealed).to_bytes(2, "big") + sealed

    def read(self, size: int) -> Step:
        """Exactly ``size`` bytes of plaintext."""
        while len(self._plain) < size:
            length = int.from_bytes((yield 2), "big")
            self._plain += self._aead.decrypt(self._nonce(1), (yield length), None)
        plain, self._plain = self._plain[:size], self._plain[size:]
        return plain


@dataclass
class Tunnel:
    """A tunnel that stands."""

    records: Records
    key: bytes
    peer_hello: dict[str, Any] = field(default_factory=dict)

    def send(self, command: int, seq: int, body: dict[str, Any]) -> Step:
        yield self.records.seal(packet(command, seq, body))

    def receive(self) -> Step:
        """The next packet: command, seq, body."""
        head = yield from self.records.read(8)
        body = yield from self.records.read(int.from_bytes(head[:2], "big") - 8)
        return head[3], int.from_bytes(head[4:], "big"), json.loads(body)

    def leg(self, stream_id: str, purpose: int, dialled: bool) -> Records:
        context = b"\x04" + bytes.fromhex(stream_id) + bytes((purpose,))
        key = expand(self.key, b"buckyos-rtcp stream key|" + context, 32)
        return Records(key, expand(self.key, b"buckyos-rtcp stream iv|" + context, 16), dialled)


@dataclass
class OldPeer:
    """A device: the seed of its key, and what goes into one handshake.

    Two ways to misbehave: ``echo`` is given back for the challenge; who is ``hasty`` pings before it was accepted.
    """

    seed: bytes
    ephemeral: bytes
    nonce: bytes
    challenge: bytes = bytes(16)
    port: int = 2980
    echo: str | None = None
    hasty: bool = False

    @property
    def public(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    @property
    def did(self) -> str:
        return "did:dev:" + b64(self.public)

    @property
    def host(self) -> str:
        return b64(self.public) + ".dev.did"

    @property
    def xpub(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.ephemeral).public_key().public_bytes_raw()

    def dial(self, peer: bytes, now: int, to_id: str, to_host: str) -> Step:
        """A tunnel to the device with the key ``peer``, called ``to_id``."""
        canonical = "did:dev:" + b64(peer)
        claims = {
            "aud": "buckyos-rtcp-v4-hello",
            "to": to_host,
            "canonical_to": canonical,
            "from": self.host,
            "listen_port": self.port,
            "xpub": self.xpub.hex(),
            "iat": now,
            "exp": now + 60,
            "nonce": self.nonce.hex(),
        }
        hello = {"from_id": self.did, "to_id": to_id, "my_port": self.port, "tunnel_token": jwt(claims, self.seed)}
        yield packet(HELLO, 1, hello)
        command, seq, body = yield from plain_packet()
        assert command == ACK
        ack = verified(body["ack_token"], peer)
        assert (ack["aud"], ack["to"], ack["from"]) == ("buckyos-rtcp-v4-ack", self.host, to_host)
        assert ack["peer_xpub"] == self.xpub.hex()
        names = (self.host, to_host, self.did, canonical)
        numbers = (self.xpub.hex(), ack["xpub"], self.nonce.hex(), ack["nonce"])
        tunnel = self._tunnel(ack["xpub"], "".join(f"|{part}" for part in names + numbers), dialled=True)
        yield from tunnel.send(CONFIRM, seq, {"challenge_echo": self.echo or body["challenge"]})
        if self.hasty:
            yield from tunnel.send(PING, 1, {"timestamp": now})
        command, _, body = yield from tunnel.receive()
        assert command == RESULT
        if not body["accepted"]:
            raise PermissionError(body.get("reason", ""))
        return tunnel

    def serve(self, now: int, accept: bool = True) -> Step:
        """A tunnel for whoever dials; only peers that are their key are understood."""
        command, _, hello = yield from plain_packet()
        assert command == HELLO
        peer = unb64(hello["from_id"].removeprefix("did:dev:"))
        claims = verified(hello["tunnel_token"], peer)
        assert claims["aud"] == "buckyos-rtcp-v4-hello" and claims["canonical_to"] == self.did
        assert claims["iat"] - 60 <= now <= claims["exp"] + 60
        ack = {
            "aud": "buckyos-rtcp-v4-ack",
            "to": claims["from"],
            "from": claims["to"],
            "xpub": self.xpub.hex(),
            "peer_xpub": claims["xpub"],
            "iat": now,
            "exp": now + 60,
            "nonce": self.nonce.hex(),
        }
        token = jwt(ack, self.seed)
        told = {"ack_token": token, "challenge": self.challenge.hex(), "responder_id": hello["to_id"]}
        yield packet(ACK, 0, told)
        names = (claims["from"], claims["to"], hello["from_id"], self.did)
        numbers = (claims["xpub"], self.xpub.hex(), claims["nonce"], self.nonce.hex())
        tunnel = self._tunnel(claims["xpub"], "".join(f"|{part}" for part in names + numbers), dialled=False)
        command, seq, body = yield from tunnel.receive()
        assert command == CONFIRM and body["challenge_echo"] == self.challenge.hex()
        yield from tunnel.send(RESULT, seq, {"accepted": True} if accept else {"accepted": False, "reason": "full"})
        tunnel.peer_hello = hello
        return tunnel

    def _tunnel(self, their_xpub: str, tail: str, dialled: bool) -> Tunnel:
        theirs = X25519PublicKey.from_public_bytes(bytes.fromhex(their_xpub))
        shared = X25519PrivateKey.from_private_bytes(self.ephemeral).exchange(theirs)
        key = expand(shared, b"buckyos-rtcp-v4 aes256-key" + tail.encode(), 32)
        iv = expand(shared, b"buckyos-rtcp-v4 iv-salt" + tail.encode(), 16)
        return Tunnel(Records(key, iv, dialled), key)


def plain_packet() -> Step:
    """The next packet of a connection that is not encrypted yet: command, seq, body."""
    head = yield 8
    body = yield int.from_bytes(head[:2], "big") - 8
    return head[3], int.from_bytes(head[4:], "big"), json.loads(body)

"""Finding a device on this very link by its key, without telling anybody who is there.

A device announces nothing.  Whoever looks for one asks the whole link; the question holds a random nonce and, for each
device looked for, a tag that only those can make or recognise who know its public key.  The device answers the asker
alone, with the ports it listens on, signed over the question: so no one can answer in its name, or again later.  What
is found is a hint all the same; whoever dials it has the tunnel's handshake prove who is there.

What an eavesdropper learns is that somebody looks for somebody.  Who knows a device's key already learns whether it is
on his link, as he would by scanning it.

The link is the limit: both sides send with a hop limit of 255 and take nothing less, which no router lets through
(RFC 5082).  An answer is never larger than its question, which is padded for that.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from struct import Struct

from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.keys import PublicKey, SecretKey

PORT = 2981
"""UDP, of questions; answers go to where the question came from."""
GROUPS = {4: "239.255.41.81", 6: "ff02::c:29:81"}
"""The multicast addresses that are asked, by IP version."""
HOPS = 255
NONCE_SIZE = 16
QUESTION_SIZE = 192
MOST_SOUGHT = 8
"""Devices one question can look for."""
MOST_ADDRESSES = 3
"""Addresses an answer can tell besides the one it comes from."""

_ASKS, _SAYS = b"cyfs-lan?\1", b"cyfs-lan!\1"
_TAG_SIZE, _SIGNATURE_SIZE = 16, 64
_HEAD = len(_ASKS) + NONCE_SIZE
_PORTS = Struct(">HH")
_TAGGED, _SIGNED = b"cyfs lan tag 1", b"cyfs lan answer 1"


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asks the link."""

    nonce: bytes
    tags: tuple[bytes, ...]

    def seeks(self, key: PublicKey) -> bool:
        """Whether it looks for the device with ``key``."""
        tag = _tag(key, self.nonce)
        return any(hmac.compare_digest(tag, one) for one in self.tags)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device says of itself: ports it listens on (0: not at all), and further addresses of it on that link."""

    key: PublicKey
    tcp: int
    udp: int
    addresses: tuple[str, ...] = ()


def write_question(keys: Collection[PublicKey], nonce: bytes) -> bytes:
    """Ask for the devices with ``keys``, 1 to ``MOST_SOUGHT``; ``nonce`` is ``NONCE_SIZE`` random bytes, used once."""
    if not 0 < len(keys) <= MOST_SOUGHT or len(nonce) != NONCE_SIZE:
        raise Misuse(f"{len(keys)} devices and a nonce of {len(nonce)} bytes")
    tags = b"".join(_tag(key, nonce) for key in keys)
    return (_ASKS + nonce + bytes((len(keys),)) + tags).ljust(QUESTION_SIZE, b"\0")


def read_question(untrusted: bytes) -> Question:
    """Raises ``BadWire``."""
    if len(untrusted) != QUESTION_SIZE or not untrusted.startswith(_ASKS):
        raise BadWire("no question for a device of the LAN")
    count, first = untrusted[_HEAD], _HEAD + 1
    last = first + count * _TAG_SIZE
    if not 0 < count <= MOST_SOUGHT or untrusted[last:].strip(b"\0"):
        raise BadWire("a question for a device of the LAN is malformed")
    tags = tuple(untrusted[at : at + _TAG_SIZE] for at in range(first, last, _TAG_SIZE))
    return Question(untrusted[len(_ASKS) : _HEAD], tags)


def write_answer(own: SecretKey, question: Question, tcp: int, udp: int, addresses: Sequence[str] = ()) -> bytes:
    """Answer ``question``, which seeks ``own``; of ``addresses`` the first ``MOST_ADDRESSES`` are told."""
    told = b"".join(_pack(address) for address in addresses[:MOST_ADDRESSES])
    said = _tag(own.public, question.nonce) + _PORTS.pack(tcp, udp) + told
    head = _SAYS + question.nonce
    return head + said + own.sign(_SIGNED + head + said)


def read_answer(untrusted: bytes, nonce: bytes, sought: Collection[PublicKey]) -> Answer:
    """An answer to the question with ``nonce`` for the devices ``sought``.  Raises ``BadWire`` for anything else."""
    if len(untrusted) > QUESTION_SIZE or not untrusted.startswith(_SAYS + nonce):
        raise BadWire("no answer to this question")
    said, signature = untrusted[_HEAD:-_SIGNATURE_SIZE], untrusted[-_SIGNATURE_SIZE:]
    if len(said) < _TAG_SIZE + _PORTS.size:
        raise BadWire("an answer of a device of the LAN is cut short")
    key = next((one for one in sought if hmac.compare_digest(_tag(one, nonce), said[:_TAG_SIZE])), None)
    if key is None or not key.verify(signature, _SIGNED + untrusted[:_HEAD] + said):
        raise BadWire("an answer that no device looked for has signed")
    tcp, udp = _PORTS.unpack_from(said, _TAG_SIZE)
    return Answer(key, tcp, udp, _unpack(said[_TAG_SIZE + _PORTS.size :]))


def _tag(key: PublicKey, nonce: bytes) -> bytes:
    return hmac.new(key.raw, _TAGGED + nonce, hashlib.sha256).digest()[:_TAG_SIZE]


def _pack(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return bytes((len(packed),)) + packed


def _unpack(signed: bytes) -> tuple[str, ...]:
    """Addresses in what a device has signed.  Raises ``BadWire``."""
    found: list[str] = []
    while signed:
        end = signed[0] + 1
        if signed[0] not in (4, 16) or len(signed) < end or len(found) == MOST_ADDRESSES:
            raise BadWire("the addresses of a device of the LAN are malformed")
        found.append(str(ipaddress.ip_address(signed[1:end])))
        signed = signed[end:]
    return tuple(found)

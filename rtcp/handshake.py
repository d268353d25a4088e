"""The handshake's arithmetic: two messages out of two secrets, and one set of keys out of both.

``greet`` and ``conclude`` are the dialler's, ``answer`` the responder's.  Each side puts in an ephemeral key and signs
it together with the peer's name; the responder signs over the dialler's ephemeral key, too.  So neither can be led to
believe that it speaks with a third (unknown key share), and a stolen device key lets nobody pose as others towards it.

``entropy`` is ``ENTROPY_SIZE`` random bytes, new for every handshake.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.token import read_token
from rtcp.admission import ProvenHello
from rtcp.offer import marked
from rtcp.packet import Hello, HelloAck
from rtcp.party import Local, Remote
from rtcp.schedule import Keys, Transcript, agree, control_keys, public_of
from rtcp.tokens import LIFETIME, AckClaims, HelloClaims, check_times, read_ack_claims, sign_ack, sign_hello

ENTROPY_SIZE = 64
"""32 bytes of ephemeral key, 16 of nonce, 16 of challenge."""


@dataclass(frozen=True, slots=True)
class Session:
    """What both sides hold in the end; ``challenge`` is 32 hex digits."""

    keys: Keys
    challenge: str = field(repr=False)


def greet(
    local: Local, remote: Remote, entropy: bytes, now: float, *, offers: bool = False
) -> tuple[Hello, HelloClaims]:
    """The Hello for ``remote`` at ``now`` (seconds since 1970), and what it claims.

    ``offers``: its nonce is marked, so that a peer which speaks version 5 answers in that (``offer.py``).  Raises
    ``BadWire`` if one of the two identities has no host form.
    """
    xpub = public_of(entropy[:32])
    claims = HelloClaims(
        to=local.host(remote.did),
        canonical_to=str(remote.canonical),
        sender=local.host(local.did),
        listen_port=local.listen_port,
        xpub=xpub,
        iat=int(now),
        exp=int(now) + LIFETIME,
        nonce=marked(xpub, entropy[32:40]) if offers else entropy[32:48],
    )
    token = sign_hello(claims, local.key)
    return Hello(str(local.did), str(remote.did), local.listen_port, token, local.device_doc_jwt), claims


def answer(local: Local, proven: ProvenHello, entropy: bytes, now: float) -> tuple[HelloAck, Session]:
    """The responder's answer to an admitted Hello.  Raises ``BadWire`` for a worthless ephemeral key."""
    hello = proven.claims
    claims = AckClaims(
        to=hello.sender,
        sender=hello.to,
        xpub=public_of(entropy[:32]),
        peer_xpub=hello.xpub,
        iat=int(now),
        exp=int(now) + LIFETIME,
        nonce=entropy[32:48],
    )
    keys = _keys(agree(entropy[:32], hello.xpub), hello, claims, proven.device)
    challenge = entropy[48:64].hex()
    return HelloAck(sign_ack(claims, local.key), challenge, str(local.did)), Session(keys, challenge)


def conclude(
    local: Local, remote: Remote, hello: HelloClaims, entropy: bytes, untrusted: HelloAck, now: float
) -> Session:
    """The dialler's side: whether the answer to ``hello`` is ``remote``'s, and the keys.  Raises ``BadWire``."""
    token = read_token(untrusted.ack_token, "ack token")
    if not token.verify(remote.key):
        raise BadWire(f"the answer is not signed by {remote.key.x}: somebody else is at this address")
    claims = read_ack_claims(token)
    check_times(claims, now)
    if (claims.to, claims.sender, claims.peer_xpub) != (hello.sender, hello.to, hello.xpub):
        raise BadWire("the answer is to another Hello than ours")
    keys = _keys(agree(entropy[:32], claims.xpub), hello, claims, local.canonical)
    return Session(keys, untrusted.challenge)


def _keys(shared: bytes, hello: HelloClaims, ack: AckClaims, dialler: Did) -> Keys:
    return control_keys(
        shared,
        Transcript(
            i_host=hello.sender,
            r_host=hello.to,
            i_did=str(dialler),
            r_did=hello.canonical_to,
            i_xpub=hello.xpub,
            r_xpub=ack.xpub,
            i_nonce=hello.nonce,
            r_nonce=ack.nonce,
        ),
    )

"""What a handshake leaves to whoever goes on: the same value on both sides."""

from __future__ import annotations

from dataclasses import dataclass, field

from cyfs_ns.identity.keys import PublicKey
from rtcp.v5.carrier import Carrier
from rtcp.v5.noise import Split
from rtcp.v5.payloads import Introduction, Parameters, common_cipher
from rtcp.v5.schedule import secrets_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Established:
    """A carrier whose two ends have proved their keys to each other; the verdict of the called is still out.

    ``tunnel`` is the id that a new tunnel gets by this handshake; if the caller came for a standing one, it means
    nothing.  ``called`` tells our side.  ``parameters`` are the peer's.
    """

    carrier: Carrier = field(repr=False)
    tunnel: bytes = field(repr=False)
    called: bool
    peer: PublicKey
    parameters: Parameters


def establish(split: Split, said: Introduction, answered: Parameters, peer: PublicKey, *, called: bool) -> Established:
    """What follows from a finished handshake in which the caller ``said`` and the called ``answered``."""
    secrets = secrets_of(split.k1, split.k2, split.h)
    cipher = common_cipher(said.parameters, answered)
    return Established(
        carrier=Carrier(secrets, cipher, called=called, leg=said.channel != 0),
        tunnel=secrets.tunnel,
        called=called,
        peer=peer,
        parameters=said.parameters if called else answered,
    )

"""Who calls a service, as far as it was proven.

A ``Caller`` is made only by what verified something: a token, by the keys of the zone's verify_hub, or the key of the
device at the far end of a tunnel.  What a request says of itself never makes one.  Whoever proved nothing is
``NOBODY``, who has no subject; since a right needs one subject at least, no rule allows them anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.identity.keys import PublicKey
from zone.config.access import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody whose identity was proven."""

    name: str
    """For logs and limits: the same for the same caller, whatever token they come with."""
    subjects: tuple[Subject, ...]
    """For the rules of access; each of them has to be allowed (an app and the user that it acts for)."""
    token_id: str = field(default="", repr=False)
    """``jti`` of the token that proved it; empty: no token did."""
    app: str = ""
    user: str = ""
    device: str = ""
    """The name of the machine in its zone, where one is meant."""
    expires: float | None = None
    """Unix seconds until which the proof is good; None: for as long as what it came by stands."""
    key: PublicKey | None = None
    """Of the machine, where it was proven by a tunnel."""

    @property
    def behind(self) -> str:
        """Who answers for it, for limits: the user, whatever app acts for them, or the machine that a service is on."""
        return f"user:{self.user}" if self.user else f"device:{self.device}" if self.device else self.name


NOBODY: Final = Caller(name="", subjects=())
"""Who proved nothing.  A service that has something for everybody, such as logging in, answers them too."""

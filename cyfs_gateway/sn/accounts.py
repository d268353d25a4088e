"""What an SN writes down: accounts, their machines and names, and the invitations that let strangers in.

An account *is* its owner's DID; there are no passwords, so there is nothing to leak.  A machine belongs to the account
whose owner signed its document.  A name is one label below the SN's domain, or a whole domain that its owner proved
theirs; a name that was given up stays its last owner's for a while, so that nobody can pick up the visitors of another.
An invitation is known here by the digest of its code only.

The values never change; a :class:`Change` is one of them before and after, which makes every change reversible.
All times are seconds since 1970, all DIDs canonical.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from cyfs_gateway.sn.quota import Quota
from cyfs_ns.errors import BadWire, Misuse
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Revision

CODE_BYTES = 10
"""Random bytes in an invitation code: 80 bits, so that guessing is hopeless and its bare digest safe to keep."""


class Stamp(NamedTuple):
    """When a request was signed, and its place among those of one second: only a later one is ever obeyed."""

    iat: int
    seq: int


NEVER = Stamp(0, 0)
"""Before every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody who may use this SN.

    ``key`` signs for the owner.  ``quota`` is None for the SN's usual one.  ``asked`` is the last request that was
    obeyed, ``mark`` the last owner document.  Device documents issued before ``least_iat`` are void.  ``suspended`` is
    why the account is barred, empty if it is not; ``closed`` when its owner gave it up.
    """

    owner: Did
    key: PublicKey
    since: int
    quota: Quota | None = None
    asked: Stamp = NEVER
    mark: Revision | None = None
    least_iat: int = 0
    suspended: str = ""
    closed: int | None = None

    @property
    def barred(self) -> str:
        """Why nothing is done for this account, empty if it stands."""
        return "the account was closed by its owner" if self.closed is not None else self.suspended


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A machine of ``owner``, called ``name`` by them.

    ``mark`` is the document it was admitted by, which ends at ``expires``; ``mini`` is its short form for DNS, as a
    token, empty if there is none.  A machine that was ``removed`` is kept until then, lest the same document bring it
    back.  ``did`` is always that of its key.
    """

    did: Did
    owner: Did
    name: str
    since: int
    mark: Revision
    expires: int
    mini: str = field(default="", repr=False)
    removed: int | None = None

    @property
    def key(self) -> PublicKey:
        key = self.did.key
        assert key is not None
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where a machine says it is (``addresses``) and where its report came from (``observed``), canonical addresses.

    ``iat`` dates the report by the machine's clock, ``seen`` by ours.
    """

    did: Did
    iat: int
    seen: int
    addresses: tuple[str, ...]
    observed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A label below the SN's domain, or (with a dot in it) a domain of its owner's.

    ``device`` answers for it; None, or one that is gone: the machine that was admitted first.  ``released`` is when
    the name was given up.  ``boot`` is the boot document of the zone that bears the name, as a token, and ``issuers``
    are the certificate authorities its owner wants (RFC 8659 §4.2): to be published in DNS, both empty if not said.
    """

    name: str
    owner: Did
    since: int
    device: Did | None = None
    boot: str = field(default="", repr=False)
    issuers: tuple[str, ...] = ()
    released: int | None = None

    @property
    def is_domain(self) -> bool:
        return "." in self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Lets ``uses`` strangers in before ``expires``, with ``quota`` (None: the usual one).  ``note`` is for people."""

    digest: str = field(repr=False)
    uses: int
    used: int = 0
    expires: int
    quota: Quota | None = None
    note: str = ""


Entry: TypeAlias = Account | Device | Whereabouts | Name | Invitation
_E = TypeVar("_E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Change(Generic[_E]):
    """One entry ``before`` and ``after``; None where there was none, or is none any more."""

    before: _E | None
    after: _E | None

    @property
    def entry(self) -> _E:
        """What is there after it, or was before."""
        entry = self.before if self.after is None else self.after
        if entry is None:
            raise Misuse("a change of nothing into nothing")
        return entry

    @property
    def undone(self) -> Change[_E]:
        """The change that takes this one back."""
        return Change(self.after, self.before)


AnyChange: TypeAlias = Change[Account] | Change[Device] | Change[Whereabouts] | Change[Name] | Change[Invitation]


def code_of(random: bytes) -> str:
    """``random`` bytes (:data:`CODE_BYTES` of them) as a code to be read aloud: ``k4n2-…``, no 0, 1, 8 or 9 in it."""
    text = base64.b32encode(random).decode("ascii").lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def digest_of(code: str) -> str:
    """By what a code is known here, however its reader spelt it.  Raises ``BadWire`` for what is no code."""
    bare = code.replace("-", "").replace(" ", "").upper()
    try:
        secret = base64.b32decode(bare)
    except ValueError:
        secret = b""
    if len(secret) != CODE_BYTES:
        raise BadWire("not an invitation code: they look like abcd-efgh-ijkl-mnop")
    return hashlib.sha256(b"cyfs sn invitation\n" + secret).hexdigest()

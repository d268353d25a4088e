"""Whether a stranger's Hello is answered: the checks in their order, cheap and certain before dear and doubtful.

1. The Hello and its token say the same, and the token is in force.
2. A key that may be the sender's: of the device document it brought, or of the ``did:dev`` it is.
3. The token is signed with that key.  *Nothing is looked up for anybody before this*: strangers cannot make us ask.
4. It is meant for us.
   Up to here :func:`examine` decides alone and gives what was proven.  Then a resolver is asked, and :func:`decide`
   judges what it found:
5. An identity its authority has disowned comes back only by that authority's own fresh word.
6. The document is vouched for, gives the very key that was proven, and its bearer is near enough to us.
7. A name belongs to one device.
8. Last, the nonce is new (``nonces.py``): only a Hello that would be accepted takes room in that memory.

The document that a Hello brings is read for its key alone; before step 6 it is a stranger's word about a stranger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Did, dev_did, subject
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token, read_token
from rtcp.packet import Hello
from rtcp.party import Local
from rtcp.tokens import HelloClaims, check_times, read_hello_claims


class Relation(IntEnum):
    """How near a peer is: the more, the nearer."""

    ANY = 0
    KNOWN_OWNER = 1
    SAME_ZONE = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may knock.  ``anonymous``: peers that are a key and no name; ``least``: how near a named one has to be."""

    anonymous: bool = True
    least: Relation = Relation.ANY


@dataclass(frozen=True, slots=True)
class Proven:
    """Who knocks holds ``key``.  That it is also ``named`` is only said, unless that is the key itself."""

    key: PublicKey
    named: Did
    document: Token | None = field(default=None, repr=False)

    @property
    def device(self) -> Did:
        """The identity that was proven: ``did:dev`` of the key."""
        return dev_did(self.key)

    @property
    def anonymous(self) -> bool:
        """Whether there is nothing but the key: no name, nobody's word, and so nothing to look up."""
        return self.document is None


@dataclass(frozen=True, slots=True)
class ProvenHello(Proven):
    """Proven by a Hello, with these ``claims``."""

    claims: HelloClaims = field(kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a resolver found about the name.

    ``key`` is what the verified document gives (None: nothing vouches for it); ``disowned``: its authority said no
    once; ``fresh_word``: the document came just now from that authority itself; ``bound_to``: the device that holds
    the name already.  ``about`` is the resolver's own: it comes back in ``party.Peer``.  ``by_key``: nothing is known
    of the name, and the peer is met as the key that it has proven, as if it had none.
    """

    key: PublicKey | None
    relation: Relation = Relation.ANY
    disowned: bool = False
    fresh_word: bool = False
    bound_to: Did | None = None
    about: object = field(default=None, repr=False)
    by_key: bool = False


def examine(hello: Hello, local: Local, now: float, policy: Policy) -> ProvenHello:
    """Checks 1 to 4 at ``now`` (seconds since 1970).  Raises ``BadWire``, or ``Refused`` where policy says no."""
    named = subject(hello.from_id, local.bridges)
    token = read_token(hello.tunnel_token, "tunnel token")
    claims = read_hello_claims(token)
    if claims.sender != local.host(named):
        raise BadWire("the token is another's than the Hello")
    if claims.listen_port != hello.my_port:
        raise BadWire("the token names another port than the Hello")
    check_times(claims, now)
    document, key = candidate(named, hello.device_doc_jwt)
    if document is None and not policy.anonymous:
        raise Refused("peers without a name are not let in here")
    if not token.verify(key):
        raise BadWire(f"the token is not signed by {key.x}")
    wanted = subject(hello.to_id, local.bridges)
    if claims.to != local.host(wanted) or not local.answers_to(wanted):
        raise BadWire("the Hello is for another name than ours")
    if claims.canonical_to != str(local.canonical):
        raise BadWire("the Hello is for another device than this one")
    return ProvenHello(key, named, document, claims=claims)


def decide(proven: Proven, standing: Standing, policy: Policy) -> None:
    """Checks 5 to 7 for a peer with a name.  Returns if it may come in, else raises ``Refused``."""
    if proven.anonymous or standing.by_key:
        if not policy.anonymous:
            raise Refused("peers without a name are not let in here")
        return
    if standing.disowned and not standing.fresh_word:
        raise Refused(f"the authority of {proven.named} has disowned it")
    if standing.key is None:
        raise Refused(f"nobody vouches for {proven.named}")
    if standing.key != proven.key:
        raise Refused(f"{proven.named} has another key than the one that was proven")
    if standing.relation < policy.least:
        raise Refused(f"{proven.named} is not near enough to be let in")
    if standing.bound_to is not None and standing.bound_to.canonical != proven.device:
        raise Refused(f"{proven.named} is another device here")


def candidate(named: Did, untrusted_document: str | None) -> tuple[Token | None, PublicKey]:
    """The device document that came along with a name, and the key that is to be proven.  Raises ``BadWire``."""
    own = named.key
    if untrusted_document is None:
        if own is None:
            raise BadWire("a name that is no key needs its device document")
        return None, own
    document = read_token(untrusted_document, "device document")
    key = read_document(document.claims).main_key
    if key is None:
        raise BadWire("device document: it has no key")
    if own is not None and own != key:
        raise BadWire("device document: it gives another key than the name is")
    return document, key

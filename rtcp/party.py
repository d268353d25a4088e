"""The two ends of a tunnel, as one of them knows them before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cyfs_ns.identity.did import Bridges, Did, dev_did, host_of_did
from cyfs_ns.identity.keys import PublicKey, SecretKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This device.

    ``did`` is the name it goes by; one that is not its key needs ``device_doc_jwt``, the owner's word for it.
    ``also`` are further identities it answers to.  ``listen_port`` is where streams may be dialled to, 0 for nowhere.
    """

    key: SecretKey
    did: Did
    also: frozenset[Did] = frozenset()
    device_doc_jwt: str | None = field(default=None, repr=False)
    bridges: Bridges | None = None
    listen_port: int = 2980
    canonical: Did = field(init=False)
    """The identity that is its key: found out once, since each stream that a peer asks for is compared with it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "canonical", dev_did(self.key.public))

    def host(self, did: Did) -> str:
        """The host form of ``did``, as both sides must write it: it goes into the keys.  Raises ``BadWire``."""
        return host_of_did(did, self.bridges)

    def answers_to(self, did: Did) -> bool:
        asked = did.canonical
        return asked in (self.canonical, self.did.canonical) or any(asked == one.canonical for one in self.also)


Address = tuple[str, int]
"""A host, by name or IP text, and a TCP port."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Whom we dial: by which name, and the key that the resolver found for it."""

    did: Did
    key: PublicKey

    @property
    def canonical(self) -> Did:
        return dev_did(self.key)


@dataclass(frozen=True, slots=True)
class Found:
    """What a resolver knows of somebody we want to dial: the key to expect, and the addresses to try in this order.

    ``about`` is the resolver's own: it comes back in :class:`Peer`.
    """

    key: PublicKey
    addresses: Sequence[Address] = ()
    about: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a tunnel.

    ``device`` was proven.  ``did``, the name it goes by, was vouched for by a resolver, unless it is the device itself.
    ``about`` is what that resolver gave along.  ``dialled``: whether we dialled it; ``source``: the address it came
    from, empty for one we dialled.
    """

    did: Did
    device: Did
    about: object = field(default=None, repr=False)
    dialled: bool
    source: str = ""

"""The two ends of a tunnel, as one of them knows them before it begins."""

from __future__ import annotations

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

    @property
    def canonical(self) -> Did:
        """The identity that is its key."""
        return dev_did(self.key.public)

    def host(self, did: Did) -> str:
        """The host form of ``did``, as both sides must write it: it goes into the keys.  Raises ``BadWire``."""
        return host_of_did(did, self.bridges)

    def answers_to(self, did: Did) -> bool:
        return did.canonical in {one.canonical for one in (self.did, self.canonical, *self.also)}


@dataclass(frozen=True, slots=True)
class Remote:
    """Whom we dial: by which name, and the key that the resolver found for it."""

    did: Did
    key: PublicKey

    @property
    def canonical(self) -> Did:
        return dev_did(self.key)

"""Two links that talk in memory, and the people they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.token import sign_token
from rtcp.admission import Policy
from rtcp.events import HelloProven, LinkEvent, PeerConfirmed, TunnelOpened
from rtcp.limits import Limits
from rtcp.link import Link
from rtcp.nonces import NonceMemory
from rtcp.party import Local, Remote

WALL = 1_711_111_111
ALICE = SecretKey(b"\x33" * 32)
BOB = SecretKey(b"\x44" * 32)
MALLORY = SecretKey(b"\x66" * 32)
OWNER = SecretKey(b"\x55" * 32)
BOBS_NAME = Did("web", "responder.example")
ALICES_NAME = Did("web", "laptop.alice.example")
ALICES_DICE = b"\x11" * 32 + (1).to_bytes(16, "big") + bytes(16)
BOBS_DICE = b"\x22" * 32 + (2).to_bytes(16, "big") + b"\xff" * 16
ID = bytes.fromhex("00112233445566778899aabbccddeeff")


def local(key: SecretKey, **more: object) -> Local:
    return Local(key=key, did=dev_did(key.public), **more)  # type: ignore[arg-type]


def device_document(key: SecretKey) -> str:
    """What an owner says about the device with ``key``."""
    told = DeviceDoc(
        id=dev_did(key.public),
        key=key.public,
        name="laptop",
        owner=Did("web", "alice.example"),
        iat=WALL - 10,
        exp=WALL + 10_000,
    )
    return sign_token(told.claims(), OWNER)


ALICE_HERE = local(ALICE)
BOB_HERE = local(BOB, also=frozenset({BOBS_NAME}))
TO_BOB = Remote(BOBS_NAME, BOB.public)


def dialled(remote: Remote = TO_BOB, *, here: Local = ALICE_HERE, wall: float = WALL, **more: object) -> Link:
    return Link.dial(here, remote, **{"entropy": ALICES_DICE, "now": 0, "wall": wall, **more})  # type: ignore[arg-type]


def responding(nonces: NonceMemory | None = None, *, here: Local = BOB_HERE, **more: object) -> Link:
    given = {"entropy": BOBS_DICE, "now": 0, "wall": WALL, **more}
    return Link.respond(here, NonceMemory() if nonces is None else nonces, **given)  # type: ignore[arg-type]


def told(link: Link) -> list[LinkEvent]:
    """All that ``link`` has to tell now."""
    events = []
    while (event := link.next_event()) is not None:
        events.append(event)
    return events


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


def let_in(link: Link, event: LinkEvent, now: float) -> None:
    """A host that lets everybody in."""
    if isinstance(event, HelloProven):
        link.admit(now)
    elif isinstance(event, PeerConfirmed):
        link.accept_tunnel(now)


@dataclass
class Pair:
    """``alice`` dialled ``bob``.  What each was told is kept in order; ``split`` cuts what travels."""

    alice: Link = field(default_factory=dialled)
    bob: Link = field(default_factory=responding)
    split: Callable[[bytes], Iterator[bytes]] = whole
    now: float = 0
    host: Callable[[Link, LinkEvent, float], None] = let_in
    told: dict[str, list[LinkEvent]] = field(default_factory=lambda: {"alice": [], "bob": []})
    sent: dict[str, list[bytes]] = field(default_factory=lambda: {"alice": [], "bob": []})

    def talk(self) -> None:
        """Until both have said all they have to say."""
        busy = True
        while busy:
            busy = False
            for name, link, peer in (("alice", self.alice, self.bob), ("bob", self.bob, self.alice)):
                for event in told(link):
                    self.told[name].append(event)
                    self.host(link, event, self.now)
                    busy = True
                if data := link.data_to_send():
                    busy = True
                    self.sent[name].append(data)
                    for piece in self.split(data):
                        peer.receive_data(piece, self.now)

    def news(self, name: str) -> list[LinkEvent]:
        """What ``alice`` or ``bob`` was told since the last time."""
        self.talk()
        events, self.told[name] = self.told[name], []
        return events

    def pass_time(self, until: float) -> None:
        """Both clocks run to ``until``; each deadline on the way is kept."""
        while (due := self.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.alice.handle_timeout(self.now)
            self.bob.handle_timeout(self.now)
            self.talk()
        self.now = until

    def next_deadline(self) -> float | None:
        return min((due for one in (self.alice, self.bob) if (due := one.next_deadline()) is not None), default=None)


def opened(limits: Limits | None = None, **more: object) -> Pair:
    """A pair whose tunnel stands; nobody was told anything yet."""
    given = {} if limits is None else {"limits": limits}
    pair = Pair(dialled(**given), responding(**given), **more)  # type: ignore[arg-type]
    pair.talk()
    assert pair.told["alice"] == [TunnelOpened()] and pair.told["bob"][-1] == TunnelOpened()
    pair.told = {"alice": [], "bob": []}
    return pair


NAMED_ONLY = Policy(anonymous=False)

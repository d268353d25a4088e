"""Which SNs lead to a peer, and in which order: our own, then those that its zone's documents name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio

from cyfs_gateway.config.model import KeptTunnel, MemberConfig
from cyfs_gateway.io.membership import Membership
from cyfs_gateway.sn.talk import Connect, write_ask
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.documents import ZoneBoot
from cyfs_ns.trust import outcome
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from rtcp.io.answers import TooSoon
from rtcp.io.mux import MuxedTunnel
from rtcp.party import Found, Local
from tests.cyfs_gateway.membership.test_answered import pair
from tests.cyfs_ns.identity.identities import NAS, PI, secret

S1, S2 = dev_did(secret(31).public), parse_did("did:web:sn.example")
PEER = Found(NAS.public)


class Acquainted:
    """Knows what SN each zone's boot document names."""

    bridges: ClassVar[dict[str, str]] = {}

    def __init__(self, zones: dict[str, str], trust: Trust = Trust.OWNER_SIGNED) -> None:
        self._zones, self._trust = zones, trust
        self.asked: list[str] = []

    async def ask(self, did: Did, *, patience: float) -> outcome.Outcome:
        self.asked.append(did.id)
        if did.id not in self._zones:
            raise Unreachable("nobody knows")
        boot = ZoneBoot(id=did, oods=(), sn=self._zones[did.id], iat=1, exp=2)
        evidence = Evidence(trust=self._trust, what="a document", source="a test", at=1)
        claim = Claim(about=did, kind="document", value=boot, evidence=evidence)
        return outcome.Found(subject=did, claims=(claim,))


class Streams:
    """What is opened to SNs, and by whom it is read."""

    def __init__(self) -> None:
        self.opened: list[Did] = []
        self.dialled: list[tuple[str, int]] = []
        self.ends: list[trio.SocketStream] = []
        self.before: Any = None

    async def dial(self, host: str, port: int) -> Any:
        self.dialled.append((host, port))
        raise Unreachable("nobody is there")

    async def open(self, did: Did, host: str, port: int, **way: Any) -> Any:
        self.opened.append(did)
        if self.before is not None:
            await self.before(did)
        ours, theirs = pair()
        self.ends.append(theirs)
        return ours


def membership(
    base: Path, sns: Sequence[Did], zones: dict[str, str] | None = None, trust: Trust = Trust.OWNER_SIGNED
) -> tuple[Membership, Streams]:
    streams, key = Streams(), PI
    local = Local(key=key, did=dev_did(key.public))
    found = Membership(
        Acquainted(zones or {}, trust),  # type: ignore[arg-type]
        streams.open,
        lambda config: {"via": None, "at": None},
        lambda: local,
        streams.dial,
    )
    found.adopt([MemberConfig(sn=KeptTunnel(peer=sn)) for sn in sns], base)
    return found, streams


async def names(found: Membership, did: Did, peer: Found = PEER) -> list[str]:
    return [carrier.name for carrier in await found.relays(did, peer)]


async def test_our_own_come_first_and_the_one_whose_domain_it_is_before_all(tmp_path: Path) -> None:
    found, _ = membership(tmp_path, [S1, S2])
    first, second = found
    assert await names(found, dev_did(NAS.public)) == [f"SN {S1}", f"SN {S2}"]
    first.domain, second.domain = "one.example", "two.example"
    peer = parse_did("did:web:ood1.alice.two.example")
    assert await names(found, peer) == ["SN two.example", "SN one.example"]
    second.tunnel = SimpleNamespace(over=trio.Event())  # type: ignore[assignment]
    assert await names(found, dev_did(NAS.public)) == ["SN two.example", "SN one.example"]


async def test_an_sn_whose_tunnel_has_no_carrier_is_asked_last_and_says_no_at_once(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S1, S2])
    away, there = found
    away.domain = "one.example"
    away.tunnel, there.tunnel = tunnel_on(None), tunnel_on(object())
    peer = parse_did("did:web:ood1.alice.one.example")
    assert await names(found, peer) == [f"SN {S2}", "SN one.example"]
    *_, through = await found.relays(peer, PEER)
    with pytest.raises(Unreachable, match="not reached at the moment"):
        await through.dial("", 0)
    assert not streams.opened
    away.tunnel = tunnel_on(object())
    assert await names(found, peer) == ["SN one.example", f"SN {S2}", "SN of its zone"]


def tunnel_on(pipe: object, *, is_full: bool = False) -> Any:
    """A tunnel that stands, and travels on this; ``is_full``: no stream may be opened on it now."""

    class Standing(MuxedTunnel):
        pipe = None  # type: ignore[assignment]

        def __init__(self) -> None:
            self.over = trio.Event()

        def begin_stream(self, *_: object, **__: object) -> Any:
            assert is_full
            raise TooSoon("1 conversations are open already")

    Standing.pipe = pipe  # type: ignore[assignment]
    return Standing()


async def test_those_that_documents_name_come_behind_and_none_twice(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S2], {"home.example": "far.example", "two.example": "sn.example"})
    assert await names(found, parse_did("did:web:photos.home.example")) == [f"SN {S2}", "SN did:web:far.example"]
    assert await names(found, parse_did("did:web:photos.two.example")) == [f"SN {S2}"]
    assert await names(found, dev_did(NAS.public)) == [f"SN {S2}"]
    assert not streams.opened, "nobody is dialled before a way is taken"


async def test_an_sn_that_was_heard_of_leads_to_who_has_no_name(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S1])
    nas = dev_did(NAS.public)
    _, heard = await found.relays(nas, PEER, (S1, S2, S2, nas))
    assert heard.name == f"SN {S2}"
    await heard.dial("", 0)
    assert streams.opened == [S2]


async def test_what_nobody_vouches_for_leads_nowhere(tmp_path: Path) -> None:
    found, _ = membership(tmp_path, [], {"home.example": "far.example"}, Trust.NONE)
    assert await names(found, parse_did("did:web:photos.home.example")) == []


async def test_no_sn_leads_to_an_sn(tmp_path: Path) -> None:
    found, _ = membership(tmp_path, [S1, S2])
    key = S1.key
    assert key is not None
    assert await names(found, S1, Found(key)) == []
    assert await names(found, parse_did("did:web:another.name.example"), Found(key)) == []
    assert await names(found, S2) == ["tcp sn.example:443", "wss sn.example", "ws sn.example"], "it alone does"


async def test_an_sn_is_looked_for_behind_the_ports_of_the_web(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [])
    at = MemberConfig(sn=KeptTunnel(peer=S1), at=("198.51.100.1", 2980))
    found.adopt([at], tmp_path)
    assert await names(found, S1) == ["tcp 198.51.100.1:443"], "an ingress is asked by name"
    (member,) = found
    member.domain = "sn.example"
    carriers = await found.relays(S1, PEER)
    assert [one.name for one in carriers] == ["tcp 198.51.100.1:443", "wss sn.example", "ws sn.example"]
    for carrier in carriers:
        with pytest.raises(Unreachable):
            await carrier.dial("", 0)
    assert streams.dialled == [("198.51.100.1", port) for port in (443, 443, 80)]


async def test_an_sn_of_others_is_not_looked_for_behind_itself(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [], {"home.example": "far.example", "far.example": "further.example"})
    (carrier,) = await found.relays(parse_did("did:web:photos.home.example"), PEER)
    seen = []

    async def look(did: Did) -> None:
        seen.append(await names(found, did))

    streams.before = look
    pipe = await carrier.dial("", 0)
    assert (streams.opened, seen) == ([parse_did("did:web:far.example")], [[]])
    pipe.close()


async def test_a_way_asks_for_the_device_and_waits_for_nothing(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S1])
    (carrier,) = await found.relays(dev_did(NAS.public), PEER)
    assert carrier.leads
    pipe = await carrier.dial("", 0)
    assert await streams.ends[0].receive_some() == write_ask(Connect(dev_did(NAS.public)))
    await streams.ends[0].send_all(b'{"no":"refused","why":"not today"}\n')
    await trio.lowlevel.wait_readable(pipe.fileno())
    with pytest.raises(ConnectionRefusedError, match="not today"):
        pipe.recv_into(memoryview(bytearray(10)))
    pipe.close()


async def test_where_the_sn_takes_no_more_streams_whoever_is_in_haste_waits_for_room(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S1])
    (member,) = found
    member.tunnel = tunnel_on(object(), is_full=True)
    (carrier,) = await found.relays(dev_did(NAS.public), PEER)
    assert carrier.hasten is not None
    pipe = await carrier.hasten()
    assert streams.opened == [S1], "and asks as one who waits"
    pipe.close()


async def test_where_the_name_is_the_sns_own_nobody_waits_for_documents(tmp_path: Path) -> None:
    found, streams = membership(tmp_path, [S1], {"alice.one.example": "far.example"})
    (member,) = found
    member.domain = "one.example"
    member.tunnel = SimpleNamespace(over=trio.Event(), pipe=None)  # type: ignore[assignment]
    asked = found._acquaintance.asked  # type: ignore[attr-defined]
    first, second = await found.relays(parse_did("did:web:ood1.alice.one.example"), PEER)
    assert (first.name, second.name) == ("SN one.example", "SN of its zone")
    assert not asked and not streams.opened
    await second.dial("", 0)
    assert streams.opened == [parse_did("did:web:far.example")], "where it was sent in the end"


async def test_an_sn_that_is_ours_by_its_key_is_not_taken_again_by_its_name(tmp_path: Path) -> None:
    found, _ = membership(tmp_path, [S1], {"home.example": "one.example"})
    (member,) = found
    member.domain = "one.example"
    assert await names(found, parse_did("did:web:photos.home.example")) == ["SN one.example"]

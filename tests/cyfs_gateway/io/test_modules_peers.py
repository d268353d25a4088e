"""What modules do with peers: offers, strangers who are wanted, streams to those who have a tunnel, measurements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from inprocess import Living, living, until
from peering import ALICE, HOME, LAPTOP, MALLORY, NAS, PHOTOS, PI, dev, machine, published, settle

from cyfs_gateway.flow import Identity
from cyfs_gateway.host import Barred, Host
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.io.offers import Offers
from cyfs_gateway.io.rtcp import PeerDesk
from cyfs_ns.errors import ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.metrics import single
from cyfs_ns.trust.level import Trust
from rtcp.io.answers import TooSoon
from rtcp.io.device import Carrier
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import receive_some, send_all
from tests.freeport import free_port
from tunnels.endpoint import Endpoint, Target


@pytest.mark.parametrize("turned", [False, True])
def test_whom_one_module_bars_another_may_want_whichever_began_first(turned: bool) -> None:
    somebody, offers = Identity(did="did:dev:x", host="", trust=Trust.NONE), Offers()
    offers.welcomes += [lambda who: False]
    offers.check_not_barred(somebody)
    assert not offers.wants(somebody)
    offers.bars |= {"one": [lambda who: ""], "other": [lambda who: "not here"]}
    with pytest.raises(Barred, match="not here"):
        offers.wants(somebody)
    with pytest.raises(Barred, match="not here"):
        offers.check_not_barred(somebody)
    offers.welcomes.insert(0 if turned else 1, lambda who: True)
    assert offers.wants(somebody)
    offers.check_not_barred(somebody)


class Guest:
    """A module that offers ``guest``, and wants whom its settings say."""

    section = "guest"
    hosts: ClassVar[list[Host]] = []
    served: ClassVar[list[Identity]] = []
    left: ClassVar[list[str]] = []
    wanted: ClassVar[set[str]] = set()
    barred: ClassVar[set[str]] = set()
    puzzling: ClassVar[set[str]] = set()
    """Those at whom it fails."""
    judge_again: ClassVar[list[Any]] = []

    @classmethod
    def check(cls, settings: Any) -> None:
        pass

    async def run(self, host: Host, settings: Any) -> None:
        if settings == "fails at once":
            raise RuntimeError("run failed")

        async def offer(who: Identity, pipe: Endpoint) -> None:
            self.served.append(who)
            try:
                while data := await receive_some(pipe):
                    if data == b"fail":
                        raise RuntimeError("the offer failed")
                    await send_all(pipe, b"guest:" + data)
            finally:
                self.left.append(who.did)

        host.register_offer("guest", offer)
        with pytest.raises(ConfigFault, match="guest"):
            host.register_offer("guest", offer)

        def bars(who: Identity) -> str:
            if who.device in self.puzzling:
                raise RuntimeError("the bar failed")
            return "spam" * (who.device in self.barred)

        if settings == "bars nobody":
            host.register_welcome(lambda who: False)
        else:
            self.judge_again.append(host.register_welcome(lambda who: who.device in self.wanted, bars))
        if settings == "judges twice":
            host.register_welcome(lambda who: False, lambda who: "")
        host.register_metrics(lambda: [single("cyfs_guest_visits_total", "counter", "Visits.", len(self.served))])
        self.hosts.append(host)
        if settings == "fails":
            raise RuntimeError("run failed")
        await trio.sleep_forever()


@pytest.fixture(autouse=True)
def guest(monkeypatch: pytest.MonkeyPatch) -> type[Guest]:
    Guest.hosts, Guest.served, Guest.left, Guest.judge_again = [], [], [], []
    Guest.wanted, Guest.barred, Guest.puzzling = set(), set(), set()
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"guest": Guest}))
    return Guest


@asynccontextmanager
async def pair(
    base: Path, versions: str = "[5]", more: str = "", key: Any = PI, did: Did | None = LAPTOP
) -> AsyncIterator[tuple[Living, Living]]:
    """``photos`` listens and has the guest, and so has whoever calls."""
    port = free_port()
    config = f"rtcp:\n  listen: 127.0.0.1:{port}\n  versions: {versions}\n{more}\nrules: ['MATCH,REJECT']\nguest: on\n"
    async with (
        published(port) as dns,
        machine(base / "photos", NAS, config, did=PHOTOS, dns=dns) as photos,
        machine(base / "laptop", key, f"rtcp: {{versions: {versions}}}\nguest: on\n", did=did, dns=dns) as laptop,
    ):
        await until(lambda: len(Guest.hosts) == 2)
        yield photos, laptop


async def say(pipe: Endpoint, data: bytes) -> bytes:
    with trio.fail_after(60):
        await send_all(pipe, data)
        return await receive_some(pipe)


@pytest.mark.parametrize("versions", ["[5]", "[4]"])
async def test_an_offer_is_answered_to_whoever_has_a_tunnel(tmp_path: Path, versions: str) -> None:
    async with pair(tmp_path, versions) as (photos, _):
        there, here = Guest.hosts
        assert not here.standing(dev(NAS))
        with pytest.raises(Unreachable):
            await here.open_to_peer(dev(NAS), "guest.invalid", 1)
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        (who,) = Guest.served
        assert (who.did, who.device, who.zone) == (str(LAPTOP), str(dev(PI)), str(HOME))
        (flow,) = photos.gateway.connections()
        assert (flow.rule, flow.rule_payload, flow.chains) == ("Service", "guest", ("guest",))
        assert here.standing(dev(NAS))
        assert there.standing(dev(PI))
        # The other way needs no door: through the tunnel that stands.
        back = await there.open_to_peer(dev(PI), "guest.invalid", 1)
        assert await say(back, b"hello") == b"guest:hello"
        assert Guest.served[1].device == str(dev(NAS))
        back.close()
        pipe.close()
        await until(lambda: not photos.gateway.connections() and len(Guest.left) == 2)


async def test_what_is_not_offered_is_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as (photos, _):
        here = Guest.hosts[1]
        with pytest.raises(Refused):
            await here.call_offer(PHOTOS, "nothing")
        assert not photos.gateway.connections()


async def test_an_offer_that_fails_costs_its_stream_and_no_more(tmp_path: Path) -> None:
    async with pair(tmp_path) as (photos, _):
        here = Guest.hosts[1]
        pipe = await here.call_offer(PHOTOS, "guest")
        with pytest.raises(OSError):
            await say(pipe, b"fail")
        pipe.close()
        again = await here.call_offer(PHOTOS, "guest")
        assert await say(again, b"hello") == b"guest:hello"
        again.close()
        assert photos.gateway.status()["modules"]["guest"]["running"]


async def test_a_stream_that_is_served_can_be_closed_by_hand(tmp_path: Path) -> None:
    async with pair(tmp_path) as (photos, _):
        pipe = await Guest.hosts[1].call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        assert photos.gateway.close_connections() == 1
        with pytest.raises(OSError):
            await say(pipe, b"more")
        assert Guest.left == [str(LAPTOP)]
        pipe.close()


async def test_offers_end_with_the_module(tmp_path: Path) -> None:
    async with pair(tmp_path) as (photos, _):
        here = Guest.hosts[1]
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        assert [one.name for one in photos.gateway.module_metrics()] == ["cyfs_guest_visits_total"]
        await photos.reload(f"rtcp: {{versions: [5], listen: '127.0.0.1:{free_port()}'}}\n", base="")
        await until(lambda: Guest.left)
        assert not photos.gateway.module_metrics()
        with pytest.raises(Refused):
            await here.call_offer(PHOTOS, "guest")
        pipe.close()


async def test_a_module_that_fails_takes_its_offers_along(tmp_path: Path) -> None:
    port = free_port()
    async with machine(tmp_path, NAS, f"rtcp: {{listen: '127.0.0.1:{port}'}}\nguest: fails\n") as house:
        await until(lambda: not house.gateway.status()["modules"]["guest"]["running"])
        await until(lambda: not house.gateway.offers.welcomes)
        assert house.gateway.status()["modules"]["guest"]["fault"] == "run failed"
        assert not house.gateway.module_metrics()


async def test_what_a_module_may_ask(tmp_path: Path) -> None:
    async with pair(tmp_path):
        there, here = Guest.hosts
        assert await there.own_did() == dev(NAS)
        assert await there.owner() == str(dev(ALICE))
        assert await here.key_of(PHOTOS) == NAS.public
        assert await here.key_of(Did("web", "nobody.example")) is None
        assert txt_record("PKX", ALICE.public.x).encode() in await here.txt_records("home.example")
        assert await here.txt_records("nothing.home.example") == []
        with pytest.raises(Unreachable):
            await here.open_datagrams_to_peer(dev(NAS), None, 53)
        assert (here.home / "identity" / "device.pem").exists()


@pytest.mark.parametrize("versions", ["[5]", "[4]"])
async def test_whom_a_module_bars_has_to_go_however_well_known(tmp_path: Path, versions: str) -> None:
    async with pair(tmp_path, versions) as (photos, laptop):
        here = Guest.hosts[1]
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        Guest.barred.add(str(dev(PI)))
        Guest.judge_again[0]()
        await until(lambda: not photos.gateway.peers() and not photos.gateway.connections())
        pipe.close()
        device = await laptop.gateway.peer_desk.device()
        device.network_changed()
        with pytest.raises(Refused, match="spam" if versions == "[5]" else None):
            await here.call_offer(PHOTOS, "guest")
        Guest.barred.clear()
        device.network_changed()
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        pipe.close()


@pytest.mark.parametrize("versions", ["[5]", "[4]"])
async def test_whom_a_module_bars_has_to_go_whoever_dialled_and_is_not_dialled_again(
    tmp_path: Path, versions: str
) -> None:
    async with pair(tmp_path, versions) as (photos, laptop):
        here = Guest.hosts[1]
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        Guest.barred.add(str(dev(NAS)))
        Guest.judge_again[1]()
        await until(lambda: not laptop.gateway.peers() and not photos.gateway.peers())
        pipe.close()
        device = await laptop.gateway.peer_desk.device()
        device.network_changed()
        with pytest.raises(Barred, match="spam"):
            await here.call_offer(PHOTOS, "guest")
        assert not photos.gateway.peers()
        Guest.barred.clear()
        device.network_changed()
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        pipe.close()


async def test_whom_a_module_bars_stays_barred_while_it_is_off_and_until_it_is_dropped(tmp_path: Path) -> None:
    port = free_port()
    async with (
        published(port) as dns,
        machine(tmp_path / "laptop", PI, "rtcp: {versions: [5]}\n", did=LAPTOP, dns=dns) as laptop,
    ):
        base = f"dns: {{enable: true, use-system-hosts: false, nameserver: ['127.0.0.1:{dns.port}']}}\nipv6: true\n"
        base += f"rtcp: {{listen: '127.0.0.1:{port}', versions: [5]}}\n"
        settle(tmp_path / "photos", NAS, PHOTOS, pinned=True)

        async def knock() -> None:
            (await laptop.gateway.peer_desk.device()).network_changed()
            await laptop.gateway.peer_desk.tunnel(PHOTOS)

        async with living(tmp_path / "photos", "guest: on\n", base=base) as photos:
            await until(lambda: Guest.hosts)
            await knock()
            Guest.barred.add(str(dev(PI)))
            for settings in ("more", "fails", "fails at once"):
                await photos.reload(f"guest: {settings}\n", base=base)
                fails = settings.startswith("fails")
                await until(lambda fails=fails: photos.gateway.status()["modules"]["guest"]["running"] is not fails)
                await until(lambda: not photos.gateway.peers() and not laptop.gateway.peers())
                with pytest.raises(Refused, match="spam"):
                    await knock()
            await photos.reload("", base=base)
            await knock()


async def test_all_that_a_module_bars_by_holds_until_it_begins_anew_and_bars_nobody(tmp_path: Path) -> None:
    who = Identity(did=str(dev(PI)), host="", trust=Trust.KEY_PROVEN, device=str(dev(PI)))
    async with living(tmp_path, "guest: judges twice\n") as house:
        await until(lambda: Guest.hosts)
        Guest.barred.add(who.device)
        with pytest.raises(Barred, match="spam"):
            house.engine.offers.check_not_barred(who)
        await house.reload("guest: bars nobody\n")
        await until(lambda: len(Guest.hosts) == 2)
        house.engine.offers.check_not_barred(who)


async def test_who_cannot_be_judged_by_a_module_that_fails_is_not_let_in(tmp_path: Path) -> None:
    async with pair(tmp_path) as (photos, _):
        Guest.puzzling.add(str(dev(PI)))
        with pytest.raises(Refused, match="cannot be told just now"):
            await Guest.hosts[1].call_offer(PHOTOS, "guest")
        assert photos.gateway.status()["modules"]["guest"]["fault"] == "the bar failed"


# Strangers


async def test_a_stranger_is_let_in_as_a_key_if_the_module_wants_it_and_put_out_when_not(tmp_path: Path) -> None:
    async with pair(tmp_path, key=MALLORY, did=None) as (photos, laptop):
        _, here = Guest.hosts
        with pytest.raises(Refused):
            await here.call_offer(PHOTOS, "guest")
        Guest.wanted.add(str(dev(MALLORY)))
        (await laptop.gateway.peer_desk.device()).network_changed()  # who refused is asked anew
        pipe = await here.call_offer(PHOTOS, "guest")
        assert await say(pipe, b"hello") == b"guest:hello"
        assert [one.did for one in Guest.served] == [str(dev(MALLORY))]
        Guest.judge_again[0]()
        assert await say(pipe, b"still") == b"guest:still"
        Guest.wanted.clear()
        Guest.judge_again[0]()
        with pytest.raises(OSError), trio.fail_after(10):
            while True:
                await say(pipe, b"still")
        pipe.close()
        await until(lambda: not photos.gateway.peers())


async def test_a_name_that_nobody_here_knows_is_met_as_the_key_it_has_proven(tmp_path: Path) -> None:
    """Else a machine of somebody's zone could not use an SN that has never heard of that zone."""
    port = free_port()
    config = f"rtcp:\n  listen: 127.0.0.1:{port}\n  versions: [5]\nguest: on\n"
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, config, dns=None, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, "rtcp: {versions: [5]}\nguest: on\n", did=LAPTOP, dns=dns) as laptop,
    ):
        await until(lambda: len(Guest.hosts) == 2)
        Guest.wanted.add(str(dev(PI)))

        async def dial(host: str, at: int) -> Endpoint:
            return await laptop.gateway._world.outbounds["DIRECT"].open_stream(Target("127.0.0.1", port))

        device = await laptop.gateway.peer_desk.device()
        pipe = await device.open_stream(dev(NAS), "guest.invalid", 1, via=Carrier("here", dial, leads=True))
        assert await say(pipe, b"hello") == b"guest:hello"
        (who,) = Guest.served
        assert who.did == who.device == str(dev(PI)), "not the name, which nobody vouched for"
        (view,) = photos.gateway.peers()
        assert view.peer == str(dev(PI))
        pipe.close()


@pytest.mark.parametrize(
    ("admission", "is_in"),
    [("['DID,did:web:nobody.example,ACCEPT']", True), ("['MATCH,REJECT']", False)],
)
async def test_what_a_rule_says_of_somebody_stands(tmp_path: Path, admission: str, is_in: bool) -> None:
    async with pair(tmp_path, key=MALLORY, did=None, more=f"  admission: {admission}") as _:
        Guest.wanted.add(str(dev(MALLORY)))
        try:
            pipe = await Guest.hosts[1].call_offer(PHOTOS, "guest")
        except Refused:
            assert not is_in
        else:
            assert is_in
            pipe.close()


async def test_who_begins_a_stream_where_no_more_are_taken_waits_for_room():
    class Full(MuxedTunnel):
        def __init__(self):
            """Nothing is behind it."""

        def begin_stream(self, *_, **__):
            raise TooSoon("1 conversations are open already")

        async def open_stream(self, *_, **__):
            await trio.lowlevel.checkpoint()
            return "there was room at last"

    class Desk(PeerDesk):
        def __init__(self):
            """Nothing but the one tunnel."""

        async def _stands(self, device):
            await trio.lowlevel.checkpoint()
            return Full()

    begun = await Desk().begin_standing(dev(NAS), None, 80)
    await begun.answered()
    assert begun.pipe == "there was room at last"

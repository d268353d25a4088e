"""An SN at work: what members, strangers and attackers get from it through real tunnels."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest
import trio
import trio.testing
from sn_house import HOST, OWNER, SN, LivingSn, Machine, join, machine, said_no, settle, sn_house, submit, update
from sn_people import person

from cyfs_gateway.io.sn import desk
from cyfs_gateway.io.sntalk import Conversation
from cyfs_gateway.sn.requests import Admit, Bind, Close, Register, Remove
from cyfs_gateway.sn.talk import (
    Connect,
    Here,
    Lease,
    Leased,
    No,
    Place,
    RelaySession,
    RelayWith,
    Submit,
    Submitted,
    Update,
    Updated,
    Where,
    read_reply,
    write_ask,
)
from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.metrics import render
from cyfs_ns.trust.anchors import Pin
from rtcp.io.device import Device
from rtcp.nat.stun import read_message, write_request
from tests.cyfs_gateway.io.inprocess import echo, serve, until
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import receive_some, send_all

BOX, LAPTOP, STRANGER, MALLORY = person(11), person(12), person(13), person(14)


async def asked(sn: LivingSn, name: str, rtype: str = "A") -> set[str]:
    """What a visitor's resolver hears from the SN's name server."""

    def ask() -> set[str]:
        reply = dns.query.udp(dns.message.make_query(name, rtype), "127.0.0.1", 5, sn.dns)
        wanted = dns.rdatatype.from_text(rtype)
        return {str(one) for rrset in reply.answer if rrset.rdtype == wanted for one in rrset}

    return await trio.to_thread.run_sync(ask)


async def test_from_an_account_to_an_address(tmp_path: Path) -> None:
    async with sn_house(tmp_path) as sn, machine(sn, BOX) as box:
        here = await box.ask(Where())
        assert here == Here(
            domain=SN, did=HOST.did, seen="127.0.0.1", addresses=("198.51.100.1",), udp=here.udp, knows=False
        ), "a stranger is told, too"
        assert await asked(sn, f"alice.{SN}") == set()
        await join(box, OWNER, "alice")
        here = await box.ask(Where())
        assert isinstance(here, Here)
        assert (here.knows, here.names) == (True, ("alice",))
        assert await asked(sn, f"alice.{SN}") == {"198.51.100.1"}, "to the ingress, while the box says nothing"
        word = update(BOX, "alice", addresses=("192.0.2.77",), exposed=True)
        assert isinstance(await box.ask(Update(word)), Updated)
        assert await asked(sn, f"alice.{SN}") == await asked(sn, f"photos.alice.{SN}") == {"192.0.2.77"}
        again = await box.ask(Update(word))
        assert isinstance(again, No)
        assert again.seq > 0, "a word is heard once, and the box learns which"
        assert {f'"PKX={HOST.key.public.x};"'} == await asked(sn, SN, "TXT")
        told = sn.module
        assert (told["accounts"], told["devices"], told["here"], told["names"]) == (1, 1, 1, 1)


async def test_stun_is_answered_at_the_port_of_the_relay(tmp_path: Path) -> None:
    async with sn_house(tmp_path) as sn:
        host, _, port = sn.module["udp"][0].rpartition(":")

        def ask() -> tuple[object, int]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.bind(("127.0.0.1", 0))
                question = write_request(b"x" * 12)
                sock.sendto(question, (host, int(port)))
                reply = sock.recv(2048)
                assert len(reply) <= len(question)
                return read_message(reply).seen, sock.getsockname()[1]

        mapped, own = await trio.to_thread.run_sync(ask)
        assert mapped == ("127.0.0.1", own)


# Streams between members


async def members(sn: LivingSn, box: Machine, laptop: Machine) -> None:
    await join(box, OWNER, "alice")
    await join(laptop, OWNER, "", "laptop")
    await box.ask(Where())


def web(port: int) -> str:
    return f"  services: [{{name: web, port: 80, target: 'tcp://127.0.0.1:{port}', allow: ['DID,{LAPTOP.did}']}}]\n"


async def count(stream: trio.SocketStream) -> None:
    """Takes all it gets, and says how much that was."""
    total = 0
    async for chunk in stream:
        total += len(chunk)
    await stream.send_all(b"%d" % total)


async def test_a_tunnel_within_the_tunnels_and_both_are_counted(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, count)
    async with (
        sn_house(tmp_path) as sn,
        machine(sn, BOX, web(target)) as box,
        machine(sn, LAPTOP) as laptop,
    ):
        await members(sn, box, laptop)
        pipe = await laptop.tunnel_to(BOX.did)
        await send_all(pipe, bytes(1 << 20))
        pipe.shutdown_write()
        assert await the_end(pipe) == b"%d" % (1 << 20)
        await until(lambda: sn.module["stream_bytes"] > 1 << 20)
        assert sn.module["streams"] == 1
        used = (await sn.control("usage"))["usage"]
        assert [one["names"] for one in used] == [["alice"]]
        assert used[0]["up"] > 1 << 20
        assert used[0]["up"] < 2 << 20, "both machines are of one account, which pays once"
        (view,) = [one for one in box.house.gateway.peers() if one.device == str(LAPTOP.did)]
        assert view.peer == str(LAPTOP.did), "proven end to end: the SN is no part of it"
        pipe.close()


async def the_end(pipe: Endpoint) -> bytes:
    heard = b""
    with trio.fail_after(60):
        while data := await receive_some(pipe):
            heard += data
    return heard


async def until_then(holds: Callable[[], object], then: Callable[[], None]) -> None:
    await until(holds, 60)
    then()


def bare_legs(sn: Device) -> int:
    """Streams whose octets the SN carries as they are, on all tunnels to it."""
    return sum(leg.bare for tunnel in sn.tunnels() for leg in tunnel._machine._legs.values())  # type: ignore[union-attr]


async def test_what_is_over_the_pace_is_held_and_what_is_over_the_month_is_cut(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    target = await serve(nursery, count)
    async with (
        sn_house(tmp_path) as sn,
        machine(sn, BOX, web(target)) as box,
        machine(sn, LAPTOP) as laptop,
    ):
        await members(sn, box, laptop)
        pipe = await laptop.tunnel_to(BOX.did)
        with trio.fail_after(60):
            device = await sn.house.gateway.peer_desk.device()
            while bare_legs(device) < 2:
                await send_all(pipe, bytes(1 << 20))
        await sn.control("quota", of="alice", quota={"rate": 262_144})
        with trio.move_on_after(60) as sending:
            nursery.start_soon(until_then, lambda: sn.module["held"], sending.cancel)
            while True:
                await send_all(pipe, bytes(1 << 20))
        carried = sn.module["stream_bytes"]
        await sn.control("quota", of="alice", quota={"most_bytes": carried + 1000})
        with trio.move_on_after(60) as sending:
            nursery.start_soon(until_then, lambda: not sn.module["streams"], sending.cancel)
            while True:
                await send_all(pipe, bytes(1 << 20))
        assert not sn.module["streams"]
        pipe.close()
        said = await laptop.ask(Connect(BOX.did))
        assert isinstance(said, No)
        assert "used up" in said.why
        assert said_no(await laptop.ask(RelayWith(BOX.did)), "refused")


async def test_nobody_is_led_to_anybody_but_members_who_are_there(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n") as sn, machine(sn, BOX) as box, machine(sn, MALLORY) as mallory:
        await join(box, OWNER, "alice")
        assert said_no(await mallory.ask(Connect(BOX.did)), "unknown"), "a stranger, who may only register"
        assert said_no(await mallory.ask(RelayWith(BOX.did)), "unknown")
        assert said_no(await mallory.ask(Update(update(BOX, "alice"))), "unknown")
        assert said_no(await mallory.ask(Lease(Place("tcp", 2222))), "unknown")
        assert said_no(await box.ask(Connect(MALLORY.did)), "unknown"), "who is here, but nobody's"
        assert said_no(await box.ask(Connect(STRANGER.did)), "unknown")
        assert said_no(await box.ask(Connect(BOX.did)), "refused")
        assert said_no(await box.ask(RelayWith(MALLORY.did)), "unknown")
        said = await submit(box, LAPTOP, Admit(OWNER.device(LAPTOP, "laptop", time.time())))
        assert isinstance(said, Submitted)
        assert said_no(await box.ask(Connect(LAPTOP.did)), "unreachable"), "a member who is not there"
        assert sn.module["streams"] == 0


async def test_a_session_of_the_relay_is_given_to_members(tmp_path: Path) -> None:
    async with sn_house(tmp_path) as sn, machine(sn, BOX) as box, machine(sn, LAPTOP) as laptop:
        await members(sn, box, laptop)
        session = await box.ask(RelayWith(LAPTOP.did))
        assert isinstance(session, RelaySession)
        assert (session.addresses, session.port) == (("198.51.100.1",), int(sn.module["udp"][0].rpartition(":")[2]))
        assert session.keys[0] != session.keys[1]
        assert sn.module["relay_sessions"] == 1
        await sn.control("suspend", of="alice", why="spam")
        assert not sn.module["relay_sessions"]
        await until(lambda: not sn.house.gateway.peers())


# Who gets in


async def refused(machine: Machine) -> None:
    with pytest.raises(Refused):
        await machine.ask(Where())


async def test_by_default_there_is_no_way_in_but_for_the_owner(tmp_path: Path) -> None:
    config = "  open: false\n"
    async with sn_house(tmp_path, config, owners=False) as sn, machine(sn, MALLORY) as mallory:
        await refused(mallory)
        assert sn.module["guests"] == 0


async def test_the_owner_of_the_machine_is_one_of_its_own_people(tmp_path: Path) -> None:
    home = tmp_path / "sn"
    settle(home, HOST)
    (home / "identity" / "device.jwt").write_text(OWNER.device(HOST, "sn", time.time()).text)
    TrustStore(home).pin(Pin(about=OWNER.did, key=OWNER.key.public, source="test", at=int(time.time())))
    async with sn_house(tmp_path, owners=False) as sn:
        assert sn.module["owners"] == [str(OWNER.did)]
        async with machine(sn, BOX) as box:
            await join(box, OWNER, "alice")


async def test_nobody_is_invited_where_codes_let_nobody_in(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: none\n") as sn:
        with pytest.raises(Refused, match="sn/open"):
            await sn.control("invite")


async def test_an_invitation_lets_one_in_once(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: invited\n") as sn, machine(sn, MALLORY) as mallory:
        assert said_no(await submit(mallory, STRANGER, Register("stranger")), "closed")
        code = (await sn.control("invite", uses=1, days=1, note="a friend"))["code"]
        await join(mallory, STRANGER, "stranger", code=code)
        assert said_no(await submit(mallory, LAPTOP, Register("another", code)), "invitation"), "it is used up"
        told = (await sn.control("users", only="stranger"))["users"]
        assert [(one["owner"], one["here"], one["machines"][0]["did"]) for one in told] == [
            (str(STRANGER.did), 1, str(MALLORY.did))
        ]


async def test_strangers_do_not_take_all_places_at_the_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST_OF_STRANGERS", 2)
    async with (
        sn_house(tmp_path, "  open: anyone\n") as sn,
        machine(sn, BOX) as box,
        machine(sn, MALLORY) as mallory,
    ):
        await join(box, OWNER, "alice")
        assert isinstance(await mallory.ask(Where()), Here)
        talks = [Conversation(await mallory.open()) for _ in range(2)]
        for talk in talks:
            assert isinstance(await talk.ask(Where()), Here)
        with pytest.raises(Unreachable):
            await mallory.ask(Where())
        assert isinstance(await box.ask(Where()), Here)
        for talk in talks:
            talk.close()
        await until(lambda: not sn.house.gateway.connections())
        assert isinstance(await mallory.ask(Where()), Here)


async def test_strangers_are_let_in_one_by_one(tmp_path: Path) -> None:
    async with (
        sn_house(tmp_path, "  open: anyone\n  guests: 1\n") as sn,
        machine(sn, MALLORY) as mallory,
        machine(sn, BOX) as box,
    ):
        assert isinstance(await mallory.ask(Where()), Here)
        await refused(box)
        await join(mallory, STRANGER, "stranger")
        assert isinstance(await mallory.ask(Where()), Here), "who became a member makes room"
        await until(lambda: sn.module["guests"] == 0)
        assert isinstance(await box.ask(Where()), Here)


async def test_a_silent_stranger_has_to_go_for_another_and_a_member_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.sn.crowd.QUIET", 0.0)
    async with sn_house(tmp_path, "  open: anyone\n  guests: 1\n") as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        async with machine(sn, MALLORY) as mallory, machine(sn, LAPTOP) as laptop:
            assert isinstance(await mallory.ask(Where()), Here)
            assert isinstance(await laptop.ask(Where()), Here)
            here = {str(BOX.did), str(LAPTOP.did)}
            await until(lambda: {peer.peer for peer in sn.house.gateway.peers()} == here)
            await refused(mallory)
            assert isinstance(await box.ask(Where()), Here)


async def test_who_is_removed_or_barred_has_to_go(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n  guests: 1\n") as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        await sn.control("suspend", of=str(OWNER.did), why="spam")
        assert await asked(sn, f"alice.{SN}") == set(), "the zone at once"
        await until(lambda: not sn.house.gateway.peers())
        await sn.control("suspend", of=str(OWNER.did))
        assert await asked(sn, f"alice.{SN}") == {"198.51.100.1"}
        assert isinstance(await box.ask(Where()), Here), "it comes back"
        async with machine(sn, LAPTOP) as laptop:
            await join(laptop, OWNER, "", "laptop")
            said = await submit(laptop, OWNER, Remove(BOX.did))
            assert isinstance(said, Submitted)
            here = await box.ask(Where())
            assert isinstance(here, Here)
            assert not here.knows, "a guest, at most"
            for ask in (Connect(BOX.did), RelayWith(BOX.did)):
                assert said_no(await laptop.ask(ask), "unknown"), "nobody is led to a guest, though there is a tunnel"
            assert isinstance(await submit(laptop, OWNER, Close()), Submitted)
        assert await asked(sn, f"alice.{SN}") == set()


async def test_a_reload_keeps_members_lets_them_go_and_keeps_out_whom_it_put_out(tmp_path: Path) -> None:
    async with sn_house(tmp_path) as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        (stands,) = sn.house.gateway.peer_desk._peers._tunnels()  # type: ignore[union-attr]
        await sn.house.reload(sn.config + "  guests: 7\n", base="")
        await until(lambda: "domain" in sn.module)
        assert isinstance(await box.ask(Where()), Here)
        assert stands.stands, "a change of the section is nothing to those who are wanted before and after"
        without = sn.config[: sn.config.index("\nsn:")]
        nobody = sn.config.replace("udp: false}", "udp: false, admission: ['MATCH,REJECT']}")
        await sn.house.reload(without, base="")
        await until(lambda: not sn.house.gateway.peers())
        await refused(box)
        await refused(box)
        await sn.house.reload(nobody, base="")
        await until(lambda: "domain" in sn.module)
        await refused(box)
        await sn.house.reload(sn.config, base="")
        await until(lambda: "domain" in sn.module)
        assert isinstance(await box.ask(Where()), Here)


async def test_a_suspension_holds_while_the_sn_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = f"rules: ['DID,{BOX.did},REJECT', 'MATCH,REJECT']\n"
    async with sn_house(tmp_path, known) as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        await sn.control("suspend", of="alice", why="spam")
        monkeypatch.setattr("cyfs_gateway.io.sn.module._sessions", _puzzled)
        await sn.house.reload(sn.config.replace("rules:", "  guests: 7\nrules:"), base="")
        await until(lambda: not sn.module["running"])
        with pytest.raises(Refused, match="spam"):
            await box.ask(Where())
        async with machine(sn, LAPTOP) as laptop:
            await refused(laptop)


def _puzzled(*_: object) -> None:
    raise RuntimeError("nobody thought of that")


async def test_who_is_suspended_is_shown_so_at_once_and_has_no_time_to_hear_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sn_house(tmp_path) as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        monkeypatch.setattr("cyfs_gateway.io.sn.module._COURTESY", 1e6)

        async def here() -> tuple[str, int, bool, int]:
            (told,) = (await sn.control("users", only="alice"))["users"]
            (shown,) = told["machines"]
            return told["state"], told["here"], shown["here"], sn.module["here"]

        assert await here() == ("good", 1, True, 1)
        await sn.control("suspend", of="alice", why="spam")
        assert await here() == ("spam", 0, False, 0)
        await until(lambda: not sn.house.gateway.peers())


async def test_a_suspended_device_has_to_go_however_well_the_sn_knows_it(tmp_path: Path) -> None:
    known = f"rules: ['DID,{BOX.did},REJECT', 'DID,{LAPTOP.did},REJECT', 'MATCH,REJECT']\n"
    async with sn_house(tmp_path, known) as sn, machine(sn, BOX) as box, machine(sn, LAPTOP) as laptop:
        assert isinstance(await laptop.ask(Where()), Here)
        await join(box, OWNER, "alice")
        await sn.control("suspend", of="alice", why="spam")
        await until(lambda: [peer.peer for peer in sn.house.gateway.peers()] == [str(LAPTOP.did)])
        with pytest.raises(Refused, match="spam"):
            await box.ask(Where())
        assert isinstance(await laptop.ask(Where()), Here), "who has nothing to do with it stays"
        await sn.control("suspend", of="alice")
        here = await box.ask(Where())
        assert isinstance(here, Here)
        assert here.knows


# Attacks


async def test_requests_of_others_are_worth_nothing(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n") as sn, machine(sn, MALLORY) as mallory:
        signed = OWNER.sign(Register("alice"), time.time(), SN)
        assert isinstance(await mallory.ask(Submit(signed)), Submitted), "whoever brings it"
        assert said_no(await mallory.ask(Submit(signed)), "replayed")
        assert said_no(
            await mallory.ask(Submit(OWNER.sign(Register("bob"), time.time(), "other.example"))), "malformed"
        )
        assert said_no(await mallory.ask(Submit(person(1).sign(Register("bob"), time.time() - 3600, SN))), "malformed")
        forged = OWNER.sign(Register("bob"), time.time(), SN)
        assert said_no(await mallory.ask(Submit(forged[:-8] + "AAAAAAAA")), "malformed")
        stolen = OWNER.device(LAPTOP, "ood1", time.time())
        assert said_no(await submit(mallory, MALLORY, Admit(stolen)), "proof"), "not the machine it is about"
        assert said_no(await submit(mallory, STRANGER, Register("adm1n")), "bad-name")
        assert said_no(await submit(mallory, STRANGER, Register("a11ce")), "taken")
        assert said_no(await submit(mallory, STRANGER, Bind("victim.example")), "unknown")
        assert sn.module["names"] == 1
        lines = (await sn.control("audit"))["lines"]
        assert any(one["what"] == "register alice" and one["verdict"] == "ok" for one in lines)


async def test_nonsense_is_answered_and_then_it_is_over(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n") as sn, machine(sn, MALLORY) as mallory:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b'{"ask":"shutdown"}\n', b"\0" * 100 + b"\n"):
            pipe = await mallory.open()
            await send_all(pipe, nonsense)
            said = await the_end(pipe)
            reply = read_reply(said.rstrip(b"\n"), Where())
            assert said_no(reply, "malformed")
            pipe.close()
        pipe = await mallory.open()
        with pytest.raises(OSError), trio.fail_after(20):
            await send_all(pipe, b"x" * (1 << 20))
            await the_end(pipe)
        pipe.close()
        assert isinstance(await mallory.ask(Where()), Here)
        assert sn.module["running"]


async def test_one_machine_cannot_hold_all_the_streams(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n") as sn, machine(sn, MALLORY) as mallory, machine(sn, BOX) as box:
        held = [await mallory.open() for _ in range(16)]
        for pipe in held:
            await send_all(pipe, write_ask(Where()))
            assert await receive_some(pipe)
        pipe = await mallory.open()
        with pytest.raises(OSError), trio.fail_after(20):
            while True:
                await send_all(pipe, write_ask(Where()))
                assert not await receive_some(pipe)
        assert isinstance(await box.ask(Where()), Here)
        for one in (*held, pipe):
            one.close()
        await until(lambda: not sn.house.gateway.connections())


async def test_one_who_asks_without_end_waits_and_nobody_else(tmp_path: Path) -> None:
    async with sn_house(tmp_path, "  open: anyone\n") as sn, machine(sn, MALLORY) as mallory, machine(sn, BOX) as box:
        pipe = await mallory.open()
        await send_all(pipe, write_ask(Where()) * 400)
        heard = 0
        with trio.fail_after(60):
            while heard < 40:
                heard += (await receive_some(pipe)).count(b"\n")
        assert isinstance(await box.ask(Where()), Here), "while hundreds of questions wait"
        assert heard < 400
        with pytest.raises(trio.WouldBlock), trio.fail_after(20):
            while heard < 400:
                heard += (await soon(pipe)).count(b"\n")
        pipe.close()


async def soon(pipe: Endpoint) -> bytes:
    """What can be read at once, or after all that is under way has come to rest.  Raises ``WouldBlock``."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        buffer = memoryview(bytearray(65536))
        return bytes(buffer[: pipe.recv_into(buffer)])
    except BlockingIOError:
        raise trio.WouldBlock from None


# The operator


async def test_a_drained_sn_begins_nothing_new(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = await serve(nursery, echo)
    async with (
        sn_house(tmp_path) as sn,
        machine(sn, BOX, web(target)) as box,
        machine(sn, LAPTOP) as laptop,
    ):
        await members(sn, box, laptop)
        pipe = await laptop.tunnel_to(BOX.did)
        assert await sn.control("drain") == {"draining": True}
        for ask in (RelayWith(LAPTOP.did), Connect(LAPTOP.did), Submit("x"), Lease(Place("tcp", 2222))):
            assert said_no(await box.ask(ask), "draining")
        assert isinstance(await box.ask(Where()), Here)
        await send_all(pipe, b"still here")
        assert await receive_some(pipe) == b"still here"
        pipe.close()
        await sn.control("drain", on=False)
        assert isinstance(await box.ask(RelayWith(LAPTOP.did)), RelaySession)


async def test_visitors_are_led_to_the_machine_that_has_the_name(tmp_path: Path) -> None:
    config = "  open: anyone\n  ingress: {tls: [], http: [], ports: 20000-20999}\n"
    async with sn_house(tmp_path, config) as sn, machine(sn, BOX) as box, machine(sn, LAPTOP) as laptop:
        await members(sn, box, laptop)
        photos = Place("name", name=f"photos.alice.{SN}")
        async with machine(sn, MALLORY) as mallory:
            await join(mallory, STRANGER, "stranger")
            assert said_no(await mallory.ask(Lease(photos)), "unknown"), "it is another's"
        assert await box.ask(Lease(photos)) == Leased(photos)
        assert said_no(await laptop.ask(Lease(photos)), "taken")
        assert said_no(await laptop.ask(Lease(Place("name", name=f"bob.{SN}"))), "unknown")
        assert said_no(await laptop.ask(Lease(Place("name", name="example.org"))), "unknown")
        assert said_no(await laptop.ask(Lease(Place("tcp"))), "malformed")
        assert said_no(await laptop.ask(Lease(Place("tcp", 22))), "refused")
        leased = await laptop.ask(Lease(Place("tcp", name="ssh")))
        assert isinstance(leased, Leased)
        here = await laptop.ask(Where())
        assert isinstance(here, Here)
        assert [one.place for one in here.leases] == [leased.place]


async def test_visitors_of_a_machine_of_the_sn_are_led_to_no_device(tmp_path: Path) -> None:
    config = "  open: anyone\n  hosts: {shop: [198.51.100.9]}\n  ingress: {tls: [], http: []}\n"
    async with sn_house(tmp_path, config) as sn, machine(sn, BOX) as box:
        assert said_no(await submit(box, STRANGER, Register("sh0p")), "bad-name")
        await join(box, OWNER, "shop")  # its own people may have what is reserved, or had it before
        assert said_no(await box.ask(Lease(Place("name", name=f"shop.{SN}"))), "unknown")
        assert await asked(sn, f"shop.{SN}") == {"198.51.100.9"}


async def test_what_it_measures(tmp_path: Path) -> None:
    async with sn_house(tmp_path) as sn, machine(sn, BOX) as box:
        await join(box, OWNER, "alice")
        text = render(sn.house.gateway.module_metrics())
        assert "cyfs_sn_devices_here 1\n" in text
        assert 'cyfs_sn_answers_total{answer="ok"} 2\n' in text
        assert "cyfs_sn_relay_sessions 0\n" in text
        assert "alice" not in text
        assert str(OWNER.did) not in text


@pytest.mark.parametrize(
    ("method", "body", "fault"),
    [
        ("users", {"only": "nobody"}, KeyError),
        ("usage", {"month": "now"}, BadWire),
        ("invite", {"uses": 0}, Refused),
        ("invite", {"days": -1}, BadWire),
        ("invite", {"quota": {"bytes": 1}}, BadWire),
        ("suspend", {"of": "nobody"}, KeyError),
        ("uninvite", {"digest": "0"}, KeyError),
        ("drain", {"on": "yes"}, BadWire),
    ],
)
async def test_what_the_operator_gets_wrong(tmp_path: Path, method: str, body: dict, fault: type[Exception]) -> None:  # type: ignore[type-arg]
    async with sn_house(tmp_path, "  open: invited\n") as sn:
        with pytest.raises(fault):
            await sn.control(method, **body)
        assert sn.module["running"]

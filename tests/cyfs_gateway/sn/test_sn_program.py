"""An SN as the program is started and asked: what is acknowledged survives ``kill -9``, and the operator's commands."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from sn_house import HOST, OWNER, SN, SnHouse, join, machine, said_no, settle, update
from sn_people import person

from cyfs_gateway.sn.requests import Register
from cyfs_gateway.sn.talk import (
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
)
from cyfs_ns.errors import Refused
from tests.cyfs_gateway.io.inprocess import connect, exactly, serve, the_rest
from tests.cyfs_gateway.membership.membership_houses import PROGRAM, House, killed_at_last, udp_port
from tests.cyfs_gateway.sn.zonehosts import program
from tests.freeport import free_port

BOX, LAPTOP = person(11), person(12)


async def kdig(port: int, *words: str) -> list[str]:
    argv = [program("kdig"), "@127.0.0.1", "-p", str(port), "+short", "+timeout=5", *words]
    with trio.fail_after(60):
        done: subprocess.CompletedProcess[bytes] = await trio.run_process(argv, capture_stdout=True, check=False)
    return done.stdout.decode().split()


@asynccontextmanager
async def program_sn(base: Path, http: str = "[]") -> AsyncIterator[tuple[SnAlone, SnHouse]]:
    """An SN by the file that ``sn init`` writes, but for its ports; not started."""
    door, dns = free_port(), free_port()
    settle(base / "sn", HOST)
    house = SnAlone(base / "sn", HOST.key, "")
    told = await house.told("sn", "init", SN, "--address", "198.51.100.1", "--owner", str(OWNER.did))
    assert told["did"] == str(HOST.did)
    assert not told["new_key"]
    assert told["records"] == [f"{SN}. 3600 IN NS ns1.{SN}.", f"ns1.{SN}. 3600 IN A 198.51.100.1"]
    text = await trio.Path(told["file"]).read_text()
    for usual, free in (
        ("':53'", f"'127.0.0.1:{dns}'"),
        ("listen: 2980", f"listen: '127.0.0.1:{door}'"),
        ("listen: 3478", f"listen: '127.0.0.1:{udp_port()}'"),
        ("tls: [443]", "tls: []"),
        ("http: [80]", f"http: {http}"),
        ("nameserver: [1.1.1.1, 9.9.9.9]", "nameserver: ['127.0.0.1:9']\n  use-system-hosts: false"),
        ("open: none", "open: invited"),
        (f"domain: {SN}\n", f"domain: {SN}\n  private-addresses: true\n"),
    ):
        assert text.count(usual) == 1, usual
        text = text.replace(usual, free)
    house.config = text
    async with killed_at_last(house):
        yield house, SnHouse(base=base, port=door, dns=dns)


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    async with program_sn(tmp_path) as (house, sn):
        await house.start()
        async with machine(sn, BOX) as box, machine(sn, LAPTOP) as laptop:
            signed = OWNER.sign(Register("alice"), time.time(), SN)
            assert isinstance(await box.ask(Submit(signed)), Submitted)
            await join(box, OWNER, "")
            await join(laptop, OWNER, "", "laptop")
            word = update(BOX, "alice", addresses=("192.0.2.77",), exposed=True, challenges={"": ("x" * 43,)})
            assert isinstance(await box.ask(Update(word)), Updated)
            assert isinstance(await box.ask(RelayWith(LAPTOP.did)), RelaySession)
            serial = int((await kdig(sn.dns, SN, "SOA"))[2])
            await house.kill()
            await house.start()
            assert await kdig(sn.dns, f"photos.alice.{SN}") == ["192.0.2.77"]
            assert await kdig(sn.dns, f"_acme-challenge.alice.{SN}", "TXT") == ['"' + "x" * 43 + '"']
            assert await kdig(sn.dns, f"bob.{SN}") == []
            assert await kdig(sn.dns, SN, "TXT") == [f'"PKX={HOST.key.public.x};"']
            assert int((await kdig(sn.dns, SN, "SOA"))[2]) >= serial
            assert said_no(await box.ask(Submit(signed)), "replayed")
            said = await box.ask(Update(word))
            assert isinstance(said, No)
            assert "heard already" in said.why
            here = await box.ask(Where())
            assert isinstance(here, Here)
            assert (here.knows, here.names) == (True, ("alice",))
            assert isinstance(await box.ask(RelayWith(LAPTOP.did)), RelaySession)
            (alice,) = (await house.told("sn", "users", "alice"))["users"]
            assert [(one["did"], one["name"]) for one in alice["machines"]] == [
                (str(BOX.did), "ood1"),
                (str(LAPTOP.did), "laptop"),
            ]
            lines = (await house.told("sn", "audit"))["lines"]
            assert any(line["what"] == "register alice" and line["verdict"] == "ok" for line in lines)


async def test_what_the_operator_sees_and_does(tmp_path: Path) -> None:
    async with program_sn(tmp_path) as (house, sn):
        await house.start()
        async with machine(sn, BOX) as box:
            await join(box, OWNER, "alice")

            async def said(*words: str) -> str:
                done = await house.command("sn", *words)
                assert done.returncode == 0, done.stderr
                return done.stdout.decode()

            shown = await said("status")
            assert f"domain:      {SN}" in shown
            assert "here now:    devices: 1, guests: " in shown
            assert f"owners:      {OWNER.did}" in shown
            users = await said("users", "alice")
            assert str(OWNER.did) in users
            assert str(BOX.did) in users
            assert "month 20" in await said("usage")
            assert "register alice" in await said("audit")
            assert len((await said("invite")).strip()) == 19
            assert await said("drain") == "the SN begins nothing new\n"
            assert "draining" in await said("status")
            assert json.loads(await said("drain", "--off", "--json")) == {"draining": False}
            assert "barred" in await said("suspend", "alice", "--why", "spam")
            assert await kdig(sn.dns, f"alice.{SN}") == []
        for words, code in ((("suspend", "alice"), 2), (("suspend", "nobody", "--off"), 1), (("users", "nobody"), 1)):
            assert (await house.command("sn", *words)).returncode == code


async def test_a_suspended_account_is_served_no_more_from_that_moment(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for piece in stream:
            await stream.send_all(piece)

    http, first, target = free_port(), free_port(), await serve(nursery, echo)
    to = f"target: 'tcp://127.0.0.1:{target}', public: true"
    ingress = f"['127.0.0.1:{http}']\n    ports: {first}-{first + 9}"
    asked = f"GET / HTTP/1.1\r\nHost: photos.alice.{SN}\r\n\r\n".encode()

    async with program_sn(tmp_path, ingress) as (house, sn):
        await house.start()
        services = f"""
  sn: [{{peer: '{HOST.did}', at: '127.0.0.1:{sn.port}'}}]
  services:
    - {{name: web, port: 80, hosts: [+.alice.{SN}], {to}}}
    - {{name: ssh, port: 22, {to}}}
"""
        async with machine(sn, BOX, services) as box, machine(sn, LAPTOP) as laptop:
            await join(box, OWNER, "alice")
            await join(laptop, OWNER, "", "laptop")
            leased = await box.ask(Lease(Place("tcp", name="ssh")))
            assert isinstance(leased, Leased)
            assert isinstance(await box.ask(RelayWith(LAPTOP.did)), RelaySession)
            browser, shell = await connect(http), await connect(leased.place.port)
            for stream in (browser, shell):
                await stream.send_all(asked)
                assert await exactly(stream, len(asked)) == asked

            done = await house.command("sn", "suspend", "alice", "--why", "it sends spam")
            assert done.returncode == 0, done.stderr
            for stream in (browser, shell):
                assert await the_rest(stream) == b"", "what runs is cut"
            assert await kdig(sn.dns, f"alice.{SN}") == []
            late = await connect(http)
            await late.send_all(asked)
            assert (await the_rest(late))[9:12] in (b"404", b"502")
            with pytest.raises(OSError, match="refused"):
                await connect(leased.place.port)
            (user,) = (await house.told("sn", "users", "alice"))["users"]
            assert (user["state"], user["devices"]) == ("it sends spam", 2)
            shown = (await house.command("sn", "users")).stdout.decode()
            assert "it sends spam" in shown
            status = await house.told("sn", "status")
            assert (status["relay_sessions"], status["visitors"]) == (0, 0)
            await house.until(lambda said: not said["modules"]["sn"]["here"])
            for one in (box, laptop):
                with pytest.raises(Refused):
                    await one.ask(Where())

            assert (await house.command("sn", "suspend", "alice", "--off")).returncode == 0
            assert await kdig(sn.dns, f"alice.{SN}") == ["198.51.100.1"]
            here = await box.ask(Where())
            assert isinstance(here, Here)
            assert here.names == ("alice",), "its names waited"
            again = await connect(http)
            await again.send_all(asked)
            assert await exactly(again, len(asked)) == asked


class SnAlone(House):
    """Its configuration is a whole one."""

    async def start(self) -> None:
        file = trio.Path(self.home / "config.yaml")
        await file.write_text(self.config)
        log = await trio.open_file(self.home / "log", "ab")
        async with log:
            argv = [*PROGRAM, "--home", str(self.home), "run", "-c", str(file)]
            self.process = await trio.lowlevel.open_process(argv, stdout=log.wrapped, stderr=log.wrapped)
        await self.until(lambda said: "domain" in said["modules"]["sn"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sn.example", "--address", "nowhere"), "nowhere"),
        (("example", "--address", "192.0.2.1"), "sn/domain"),
        (("sn.example", "--address", "192.0.2.1", "--owner", "me"), "me"),
    ],
)
async def test_init_says_what_is_wrong_and_writes_nothing(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    house = House(tmp_path, person(3).key, "")
    done = await house.command("sn", "init", *words)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert not (tmp_path / "sn.yaml").exists()


async def test_init_makes_a_key_and_leaves_a_file_alone(tmp_path: Path) -> None:
    house = House(tmp_path / "new", person(3).key, "")
    first = await house.told("sn", "init", "sn.example", "--address", "192.0.2.1")
    assert first["new_key"]
    checked = await house.command("check", "-c", first["file"])
    assert checked.returncode == 0, checked.stdout
    again = await house.command("sn", "init", "sn.example", "--address", "192.0.2.1")
    assert again.returncode == 1
    assert b"there already" in again.stderr


async def test_check_looks_into_the_sections_of_modules(tmp_path: Path) -> None:
    house = House(tmp_path, person(3).key, "")
    file = trio.Path(tmp_path / "c.yaml")
    await file.write_text("rtcp: {}\nsn: {domain: sn.example, open: perhaps}\nhealth: [nonsense]\n")
    done = await house.command("check", "-c", str(file))
    assert done.returncode == 1
    said = done.stdout.decode()
    assert "/sn: sn/open: one of none, invited, anyone, and not 'perhaps'" in said
    assert "/health: " in said


async def test_a_gateway_without_an_sn_says_so(tmp_path: Path) -> None:
    house = House(tmp_path, person(3).key, "rules: ['MATCH,REJECT']\nlisteners: []\n")
    async with killed_at_last(house):
        await house.start()
        done = await house.command("sn", "status")
        assert done.returncode == 1
        assert b"sn init" in done.stderr

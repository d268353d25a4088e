"""The zone of an SN on a name server: who may ask it, what is remembered of it, and what real programs see of it."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
import trio
import trio.testing

from cyfs_gateway.io.sn.dnszone import ZoneKeeper
from cyfs_gateway.sn.zone import CHALLENGE_LIFE, Zone
from cyfs_ns.authority import Statement
from cyfs_ns.config.load import load_dns
from cyfs_ns.errors import ConfigFault
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.publish import publication
from cyfs_ns.io.resolver import Resolver
from cyfs_ns.io.serving import Serving
from cyfs_ns.io.trusted.dns import DnsRecords
from cyfs_ns.io.trusted.records import by_resolver
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.plan import Ask
from cyfs_ns.upstream import parse_upstream
from tests.cyfs_gateway.sn.zonefakes import (
    HOME4,
    LAPTOP,
    NOW,
    OOD,
    ORIGIN,
    V4,
    V6,
    Owner,
    Someone,
    people,
    said,
    secret,
    settings,
    value,
    zone,
)
from tests.cyfs_gateway.sn.zonehosts import knot, program, unbound
from tests.cyfs_ns.identity.identities import DAY, boot, mini, own_key
from tests.cyfs_ns.nameserving import CLIENT, Lab, edes, name_server, query_wire, rcode, shown
from tests.freeport import free_port

STRANGER = "198.18.0.9"
CHALLENGE = "_acme-challenge.alice.sn.example"


class Spoken:
    """An authority without a file."""

    def __init__(self, zone: Zone, lab: Lab) -> None:
        self.zone, self._lab = zone, lab
        self._began = lab.clock.wall()
        lab.server.speak_for(self)

    @property
    def now(self) -> float:
        return NOW + self._lab.clock.wall() - self._began

    def lookup(self, name: bytes, rtype: int) -> Statement | None:
        return self.zone.lookup(name, rtype, self.now)

    def say(self, token: str) -> None:
        verdict = self.zone.update(token, self.now)
        assert verdict.accepted, verdict.why
        self._lab.server.authority_changed(verdict.changed)


# --- who may ask ------------------------------------------------------------------------------------------------------


async def test_strangers_are_answered_about_the_zone_and_nothing_else() -> None:
    async with name_server(says={("www.example", "A"): ["300 A 192.0.2.1"]}) as lab:
        refused = await lab.raw(query_wire("alice.sn.example"), STRANGER)
        assert refused is not None
        assert rcode(dns.message.from_wire(refused)) == "REFUSED"
        Spoken(zone(), lab)
        for _ in range(2):
            told = await lab.ask("alice.sn.example", client=STRANGER)
            assert shown(told) == [f"alice.sn.example 60 A {V4}"]
            assert told.flags & dns.flags.AA
            assert not told.flags & dns.flags.RA
        assert lab.hits == 2, "the refusal, and the second answer"
        for name in ("www.example", "example", "sn.example.org"):
            assert rcode(await lab.ask(name, client=STRANGER)) == "REFUSED"
        assert edes(await lab.ask("www.example", client=STRANGER, edns=True)) == [18]
        assert rcode(await lab.ask("version.bind", "TXT", client=STRANGER, rdclass="CH")) == "REFUSED"
        assert lab.upstreams.asked == []
        # Those of the house may ask everything, and never hear an answer that was made for a stranger.
        assert shown(await lab.ask("www.example")) == ["www.example 300 A 192.0.2.1"]
        told = await lab.ask("alice.sn.example")
        assert told.flags & dns.flags.RA
        told = await lab.ask("alice.sn.example", client=STRANGER)
        assert not told.flags & dns.flags.RA
        lab.server.speak_for(None)
        assert rcode(await lab.ask("alice.sn.example", client=STRANGER)) == "REFUSED"


async def test_who_is_turned_away_by_name_hears_nothing_of_the_zone() -> None:
    config = {"deny-from": ["198.18.0.0/24"], "refuse": "silent"}
    async with name_server(config) as lab:
        Spoken(zone(), lab)
        assert await lab.raw(query_wire("alice.sn.example"), STRANGER) is None
        other = "198.18.1.9"
        assert shown(await lab.ask("alice.sn.example", client=other)) == [f"alice.sn.example 60 A {V4}"]
        assert await lab.raw(query_wire("www.example"), other) is None
        assert lab.upstreams.asked == []


async def test_strangers_have_a_limit() -> None:
    async with name_server({"rate-limit": 20}) as lab:
        Spoken(zone(), lab)
        answers = [await lab.raw(query_wire(f"x{number}.alice.sn.example"), STRANGER) for number in range(200)]
        whole = [answer for answer in answers if answer is not None and dns.message.from_wire(answer).answer]
        assert len(whole) <= 40
        longer = [answer for answer in answers if answer is not None and len(answer) > 512]
        assert longer == []


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [CLIENT, STRANGER])
async def test_a_change_is_seen_by_the_very_next_question(client: str) -> None:
    async with name_server() as lab:
        spoken = Spoken(zone(), lab)
        names = ("alice.sn.example", "photos.alice.sn.example", "PHOTOS.alice.SN.example", "bob.sn.example")
        for seq, address in enumerate((HOME4, "198.51.100.99", HOME4), start=1):
            for _ in range(2):
                before = [shown(await lab.ask(name, client=client)) for name in names]
            spoken.say(said(seq=seq, now=spoken.now, addresses=(address,), exposed=True))
            hits = lab.hits
            after = [shown(await lab.ask(name, client=client)) for name in names]
            assert [told[0].split()[-1] for told in after] == [address] * 3 + [V4]
            assert after[3] == before[3]
            assert lab.hits == hits + 2, "bob's, which has nothing to do with it, and what was said the moment before"
        assert (await lab.ask(ORIGIN, "SOA", client=client)).answer[0][0].serial == spoken.zone.serial


async def test_what_is_not_there_is_there_after_a_change() -> None:
    async with name_server() as lab:
        spoken = Spoken(zone(), lab)
        for _ in range(2):
            told = await lab.ask(CHALLENGE, "TXT")
            assert (rcode(told), shown(told)) == ("NOERROR", [])
        spoken.say(said(now=spoken.now, challenges={"": (value(1), value(2))}))
        for _ in range(2):
            assert len(shown(await lab.ask(CHALLENGE, "TXT"))) == 2
        lab.pass_time(CHALLENGE_LIFE)
        assert shown(await lab.ask(CHALLENGE, "TXT")) == []


async def test_what_is_on_its_way_while_it_changes_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], None]] = []
    async with name_server() as lab:
        spoken = Spoken(zone(), lab)
        with monkeypatch.context() as slow:
            slow.setattr("cyfs_ns.io.nameserver.afterwards", later.append)
            assert shown(await lab.ask("alice.sn.example")) == [f"alice.sn.example 60 A {V4}"]
        spoken.say(said(now=spoken.now, addresses=(HOME4,), exposed=True))
        for each in later:
            each()
        assert len(later) == 1
        assert shown(await lab.ask("alice.sn.example")) == [f"alice.sn.example 60 A {HOME4}"]


async def test_aliases_of_the_house_do_not_keep_what_was_there() -> None:
    async with name_server({"records": ["home.lan CNAME alice.sn.example"]}) as lab:
        spoken = Spoken(zone(), lab)
        for _ in range(2):
            assert shown(await lab.ask("home.lan"))[1] == f"alice.sn.example 60 A {V4}"
        spoken.say(said(now=spoken.now, addresses=(HOME4,), exposed=True))
        assert shown(await lab.ask("home.lan"))[1] == f"alice.sn.example 60 A {HOME4}"


class Follower:
    """A worker that only hears what is forgotten."""

    def __init__(self, told: list[bytes | None]) -> None:
        self._told = told

    def flushed(self, name: bytes | None, *, below: bool) -> None:
        assert below == (name is not None)
        self._told.append(name)

    def clients_forgotten(self) -> None:
        """None of its business."""

    def renewed(self) -> None:
        """None of its business."""


async def test_many_changes_at_once_forget_everything_together() -> None:
    who = Someone({f"n{number}": Owner({"d": OOD.public}, "d") for number in range(40)})
    async with name_server() as lab:
        spoken = Spoken(zone(who), lab)
        for number in range(40):
            await lab.ask(f"n{number}.sn.example")
        told: list[bytes | None] = []
        lab.server.hot.followers.append(Follower(told))
        for number in range(40):
            spoken.say(said(name=f"n{number}", device="d", now=spoken.now, addresses=(HOME4,), exposed=True))
        assert len([name for name in told if name is not None]) < 20
        assert told[-1] is None
        lab.pass_time(1)
        spoken.say(said(name="n7", device="d", seq=2, now=spoken.now))
        assert told[-1] == b"\2n7\2sn\7example\0"
        spoken.say(said(name="n7", device="d", seq=3, now=spoken.now, addresses=(HOME4,), exposed=True))
        for number in range(40):
            assert shown(await lab.ask(f"n{number}.sn.example")) == [f"n{number}.sn.example 60 A {HOME4}"]


# --- the keeper -------------------------------------------------------------------------------------------------------


class Keeping:
    def __init__(self, folder: Path, who: Someone | None = None, **more: Any) -> None:
        self.now, self.changes = NOW, list[bytes]()
        self.file = folder / "sn" / "zone.sqlite"
        self.keeper = ZoneKeeper(
            settings(**more),
            people() if who is None else who,
            self.file,
            wall=lambda: self.now,
        )
        self.keeper.changed = self.changes.extend


@asynccontextmanager
async def keeping(folder: Path, who: Someone | None = None, **more: Any) -> AsyncIterator[Keeping]:
    made = Keeping(folder, who, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.keeper.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_what_was_acknowledged_is_there_after_a_crash(tmp_path: Path) -> None:
    async with keeping(tmp_path) as made:
        assert (await made.keeper.update(said(seq=3, addresses=(HOME4,), exposed=True))).accepted
        assert not (await made.keeper.update(said(seq=3))).accepted
        # As a crash leaves it: nothing was closed.
        crashed = tmp_path / "crashed" / "sn"
        crashed.mkdir(parents=True)
        for file in made.file.parent.iterdir():
            (crashed / file.name).write_bytes(file.read_bytes())
        serial, lines = made.keeper.zone.serial, list(made.keeper.zone.lines(NOW))
    assert made.file.stat().st_mode & 0o777 == 0o600
    async with keeping(tmp_path / "crashed") as again:
        assert list(again.keeper.zone.lines(NOW))[1:] == lines[1:]
        assert 0 < again.keeper.zone.serial - serial < 100
        assert "heard already" in (await again.keeper.update(said(seq=3))).why


async def test_updates_that_come_together_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyfs_gateway.io.sn import dnszone

    written: list[int] = []
    put = dnszone._put

    def counted(database: sqlite3.Connection, kept: list[Any], serial: int) -> None:
        written.append(len(kept))
        put(database, kept, serial)

    monkeypatch.setattr(dnszone, "_put", counted)
    keys = [secret(number) for number in range(20, 220)]
    who = Someone({f"n{number}": Owner({"d": key.public}, "d") for number, key in enumerate(keys)})
    async with keeping(tmp_path, who) as made, trio.open_nursery() as nursery:
        for number, key in enumerate(keys):
            token = said(key, name=f"n{number}", device="d", addresses=(HOME4,))
            nursery.start_soon(made.keeper.update, token)
    assert sum(written) == len(keys)
    assert len(written) < 20
    async with keeping(tmp_path, who) as made:
        assert sum(HOME4 in line for line in made.keeper.zone.lines(NOW)) == 2 * len(keys)


async def test_a_disk_that_refuses_is_told_to_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyfs_gateway.io.sn import dnszone

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with keeping(tmp_path) as made:
        with monkeypatch.context() as broken:
            broken.setattr(dnszone, "_put", full)
            with pytest.raises(OSError, match="disk is full"):
                await made.keeper.update(said(seq=1, addresses=(HOME4,)))
        assert (await made.keeper.update(said(seq=2, addresses=(HOME4,)))).accepted


async def test_a_disk_that_is_full_at_the_start_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    async with keeping(tmp_path) as made:
        assert (await made.keeper.update(said(seq=1, addresses=(HOME4,)))).accepted
    with sqlite3.connect(made.file) as database:
        database.execute("INSERT INTO said VALUES ('bob', 'x', 'what nobody says any more', 1.0)")
        # As a full disk does, for every commit that has to remove this line.
        refuse = "CREATE TRIGGER full BEFORE DELETE ON said BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        database.execute(refuse)
    database.close()
    async with keeping(tmp_path) as again:
        assert any(HOME4 in line for line in again.keeper.zone.lines(NOW))
        assert (await again.keeper.update(said(seq=2, addresses=(HOME4,)))).accepted


async def test_who_waits_when_it_ends_is_not_left_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyfs_gateway.io.sn import dnszone

    held = threading.Event()
    monkeypatch.setattr(dnszone, "_put", lambda *_: held.wait(20))
    made = Keeping(tmp_path)
    assert "say it again" in (await made.keeper.update(said(seq=1))).why
    faults: list[OSError] = []

    async def say(token: str) -> None:
        try:
            await made.keeper.update(token)
        except OSError as fault:
            faults.append(fault)

    async with trio.open_nursery() as senders, trio.open_nursery() as nursery:
        await nursery.start(made.keeper.run)
        senders.start_soon(say, said(seq=1))
        await trio.testing.wait_all_tasks_blocked()
        senders.start_soon(say, said(LAPTOP, device="laptop"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        held.set()
    assert [str(fault).endswith("the SN ends") for fault in faults] == [True]
    assert "say it again" in (await made.keeper.update(said(seq=2))).why


async def test_a_file_that_is_none_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sn").mkdir()
    (tmp_path / "sn" / "zone.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(ConfigFault, match="remove it"):
        await Keeping(tmp_path).keeper.run()


async def test_a_new_registration_is_heard_of(tmp_path: Path) -> None:
    who = people()
    async with keeping(tmp_path, who) as made:
        who.owners["dave"] = Owner({}, "")
        before = made.keeper.zone.serial
        made.keeper.registered("dave")
        assert made.changes == [b"\4dave\2sn\7example\0"]
        assert made.keeper.zone.serial == before + 1


async def test_what_ends_is_swept(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with keeping(tmp_path) as made:
        made.keeper.zone.update(said(challenges={"": (value(1),)}), NOW)
        made.now += CHALLENGE_LIFE
        await trio.sleep(31)
        assert made.changes == [b"\5alice\2sn\7example\0"]


# --- real programs ----------------------------------------------------------------------------------------------------


def documents(subject: str) -> tuple[str, ...]:
    zone, owner = Did("web", subject), secret(1)
    now = int(NOW)
    times = {"iat": now - DAY, "exp": now + DAY}
    oods = [f"ood{number}:192.0.2.{number}@wan" for number in range(1, 9)]
    tokens = [("boot", boot(owner, *oods, zone=zone, **times)), ("dev", mini("ood1", OOD, owner, zone=zone, **times))]
    return publication(tokens, owner.public, NOW, zone).records


@asynccontextmanager
async def serving(folder: Path, who: Someone | None = None, **more: Any) -> AsyncIterator[tuple[int, Keeping]]:
    """A server on a port, to which everybody here is a stranger."""
    port = free_port()
    dns_section = {
        "enable": True,
        "listen": f"127.0.0.1:{port}",
        "nameserver": ["rcode://server_failure"],
        "use-system-hosts": False,
        "allow-from": ["192.0.2.0/24"],
        "rate-limit": 0,
        **more,
    }
    loaded = load_dns(json.dumps({"dns": dns_section}).encode())
    assert loaded.dns is not None, loaded.faults
    made = Serving(folder / "home", loaded.dns)
    async with keeping(folder, who) as kept, trio.open_nursery() as nursery:
        kept.keeper.changed = made.server.authority_changed
        await nursery.start(made.run, {})
        made.server.speak_for(kept.keeper)
        yield port, kept
        nursery.cancel_scope.cancel()


def questions() -> Iterator[tuple[str, str]]:
    """Everything that is there, everything beside it, and names from a seeded die."""
    dice = random.Random(6)
    labels = ["alice", "bob", "carol", "dave", "ood1", "laptop", "nas", "photos", "b", "*", "_acme-challenge", "www"]
    labels += ["ns1", "ns2", "admin", "x", "_dns", "\\000", "a" * 63]
    types = ["A", "AAAA", "TXT", "CAA", "NS", "SOA", "MX", "HTTPS", "CNAME", "DS", "SRV", "PTR", "TYPE4711"]
    yield from ((ORIGIN, rtype) for rtype in types)
    for _ in range(700):
        name = ".".join([*(dice.choice(labels) for _ in range(dice.randint(1, 5))), ORIGIN])
        spelt = "".join(dice.choice((char, char.upper())) for char in name)
        if len(name) < 250:
            yield spelt, dice.choice(types)


def compared(port: int, name: str, rtype: str) -> tuple[Any, ...]:
    """What the two must agree about; whether the zone's NS come along is everybody's own affair."""
    query = dns.message.make_query(name, rtype, flags=0, use_edns=0, payload=1232)
    told = dns.query.udp(query, "127.0.0.1", 5, port)
    truncated = bool(told.flags & dns.flags.TC)
    if truncated:
        told = dns.query.tcp(query, "127.0.0.1", 5, port)
    flags = told.flags & (dns.flags.AA | dns.flags.RA | dns.flags.AD | dns.flags.RD)
    answer = sorted((each.name.to_text().lower(), each.ttl, sorted(map(str, each))) for each in told.answer)
    soa = [(each.name.to_text(), each.ttl, str(each[0])) for each in told.authority if each.rdtype == dns.rdatatype.SOA]
    glue = sorted(
        (each.name.to_text().lower(), each.ttl, sorted(map(str, each))) for each in told.additional if rtype == "NS"
    )
    return dns.rcode.to_text(told.rcode()), flags, truncated, answer, soa, glue


async def test_a_real_authority_with_the_same_zone_says_the_same(tmp_path: Path) -> None:
    who = people()
    who.owners["alice"] = Owner(who.owners["alice"].devices, "ood1", documents("alice.sn.example"), ("pki.goog",))
    for name in ("bob", "carol"):  # a zone file has one TTL for what is not there, published or not
        who.owners[name] = replace(who.owners[name], issuers=("pki.goog",))
    async with serving(tmp_path, who) as (port, kept):
        keeper = kept.keeper
        values = {"": (value(1), value(2)), "photos.b": (value(3),), "x.ood1": (value(4),)}
        assert (await keeper.update(said(addresses=(HOME4,), exposed=True, challenges=values))).accepted
        assert (await keeper.update(said(LAPTOP, device="laptop", addresses=("2001:db8:7::8",)))).accepted
        with knot(tmp_path, keeper.zone.lines(NOW)) as theirs:
            log = (tmp_path / "log").read_text()
            assert "error" not in log and "warning" not in log, log
            asked = list(questions())
            assert len(asked) > 500
            differ = []
            seen: set[str] = set()
            for name, rtype in asked:
                for _ in range(2):  # the second is ready-made
                    ours = await trio.to_thread.run_sync(partial(compared, port, name, rtype))
                reference = await trio.to_thread.run_sync(partial(compared, theirs, name, rtype))
                seen.add(f"{reference[0]} {bool(reference[3])}")
                if ours != reference:
                    differ.append((name, rtype, ours, reference))
            assert differ == []
            assert seen == {"NOERROR True", "NOERROR False", "NXDOMAIN False"}


async def kdig(port: int, *words: str) -> str:
    command = [program("kdig"), "@127.0.0.1", "-p", str(port), "+timeout=5", *words]
    ran = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return str(ran.stdout.decode())


async def test_what_people_see_with_their_tools(tmp_path: Path) -> None:
    async with serving(tmp_path) as (port, kept):
        assert await kdig(port, "+short", "alice.sn.example") == f"{V4}\n"
        assert await kdig(port, "+short", "AAAA", "photos.alice.sn.example") == f"{V6}\n"
        assert await kdig(port, "+short", "TXT", CHALLENGE) == ""
        values = tuple(value(number) for number in range(3))
        verdict = await kept.keeper.update(said(addresses=(HOME4,), exposed=True, challenges={"": values}))
        assert verdict.accepted
        assert sorted((await kdig(port, "+short", "TXT", CHALLENGE)).split()) == [f'"{one}"' for one in values]
        assert await kdig(port, "+short", "alice.sn.example") == f"{HOME4}\n"
        assert await kdig(port, "+tcp", "+short", "photos.alice.sn.example") == f"{HOME4}\n"
        assert "REFUSED" in await kdig(port, "AXFR", ORIGIN)
        assert "status: REFUSED" in await kdig(port, "www.example.org")
        assert "RFC8482" in await kdig(port, "ANY", ORIGIN)
        told = await kdig(port, "+norec", "dave.sn.example")
        assert "status: NXDOMAIN" in told
        assert "Flags: qr aa;" in told
        assert f"ns1.sn.example. hostmaster.sn.example. {kept.keeper.zone.serial} " in told
        # As many challenges as there may be do not fit in a datagram, and come whole over TCP.
        many = tuple(value(number) for number in range(16))
        assert (await kept.keeper.update(said(seq=2, challenges={"": many}))).accepted
        cut = await kdig(port, "+ignore", "+bufsize=512", "TXT", CHALLENGE)
        assert "Flags: qr aa tc rd;" in cut
        assert (await kdig(port, "+bufsize=512", "+short", "TXT", CHALLENGE)).count(chr(34)) == 2 * len(many)


async def test_workers_forget_before_they_answer_again(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=2) as (port, kept):

        async def ask(name: str) -> list[str]:
            query = dns.message.make_query(name, "A")
            told = await trio.to_thread.run_sync(partial(dns.query.udp, query, "127.0.0.1", 10, port))
            return [str(one) for rrset in told.answer for one in rrset]

        for seq in range(1, 9):
            for _ in range(8):
                await ask("photos.alice.sn.example")
            address = f"198.51.100.{seq}"
            assert (await kept.keeper.update(said(seq=seq, addresses=(address,), exposed=True))).changed
            assert [await ask("photos.alice.sn.example") for _ in range(8)] == [[address]] * 8


async def test_a_real_resolver_finds_its_way_to_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (port, kept):
        with unbound(tmp_path, port) as resolver:

            async def ask(name: str, rtype: str) -> tuple[str, list[str]]:
                query = dns.message.make_query(name, rtype)
                told = await trio.to_thread.run_sync(partial(dns.query.udp, query, "127.0.0.1", 10, resolver))
                return dns.rcode.to_text(told.rcode()), sorted(str(one) for rrset in told.answer for one in rrset)

            assert await ask("alice.sn.example", "A") == ("NOERROR", [V4])
            assert await ask("a.b.c.alice.sn.example", "AAAA") == ("NOERROR", [V6])
            assert await ask("alice.sn.example", "MX") == ("NOERROR", [])
            assert await ask("dave.sn.example", "A") == ("NXDOMAIN", [])
            assert await ask("x.dave.sn.example", "A") == ("NXDOMAIN", [])
            assert await ask("ns2.sn.example", "A") == ("NOERROR", ["203.0.113.11"])
            update = said(addresses=(HOME4,), exposed=True, challenges={"photos": (value(7),)})
            assert (await kept.keeper.update(update)).accepted
            # Asked label by label: what stands between is not taken for the end of the zone.
            assert await ask("_acme-challenge.photos.alice.sn.example", "TXT") == ("NOERROR", [f'"{value(7)}"'])
            assert await ask("photos.alice.sn.example", "A") == ("NOERROR", [HOME4])
            assert await ask("alice.sn.example", "A") == ("NOERROR", [HOME4])


async def test_identities_under_the_zone_are_found(tmp_path: Path) -> None:
    who = people()
    who.owners["alice"] = Owner(who.owners["alice"].devices, "ood1", documents("alice.sn.example"))
    async with serving(tmp_path, who) as (port, kept):
        assert (await kept.keeper.update(said(addresses=(HOME4,)))).accepted
        resolver = Resolver([parse_upstream(f"udp://127.0.0.1:{port}")])
        dns_says = DnsRecords(by_resolver(resolver), wall=lambda: NOW)
        store = TrustStore(tmp_path / "store")
        trusted = TrustedNames([dns_says], store, wall=lambda: NOW)
        subject = Did("web", "ood1.alice.sn.example")
        outcome = await trusted.resolve(Ask(subject=subject, kinds=frozenset({"key", "address"})))
        assert isinstance(outcome, Found)
        assert own_key(outcome) == OOD.public
        assert HOME4 in {claim.value for claim in outcome.of("address")}
        assert outcome.trust == Trust.PLAIN_DNS
        resolver.close()

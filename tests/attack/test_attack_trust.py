"""Somebody at the disk, the clock and the lines of a house that trusts names: what was refused must not come in by
another door, nor by another order of things."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.revision import Change, revision_of
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.dns import DnsRecords
from cyfs_ns.io.trusted.providers import Provider, TheName, ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.records import RecordSet
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from cyfs_ns.trust.strongest import Accepted
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, PI, boot, mini, own_key, secret

OOD = device_did("ood1", HOME)


class Line:
    """A provider that brings these tokens, and does what it is told to while it is asked."""

    card = Card(
        name="line",
        methods=frozenset({"web"}),
        best=Trust.OWNER_SIGNED,
        cost=Cost.NEAR,
        privacy=Privacy.RESOLVER,
    )

    def __init__(self, *tokens: Token, ttl: float = 300, trust: Trust = Trust.AUTH_CHANNEL) -> None:
        self.tokens, self.ttl, self.trust = list(tokens), ttl, trust
        self.meanwhile: Callable[[], None] | None = None
        self.fault: BaseException | None = None
        self.asked = 0

    async def ask(self, ask: Ask) -> Outcome:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.meanwhile is not None:
            self.meanwhile()
        if self.fault is not None:
            raise self.fault
        fact = Evidence(trust=self.trust, what="said", source="line", at=NOW, until=NOW + self.ttl)
        claims = tuple(Claim(about=HOME, kind="token", value=token, evidence=fact) for token in self.tokens)
        if not claims:
            return Absent(subject=ask.subject, why="nothing", evidence=fact, until=fact.until)
        return Found(subject=ask.subject, claims=claims)


class House:
    def __init__(self, home: Path, *lines: Provider, now: float = NOW) -> None:
        self.now, self.passed, self.store = now, 0.0, TrustStore(home)
        base: list[Provider] = [TheName(self.wall), ThisMachine(self.store), WhatWasKept(self.store, self.wall)]
        self.names = TrustedNames([*base, *lines], self.store, wall=self.wall, clock=lambda: self.passed)

    def wall(self) -> float:
        return self.now

    async def ask(self, about: Did = OOD, **more: object) -> Outcome:
        return await self.names.resolve(Ask(subject=about, **more))  # type: ignore[arg-type]


def pinned(home: Path, key: SecretKey = ALICE, about: Did = HOME, *, revoked: bool = False, least: int = 0) -> Path:
    return TrustStore(home).pin(
        Pin(about=about, key=key.public, source="test", at=NOW - DAY, revoked=revoked, least_iat=least)
    )


def accepted(token: Token, key: SecretKey = ALICE, about: Did = OOD) -> Accepted:
    document = read_document(token.claims)
    return Accepted(about, document, token, revision_of(document, token), Trust.OWNER_SIGNED, key.public, True)


# --- the disk


def _a_dangling_link(folder: Path) -> None:
    (folder / "zz.json").symlink_to(folder / "nowhere")


def _a_loop(folder: Path) -> None:
    (folder / "zz.json").symlink_to(folder / "zz.json")


def _a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "zz.json")


def _a_directory(folder: Path) -> None:
    (folder / "zz.json").mkdir()


def _a_huge_file(folder: Path) -> None:
    with (folder / "zz.json").open("wb") as file:
        file.truncate(1 << 34)


def _an_endless_file(folder: Path) -> None:
    (folder / "zz.json").symlink_to("/dev/zero")


def _a_file_for_everybody(folder: Path) -> None:
    next(folder.glob("*.json")).chmod(0o666)


def _a_folder_for_everybody(folder: Path) -> None:
    folder.chmod(0o777)


def _a_second_pin(folder: Path) -> None:
    text = next(folder.glob("*.json")).read_text()
    (folder / "zz.json").write_text(text.replace(ALICE.public.x, MALLORY.public.x))


def _no_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("")


def _a_folder_that_is_elsewhere(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("nowhere"))


def _a_home_that_is_elsewhere(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("elsewhere"))
    folder.parent.symlink_to(folder.parent.with_name("nowhere"))


def _too_many(folder: Path) -> None:
    for number in range(10_001):
        os.mknod(folder / f"aa{number}.json", 0o600)


@pytest.mark.parametrize(
    "damage",
    [
        _a_dangling_link,
        _a_loop,
        _a_pipe,
        _a_directory,
        _a_huge_file,
        _an_endless_file,
        _a_file_for_everybody,
        _a_folder_for_everybody,
        _a_second_pin,
        _no_folder,
        _a_folder_that_is_elsewhere,
        _a_home_that_is_elsewhere,
        _too_many,
    ],
)
@pytest.mark.parametrize("warm", [False, True])
async def test_whatever_hides_a_pin_stops_all_belief(
    tmp_path: Path, damage: Callable[[Path], None], warm: bool
) -> None:
    pinned(tmp_path)
    line = Line(mini("ood1", PI, MALLORY))
    house = House(tmp_path, line)
    if warm:
        assert isinstance(await house.ask(), Refused)
        house.passed += 60
    damage(tmp_path / "names" / "pins")
    outcome = await house.ask(least=Trust.NONE, stale=True)
    assert isinstance(outcome, Refused) and "the pins cannot be read" in outcome.why


async def test_a_mark_is_not_lost_by_a_broken_link_beside_it(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(mini("ood1", NAS, ALICE, iat=NOW - 100))
    assert isinstance(await House(tmp_path, line).ask(least=Trust.OWNER_SIGNED), Found)
    _a_dangling_link(tmp_path / "names" / "kept")
    line.tokens = [mini("ood1", PI, ALICE, iat=NOW - DAY)]
    assert isinstance(await House(tmp_path, line).ask(least=Trust.OWNER_SIGNED), TooWeak)


def test_no_two_identities_share_a_file(tmp_path: Path) -> None:
    names = ["did:web:home.example:user", "did:web:home.example_user", f"did:web:h.example:{'a' * 200}"]
    names.append(names[-1] + "b")
    for number, name in enumerate(names):
        pinned(tmp_path, secret(number + 1), parse_did(name))
    assert {str(pin.about): pin.key for pin in TrustStore(tmp_path).pins()} == {
        name: secret(number + 1).public for number, name in enumerate(names)
    }


@pytest.mark.parametrize("times", [(2**32, 2**32), (0, 0)])
def test_a_pin_that_changes_is_seen_whatever_the_times_of_files(tmp_path: Path, times: tuple[int, int]) -> None:
    """One file was written while the clock was far ahead; then it is put right, and a pin revoked."""
    other = pinned(tmp_path, NAS, parse_did("did:web:other.example"))
    path = pinned(tmp_path)
    for file in (other, path, path.parent):
        os.utime(file, times)
    store = TrustStore(tmp_path)
    assert not any(pin.revoked for pin in store.pins())
    inside = path.read_bytes().replace(b'"revoked":false', b'"revoked":true ')
    path.write_bytes(inside)
    os.utime(path, times)
    os.utime(path.parent, times)
    assert any(pin.revoked for pin in store.pins())


def test_pins_stand_while_others_come_and_go(tmp_path: Path) -> None:
    """Files vanish between the listing and the reading; threads read at the same time."""
    pinned(tmp_path)
    store, done = TrustStore(tmp_path), threading.Event()
    missing: list[str] = []

    def come_and_go() -> None:
        other = TrustStore(tmp_path)
        for number in range(60):
            about = parse_did(f"did:web:n{number}.example")
            other.pin(Pin(about=about, key=NAS.public, source="test", at=NOW))
            other.unpin(about)
        done.set()

    def read(of: TrustStore) -> None:
        while not done.is_set():
            if not any(pin.about == HOME for pin in of.pins()):
                missing.append("gone")

    threads = [threading.Thread(target=come_and_go), *(threading.Thread(target=read, args=(store,)) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing


# --- two processes, and one that is killed


async def test_who_is_overtaken_while_asking_does_not_believe_the_older(tmp_path: Path) -> None:
    pinned(tmp_path)
    newer = accepted(mini("ood1", PI, ALICE, iat=NOW - 100))
    line = Line(mini("ood1", NAS, ALICE))

    def overtake() -> None:
        TrustStore(tmp_path).keep(newer, NOW)

    line.meanwhile = overtake
    outcome = await House(tmp_path, line).ask(least=Trust.OWNER_SIGNED)
    assert not isinstance(outcome, Found) and any("older than one" in fault for fault in outcome.faults)


def test_the_newer_stands_in_whatever_order_two_processes_write(tmp_path: Path) -> None:
    old, new = (accepted(mini("ood1", NAS, ALICE, iat=iat)) for iat in (NOW - 200, NOW - 100))
    for order in ((old, new), (new, old)):
        home = tmp_path / str(order[0].revision.iat)
        for one in order:
            TrustStore(home).keep(one, NOW)
        assert [one.revision for one in TrustStore(home).kept()] == [new.revision]
    assert TrustStore(home).keep(accepted(mini("ood1", PI, ALICE, iat=NOW - 100)), NOW) is Change.CONFLICT


async def test_half_a_write_is_nobodys(tmp_path: Path) -> None:
    path = pinned(tmp_path)
    (path.parent / f".{path.name}.abc.tmp").write_text("{")
    (path.parent / ".json").write_text("{")
    assert len(TrustStore(tmp_path).pins()) == 1


async def test_a_conflict_leaves_no_mark_that_settles_it(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(mini("ood1", NAS, ALICE), mini("ood1", PI, ALICE))
    for _ in range(2):
        assert isinstance(await House(tmp_path, line).ask(), Conflicted)
        line.tokens.reverse()


# --- pins that go, change and end


@pytest.mark.parametrize("then", ["unpin", "another key", "revoked", "least iat"])
async def test_what_was_kept_falls_with_its_pin(tmp_path: Path, then: str) -> None:
    pinned(tmp_path)
    line = Line(boot(ALICE, "ood1"), mini("ood1", NAS, ALICE))
    assert isinstance(await House(tmp_path, line).ask(), Found)
    line.tokens = []
    assert isinstance(await House(tmp_path, line).ask(), Found)
    match then:
        case "unpin":
            assert TrustStore(tmp_path).unpin(HOME)
        case "another key":
            pinned(tmp_path, MALLORY)
        case "revoked":
            pinned(tmp_path, revoked=True)
        case _:
            pinned(tmp_path, least=NOW)
    outcome = await House(tmp_path, line).ask()
    assert isinstance(outcome, Absent if then in ("unpin", "another key") else Revoked), outcome


async def test_who_was_pinned_anew_is_not_bound_by_what_the_thief_has_dated(tmp_path: Path) -> None:
    pinned(tmp_path, MALLORY)
    ahead = Line(mini("ood1", PI, MALLORY, iat=NOW + 50))
    assert isinstance(await House(tmp_path, ahead).ask(least=Trust.OWNER_SIGNED), Found)
    pinned(tmp_path, ALICE)
    outcome = await House(tmp_path, Line(mini("ood1", NAS, ALICE))).ask(least=Trust.OWNER_SIGNED)
    assert isinstance(outcome, Found) and own_key(outcome) == NAS.public


async def test_a_revoked_pin_is_no_answer(tmp_path: Path) -> None:
    pinned(tmp_path, revoked=True)
    line = Line()
    assert isinstance(await House(tmp_path, line).ask(HOME), Revoked) and line.asked == 0


async def test_what_is_revoked_while_it_is_asked_for_is_not_remembered(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(mini("ood1", NAS, ALICE))
    house = House(tmp_path, line)

    def revoke() -> None:
        line.meanwhile = None
        pinned(tmp_path, revoked=True)
        house.names.flush()

    line.meanwhile = revoke
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Revoked)
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Revoked)


# --- the clock


async def test_a_machine_without_a_clock_knows_what_it_knew(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(boot(ALICE, "ood1", iat=NOW - 5), mini("ood1", NAS, ALICE, iat=NOW - 5))
    assert isinstance(await House(tmp_path, line).ask(), Found)
    line.tokens = []
    reborn = House(tmp_path, line, now=100.0)
    outcome = await reborn.ask()
    assert isinstance(outcome, Found) and outcome.trust == Trust.HOST_SNAPSHOT
    assert isinstance(await House(tmp_path / "new", Line(mini("ood1", NAS, ALICE)), now=100.0).ask(), Unreachable)


async def test_a_clock_set_back_does_not_revive_what_has_ended(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(boot(ALICE, "ood1", iat=NOW - 5))
    assert isinstance(await House(tmp_path, line).ask(HOME, least=Trust.OWNER_SIGNED), Found)
    line.tokens = [mini("ood1", PI, ALICE, iat=NOW - DAY, exp=NOW - 100)]
    outcome = await House(tmp_path, line, now=NOW - 1000).ask(least=Trust.OWNER_SIGNED)
    assert not isinstance(outcome, Found) and any("expired" in fault for fault in outcome.faults)


async def test_a_clock_set_forward_ends_what_is_remembered(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(mini("ood1", NAS, ALICE, exp=NOW + 3600), ttl=10**6)
    house = House(tmp_path, line)
    assert isinstance(await house.ask(), Found)
    house.now = NOW + 7200
    assert isinstance(await house.ask(), Refused)


# --- lines


@pytest.mark.parametrize(
    "fault",
    [
        KeyError("x"),
        RecursionError(),
        UnicodeError("x"),
        ValueError("x"),
        MemoryError(),
        ExceptionGroup("", [BadWire("x")]),
        AssertionError(),
    ],
)
async def test_a_provider_that_breaks_is_one_that_could_not_be_asked(tmp_path: Path, fault: Exception) -> None:
    line = Line()
    line.fault = fault
    assert isinstance(await House(tmp_path, line).ask(), Unreachable)


async def test_a_forged_nothing_does_not_last(tmp_path: Path) -> None:
    line = Line(ttl=2**31)
    house = House(tmp_path, line)
    assert isinstance(await house.ask(), Absent)
    house.passed += 901
    line.tokens = [mini("ood1", NAS, ALICE)]
    assert not isinstance(await house.ask(), Absent)


async def test_who_takes_nothing_stale_gets_nothing_stale(tmp_path: Path) -> None:
    """Two ask at once, and one of them would take it."""
    pinned(tmp_path)
    line = Line(mini("ood1", NAS, ALICE), ttl=10)
    house = House(tmp_path, line)
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Found)
    house.now, house.passed, line.fault = NOW + 60, 60, OSError("down")
    for file in (tmp_path / "names" / "kept").iterdir():
        file.unlink()
    got: dict[bool, Outcome] = {}

    async def one(stale: bool) -> None:
        got[stale] = await house.ask(least=Trust.OWNER_SIGNED, stale=stale)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, True)
        nursery.start_soon(one, False)
    old = got[True]
    assert isinstance(old, Found) and old.stale and isinstance(got[False], Unreachable)


async def test_slow_names_hold_up_nobody_who_is_known_here(tmp_path: Path) -> None:
    pinned(tmp_path)
    line = Line(boot(ALICE, "ood1"), mini("ood1", NAS, ALICE))
    assert isinstance(await House(tmp_path, line).ask(), Found)
    asked, full = set[Did](), trio.Event()

    class Slow(Line):
        async def ask(self, ask: Ask) -> Outcome:
            asked.add(ask.subject)
            if len(asked) == 64:
                full.set()
            await trio.sleep_forever()
            raise AssertionError

    house = House(tmp_path, Slow())
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(house.ask, parse_did(f"did:web:n{number}.example"))
        await full.wait()
        with trio.fail_after(60):
            assert isinstance(await house.ask(enough=Trust.HOST_SNAPSHOT), Found)
        nursery.cancel_scope.cancel()


def _txt(*records: str) -> tuple[bytes, ...]:
    return tuple(
        b"".join(
            bytes([len(piece)]) + piece for piece in (one[at : at + 255].encode() for at in range(0, len(one), 255))
        )
        for one in records
    )


@pytest.mark.parametrize(
    "garbage",
    [
        ["BOOT=x;"],
        ["PKX=;"],
        [f"BOOT={boot(MALLORY, 'a').text};", f"BOOT={boot(MALLORY, 'b').text};"],
        [f"BOOT={'A' * 5000};"],
        ["DEV=" + "." * 4000 + ";"] * 200,
        [f"PKX={MALLORY.public.x};", f"PKX={PI.public.x};"],
    ],
)
async def test_garbage_does_not_make_a_zone_vanish(tmp_path: Path, garbage: Iterable[str]) -> None:
    async def records(name: str, rtype: int) -> RecordSet:
        await trio.lowlevel.checkpoint()
        data = _txt(*garbage) if rtype == 16 else ()
        return RecordSet(exists=True, data=data, ttl=60, server="udp://192.0.2.53", channel=Trust.PLAIN_DNS)

    outcome = await House(tmp_path, DnsRecords(records, wall=lambda: NOW)).ask(HOME)
    assert isinstance(outcome, Unreachable) and outcome.faults

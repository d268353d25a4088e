"""Plans carried out: over real files, with providers whose answers the test decides."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from cyfs_ns.errors import Unreachable as CannotAsk
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import OwnerDoc, ZoneDoc
from cyfs_ns.identity.oods import read_ood
from cyfs_ns.identity.revision import Change
from cyfs_ns.identity.strictjson import write_json
from cyfs_ns.identity.token import Token, read_token, sign_token
from cyfs_ns.io.trusted.providers import TheName, ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from cyfs_ns.trust.evidence import IDENTITY, Claim, Evidence, Kind
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Absent, Conflicted, Found, Outcome, Refused, Revoked, TooWeak, Unreachable
from cyfs_ns.trust.places import device_did
from cyfs_ns.trust.plan import Ask, Card, Cost, Privacy
from cyfs_ns.trust.strongest import Accepted
from cyfs_ns.trust.weigh import weigh
from tests.cyfs_ns.identity.identities import ALICE, DAY, HOME, MALLORY, NAS, NOW, PI, boot, mini, own_key

OOD = device_did("ood1", HOME)


@dataclass
class Records:
    """A provider that has what it was given, or nobody to ask."""

    tokens: list[Token] = field(default_factory=list)
    owner: bytes | None = None
    trust: Trust = Trust.PLAIN_DNS
    name: str = "dns"
    cost: Cost = Cost.NEAR
    down: bool = False
    asked: int = 0

    @property
    def card(self) -> Card:
        return Card(
            name=self.name,
            methods=frozenset({"web"}),
            best=Trust.OWNER_SIGNED,
            cost=self.cost,
            privacy=Privacy.RESOLVER,
        )

    async def ask(self, ask: Ask) -> Outcome:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.down:
            raise CannotAsk("the line is dead")
        fact = Evidence(trust=self.trust, what="published", source=self.name, at=NOW, until=NOW + 300)
        if not self.tokens:
            return Absent(subject=ask.subject, why="nothing there", evidence=fact, until=NOW + 60)
        claims = [Claim(about=HOME, kind="token", value=token, evidence=fact) for token in self.tokens]
        return Found(subject=ask.subject, claims=tuple(claims))


class House:
    def __init__(self, home: Path, *providers: Records, writes_behind: bool = False) -> None:
        self.now, self.store = float(NOW), TrustStore(home)
        self.names = TrustedNames(
            [TheName(self.wall), ThisMachine(self.store), WhatWasKept(self.store, self.wall), *providers],
            self.store,
            wall=self.wall,
            clock=self.wall,
            writes_behind=writes_behind,
        )

    def wall(self) -> float:
        return self.now

    def pin(self, **more: int) -> None:
        self.store.pin(Pin(about=HOME, key=ALICE.public, source="test", at=NOW - DAY, **more))

    def lose(self) -> None:
        """What is kept; how new it was is still known."""
        for one in self.store.kept():
            Path(one.source).unlink()
        self.names.flush()

    async def ask(self, about: Did = OOD, **more: object) -> Outcome:
        return await self.names.resolve(Ask(subject=about, **more))  # type: ignore[arg-type]


async def test_a_key_needs_nobody(tmp_path: Path) -> None:
    dns = Records()
    outcome = await House(tmp_path, dns).ask(dev_did(NAS.public))
    assert isinstance(outcome, Found) and outcome.trust == Trust.KEY_PROVEN and own_key(outcome) == NAS.public
    assert dns.asked == 0 and not (tmp_path / "names").exists()


async def test_owner_signed_then_kept_then_refused_when_older(tmp_path: Path) -> None:
    dns = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)])
    house = House(tmp_path, dns)
    house.pin()
    outcome = await house.ask(least=Trust.OWNER_SIGNED)
    assert isinstance(outcome, Found) and outcome.trust == Trust.OWNER_SIGNED
    assert await house.ask(least=Trust.OWNER_SIGNED) is outcome and dns.asked == 1

    after = House(tmp_path, dns)
    dns.down = True
    assert isinstance(weak := await after.ask(least=Trust.OWNER_SIGNED), TooWeak), weak
    assert any("the line is dead" in fault for fault in weak.faults)
    snapshot = await after.ask(least=Trust.HOST_SNAPSHOT)
    assert isinstance(snapshot, Found) and snapshot.trust == Trust.HOST_SNAPSHOT

    dns.down, dns.tokens = False, [boot(ALICE, "ood1"), mini("ood1", PI, ALICE, iat=NOW - 2 * DAY)]
    rolled = House(tmp_path, dns)
    answer = await rolled.ask(least=Trust.OWNER_SIGNED)
    assert isinstance(answer, TooWeak) and any("older than one we have believed" in fault for fault in answer.faults)
    assert own_key(await rolled.ask()) == NAS.public


async def test_after_a_day_without_network_the_owner_is_heard_again_in_minutes(tmp_path: Path) -> None:
    dns = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)])
    house = House(tmp_path, dns)
    house.pin()
    assert isinstance(await house.ask(), Found)
    dns.down, house.now = True, house.now + 400
    kept = await house.ask()
    assert isinstance(kept, Found) and kept.trust == Trust.HOST_SNAPSHOT and own_key(kept) == NAS.public
    dns.down, dns.tokens, house.now = False, [boot(ALICE, "ood1"), mini("ood1", PI, ALICE, iat=NOW)], house.now + 301
    now = await house.ask()
    assert isinstance(now, Found) and now.trust == Trust.OWNER_SIGNED and own_key(now) == PI.public


async def test_while_forgeries_leave_what_was_found_nobody_is_asked_for_every_question(tmp_path: Path) -> None:
    dns = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)])
    house = House(tmp_path, dns)
    house.pin()
    more = {"least": Trust.OWNER_SIGNED, "stale": True}
    assert isinstance(await house.ask(**more), Found)
    for kept in (tmp_path / "names" / "kept").iterdir():
        kept.unlink()
    house.now, dns.tokens = house.now + 400, [mini("ood1", NAS, MALLORY)]
    before = dns.asked
    for _ in range(5):
        told = await house.ask(**more)
        assert isinstance(told, Found) and told.stale, told
    assert dns.asked == before + 1
    house.now, dns.tokens = house.now + 31, [boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]
    told = await house.ask(**more)
    assert isinstance(told, Found) and not told.stale and told.trust == Trust.OWNER_SIGNED


async def test_the_mark_survives_what_comes_after(tmp_path: Path) -> None:
    house = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]))
    house.pin()
    await house.ask(least=Trust.OWNER_SIGNED)
    newer = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", PI, ALICE, iat=NOW - 10)]))
    outcome = await newer.ask(least=Trust.OWNER_SIGNED)
    assert isinstance(outcome, Found) and own_key(outcome) == PI.public
    kept = {one.kind: one for one in TrustStore(tmp_path).kept()}
    assert kept["device-mini"].revision.iat == NOW - 10


async def test_of_a_chain_name_too_the_zone_is_kept_with_its_machines(tmp_path: Path) -> None:
    zone = Did("bns", "alice")
    fact = Evidence(trust=Trust.PLAIN_DNS, what="published", source="dns", at=NOW, until=NOW + 300)
    tokens = [boot(ALICE, "ood1:192.0.2.1", zone=zone), mini("ood1", NAS, ALICE, zone=None)]
    store = TrustStore(tmp_path)
    store.pin(Pin(about=zone, key=ALICE.public, source="test", at=NOW - DAY))
    claims = [Claim(about=zone, kind="token", value=token, evidence=fact) for token in tokens]
    for accepted in weigh(claims, store.anchors(), NOW).accepted:
        store.keep(accepted, NOW)
    kinds: frozenset[Kind] = IDENTITY | {"address"}
    alone = await House(tmp_path).ask(device_did("ood1", zone), kinds=kinds)
    assert isinstance(alone, Found) and own_key(alone) == NAS.public
    assert [claim.value for claim in alone.of("address")] == ["192.0.2.1"]


async def test_whatever_comes_out_says_what_was_thrown_away(tmp_path: Path) -> None:
    class Says(Records):
        async def ask(self, ask: Ask) -> Outcome:
            await trio.lowlevel.checkpoint()
            fact = Evidence(trust=Trust.AUTH_CHANNEL, what="said", source=self.name, at=NOW)
            if self.name == "ended":
                return Revoked(subject=ask.subject, why="ended", evidence=fact, faults=("one",))
            return Absent(subject=ask.subject, why="none", evidence=fact, faults=(self.name,))

    ended = await House(tmp_path, Says(name="ended"), Says(name="two")).ask()
    assert isinstance(ended, Revoked) and set(ended.faults) == {"one", "two"}
    absent = await House(tmp_path, Says(name="two"), Says(name="three")).ask()
    assert isinstance(absent, Absent) and set(absent.faults) == {"two", "three"}


async def test_what_is_put_here_by_hand_is_this_machines_own_word(tmp_path: Path) -> None:
    local = tmp_path / "names" / "local"
    local.mkdir(parents=True)
    file = local / "home.json"
    file.write_bytes(write_json(OwnerDoc(id=HOME, key=ALICE.public, name="a", iat=NOW - DAY, exp=NOW + DAY).claims()))
    outcome = await House(tmp_path).ask(HOME)
    assert isinstance(outcome, Found) and outcome.trust == Trust.HOST_SNAPSHOT
    assert [(claim.key, claim.evidence.source) for claim in outcome.of("document")] == [("owner", str(file))]
    file.chmod(0o666)
    refused = await House(tmp_path).ask(HOME)
    assert isinstance(refused, Unreachable) and any("chmod o-w" in fault for fault in refused.faults)


async def test_not_there_not_reachable_not_enough_and_revoked_are_different(tmp_path: Path) -> None:
    assert isinstance(await House(tmp_path, Records()).ask(), Absent)
    assert isinstance(await House(tmp_path, Records(down=True)).ask(), Unreachable)
    unsigned = House(tmp_path, Records([mini("ood1", NAS, ALICE)]))
    unknown = await unsigned.ask()
    assert isinstance(unknown, Unreachable) and any("nobody knows the key" in fault for fault in unknown.faults)
    revoked = House(tmp_path, Records([mini("ood1", NAS, ALICE)]))
    revoked.pin(least_iat=NOW)
    assert isinstance(await revoked.ask(), Revoked)


async def test_two_truths_of_one_weight_are_told_with_both_names(tmp_path: Path) -> None:
    one = Records([mini("ood1", NAS, ALICE)], name="first")
    two = Records([mini("ood1", PI, ALICE)], name="second")
    house = House(tmp_path, one, two)
    house.pin()
    outcome = await house.ask()
    assert isinstance(outcome, Conflicted) and "first" in outcome.why and "second" in outcome.why


async def test_many_who_ask_at_once_are_one_question(tmp_path: Path) -> None:
    dns = Records([mini("ood1", NAS, ALICE)])
    house = House(tmp_path, dns)
    house.pin()
    outcomes: list[Outcome] = []

    async def one() -> None:
        outcomes.append(await house.ask())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert dns.asked == 1 and len({id(outcome) for outcome in outcomes}) == 1


async def test_a_crowd_that_is_new_is_kept_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zones = [Did("web", f"z{number}.example") for number in range(40)]
    store, under_way, most, kept = TrustStore(tmp_path), 0, 0, []
    (tmp_path / "names" / "local").mkdir(parents=True)
    for zone in zones:
        store.pin(Pin(about=zone, key=ALICE.public, source="test", at=NOW - DAY))
        (tmp_path / "names" / "local" / f"{zone.id}.jwt").write_text(boot(ALICE, "ood1", zone=zone).text)
    keep = TrustStore.keep

    def slow(store: TrustStore, accepted: Accepted, now: float) -> Change:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.005)
        kept.append(accepted.about)
        try:
            return keep(store, accepted, now)
        finally:
            under_way -= 1

    monkeypatch.setattr(TrustStore, "keep", slow)
    house = House(tmp_path)
    async with trio.open_nursery() as nursery:
        for zone in zones:
            nursery.start_soon(house.ask, zone)
    # Whoever comes for the lock on the disk in a crowd may never get it.
    assert most == 1 and sorted(kept, key=str) == sorted(zones, key=str)
    assert {one.about for one in house.store.kept()} == set(zones)


class Zones(Records):
    """Every zone that is asked for, with one machine."""

    async def ask(self, ask: Ask) -> Outcome:
        await trio.lowlevel.checkpoint()
        zone = Did("web", ask.subject.id.removeprefix("ood1."))
        fact = Evidence(trust=self.trust, what="published", source=self.name, at=NOW, until=NOW + 300)
        tokens = boot(ALICE, "ood1", zone=zone), mini("ood1", NAS, ALICE, zone)
        claims = [Claim(about=zone, kind="token", value=token, evidence=fact) for token in tokens]
        return Found(subject=ask.subject, claims=tuple(claims))


async def test_all_that_is_new_of_one_waits_for_others_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or everybody of a crowd would be answered when the last of it is."""
    house, keep, kept = House(tmp_path, Zones()), TrustStore.keep, []
    zones = [Did("web", f"z{number}.example") for number in range(20)]
    for zone in zones:
        house.store.pin(Pin(about=zone, key=ALICE.public, source="test", at=NOW - DAY))

    def noted(store: TrustStore, accepted: Accepted, now: float) -> Change:
        kept.append(accepted.about.id.removeprefix("ood1."))
        return keep(store, accepted, now)

    monkeypatch.setattr(TrustStore, "keep", noted)
    async with trio.open_nursery() as nursery:
        for zone in zones:
            nursery.start_soon(house.ask, device_did("ood1", zone))
    assert len(kept) == 40 and kept[::2] == kept[1::2]


class SlowDisk:
    """Takes nothing from ``house`` before it ``may``."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may, keep = threading.Event(), TrustStore.keep

        def slow(store: TrustStore, accepted: Accepted, now: float) -> Change:
            assert store is not house.store or self.may.wait(60)
            return keep(store, accepted, now)

        monkeypatch.setattr(TrustStore, "keep", slow)


async def test_a_process_that_lives_on_answers_before_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]), writes_behind=True)
    house.pin()
    disk = SlowDisk(house, monkeypatch)
    assert own_key(await house.ask()) == NAS.public and not house.store.kept()
    disk.may.set()
    while len(house.store.kept()) < 2:  # noqa: ASYNC110
        await trio.sleep(0.001)


async def test_many_answers_behind_which_is_written_leave_nothing_unwritten(tmp_path: Path) -> None:
    house = House(tmp_path, Zones(), writes_behind=True)
    zones = [Did("web", f"z{number}.example") for number in range(20)]
    for zone in zones:
        house.store.pin(Pin(about=zone, key=ALICE.public, source="test", at=NOW - DAY))
    async with trio.open_nursery() as nursery:
        for zone in zones:
            nursery.start_soon(house.ask, device_did("ood1", zone))
            await trio.lowlevel.checkpoint()
    while len(house.store.kept()) < 40:  # noqa: ASYNC110
        await trio.sleep(0.001)


async def test_while_the_newest_is_being_written_nothing_older_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)])
    house, said = House(tmp_path, dns, writes_behind=True), []
    house.pin()
    disk = SlowDisk(house, monkeypatch)
    assert own_key(await house.ask()) == NAS.public
    dns.tokens = [boot(ALICE, "ood1"), mini("ood1", PI, ALICE, iat=NOW - 2 * DAY)]
    after = House(tmp_path, dns, writes_behind=True)  # as after a change of the configuration

    async def ask() -> None:
        said.append(await after.ask())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert not said and dns.asked == 1
        disk.may.set()
    assert own_key(said[0]) == NAS.public  # as it was kept


async def test_whoever_read_the_marks_before_the_newest_was_believed_waits_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Records):
        heard, may = trio.Event(), trio.Event()

        async def ask(self, ask: Ask) -> Outcome:
            self.heard.set()
            await self.may.wait()
            return await super().ask(ask)

    newest = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)])
    older = Late([boot(ALICE, "ood1"), mini("ood1", PI, ALICE, iat=NOW - 2 * DAY)])
    house, said = House(tmp_path, newest, writes_behind=True), []
    house.pin()
    before = House(tmp_path, older, writes_behind=True)
    disk = SlowDisk(house, monkeypatch)

    async def ask() -> None:
        said.append(await before.ask())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await older.heard.wait()
        assert own_key(await house.ask()) == NAS.public
        older.may.set()
        await trio.testing.wait_all_tasks_blocked()
        early = list(said)
        disk.may.set()
    assert not early and (isinstance(said[0], Refused | TooWeak) or own_key(said[0]) != PI.public), said


async def test_a_fault_of_ours_in_writing_behind_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> Change:
        raise RuntimeError("can't start new thread")

    house = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]), writes_behind=True)
    house.pin()
    with monkeypatch.context() as patched:
        patched.setattr(TrustStore, "keep", fails)
        assert own_key(await house.ask()) == NAS.public
        while house.names.peek(Ask(subject=OOD)) is not None:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert "can't start new thread" in caplog.text
    assert own_key(await house.ask()) == NAS.public
    while len(house.store.kept()) < 2:  # noqa: ASYNC110
        await trio.sleep(0.001)


async def test_what_another_process_knows_better_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns, other = Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE, iat=NOW - 2 * DAY)]), TrustStore(tmp_path)
    house = House(tmp_path, dns, writes_behind=True)
    house.pin()
    disk = SlowDisk(house, monkeypatch)
    assert own_key(await house.ask()) == NAS.public
    fact = Evidence(trust=Trust.PLAIN_DNS, what="published", source="dns", at=NOW, until=NOW + 300)
    newer = boot(ALICE, "ood1"), mini("ood1", PI, ALICE)
    claims = [Claim(about=HOME, kind="token", value=token, evidence=fact) for token in newer]
    for accepted in weigh(claims, other.anchors(), NOW).accepted:
        other.keep(accepted, NOW)
    disk.may.set()
    while house.names.peek(Ask(subject=OOD)) is not None:  # noqa: ASYNC110
        await trio.sleep(0.001)
    assert own_key(await house.ask()) == PI.public


async def test_stale_only_for_those_who_take_it_and_only_while_the_document_lasts(tmp_path: Path) -> None:
    dns = Records([mini("ood1", NAS, ALICE, exp=NOW + 3600)])
    house = House(tmp_path, dns)
    house.pin()
    assert isinstance(await house.ask(), Found)
    for file in (tmp_path / "names" / "kept").iterdir():
        file.unlink()
    house.now, dns.down = NOW + 400.0, True
    assert isinstance(await house.ask(), Unreachable)
    house.now += 10
    old = await house.ask(stale=True)
    assert isinstance(old, Found) and old.stale and "stale" in old.why
    house.now = NOW + 3601.0
    assert isinstance(await house.ask(stale=True), Unreachable)


async def test_what_was_found_is_recalled_while_its_document_lasts_and_nobody_went_back_on_it(tmp_path: Path) -> None:
    dns = Records([mini("ood1", NAS, ALICE, exp=NOW + 3600)])
    house = House(tmp_path, dns)
    house.pin()
    ask = Ask(subject=OOD)
    assert house.names.recall(ask) is None
    found = await house.ask()
    assert isinstance(found, Found)
    for later in (0.0, 400.0, 3500.0):
        house.now = NOW + later
        assert house.names.recall(ask) == found and dns.asked == 1
    house.now = NOW + 3601.0
    assert house.names.recall(ask) is None
    house.now = NOW + 400.0
    house.pin(revoked=True)
    assert not isinstance(await house.ask(), Found)
    assert house.names.recall(ask) is None
    house.names.flush()
    assert house.names.recall(ask) is None


async def test_a_pin_that_cannot_be_read_stops_all_belief(tmp_path: Path) -> None:
    house = House(tmp_path, Records([mini("ood1", PI, MALLORY)]))
    house.pin()
    next((tmp_path / "names" / "pins").iterdir()).write_text("{")
    outcome = await house.ask()
    assert isinstance(outcome, Refused) and "nothing is believed" in outcome.why


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"about":"did:web:home.example"', b"\xff\xfe", b"x" * 100_000])
async def test_a_kept_file_that_is_damaged_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    house = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]))
    house.pin()
    await house.ask()
    for file in (tmp_path / "names" / "kept").iterdir():
        file.write_bytes(damage)
    again = House(tmp_path, Records([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]))
    assert isinstance(await again.ask(least=Trust.OWNER_SIGNED), Found)
    assert len(TrustStore(tmp_path).kept()) == 2


async def test_a_document_put_here_that_cannot_be_read_may_be_of_anybody_who_is_pinned(tmp_path: Path) -> None:
    dns = Records()
    house = House(tmp_path, dns)
    house.pin()
    local = tmp_path / "names" / "local"
    local.mkdir(parents=True)
    (local / "boot.jwt").write_text(boot(ALICE, "ood1").text[:-40] + "!")
    refused = await house.ask()
    assert isinstance(refused, Refused) and str(local / "boot.jwt") in refused.why
    dns.tokens = [boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)]
    house.names.flush()
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), Found)


async def test_what_was_kept_and_has_ended_is_nobodys_attempt(tmp_path: Path) -> None:
    dns = Records([mini("ood1", NAS, ALICE, exp=NOW + 60)])
    house = House(tmp_path, dns)
    house.pin()
    assert isinstance(await house.ask(), Found)
    dns.tokens, house.now = [], NOW + 400.0
    house.names.flush()
    assert isinstance(await house.ask(), Unreachable)


@dataclass
class Mute(Records):
    """Nobody knows whether it will ever answer; meanwhile what it is worth waiting for is counted."""

    silent: bool = False

    async def ask(self, ask: Ask) -> Outcome:
        if self.silent:
            self.asked += 1
            await trio.sleep_forever()
        return await super().ask(ask)


@pytest.fixture
def virtual(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    # Long enough for a look at the disk in a thread.
    mock_clock.autojump_threshold = 0.3
    return mock_clock


async def test_what_is_kept_waits_two_seconds_for_the_silent_and_then_not_at_all(
    tmp_path: Path, virtual: trio.testing.MockClock
) -> None:
    dns, web = Mute([boot(ALICE, "ood1", "ood2"), mini("ood1", NAS, ALICE)]), Mute(name="web", cost=Cost.FAR)
    house = House(tmp_path, dns, web)
    house.pin()
    assert isinstance(await house.ask(), Found)
    dns.silent, dns.asked, web.asked, house.now = True, 0, 0, house.now + 400
    begun = trio.current_time()
    kept = await house.ask()
    assert isinstance(kept, Found) and kept.trust == Trust.HOST_SNAPSHOT and own_key(kept) == NAS.public
    assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
    # A name that nobody knows, of the same zone: nobody is waited for again.
    begun = trio.current_time()
    assert not isinstance(await house.ask(device_did("nobody", HOME)), Found)
    assert trio.current_time() == pytest.approx(begun, abs=0.1) and (dns.asked, web.asked) == (1, 1)
    assert house.names.is_silent(OOD) and not house.names.is_silent(Did("web", "friend.example"))
    house.now += 11
    assert not house.names.is_silent(OOD)
    dns.silent = False
    now = await house.ask(device_did("ood2", HOME), kinds=IDENTITY | {"address"})
    assert not isinstance(now, Found) and dns.asked == 2


async def test_a_newer_boot_document_counts_when_it_is_kept_and_when_only_its_mark_is_left(tmp_path: Path) -> None:
    old = ZoneDoc(
        id=HOME,
        key=ALICE.public,
        owner=dev_did(ALICE.public),
        oods=(read_ood("ood1:203.0.113.66"),),
        iat=NOW - 2 * DAY,
        exp=NOW + DAY,
    )
    dns = Records([boot(ALICE, "ood1:192.0.2.2"), mini("ood1", NAS, ALICE)])
    house = House(tmp_path, dns)
    house.pin()
    kinds = frozenset[Kind]({"address"})
    assert isinstance(await house.ask(kinds=kinds), Found)
    dns.tokens = [read_token(sign_token(old.claims(), ALICE))]
    house.names.flush()
    kept = await house.ask(kinds=kinds)
    assert isinstance(kept, Found) and {claim.value for claim in kept.of("address")} == {"192.0.2.2"}
    assert {claim.trust for claim in kept.of("address")} == {Trust.HOST_SNAPSHOT}
    assert any("superseded by the boot document" in fault for fault in kept.faults)
    house.lose()
    lost = await house.ask(kinds=kinds)
    assert isinstance(lost, Refused) and "is newer, and not heard now" in lost.why, lost


async def test_who_has_nothing_kept_or_wants_the_owners_word_waits(
    tmp_path: Path, virtual: trio.testing.MockClock
) -> None:
    dns = Mute([boot(ALICE, "ood1"), mini("ood1", NAS, ALICE)], silent=True)
    house = House(tmp_path, dns)
    house.pin()
    begun = trio.current_time()
    assert not isinstance(await house.ask(), Found)
    assert trio.current_time() - begun == pytest.approx(10.0, abs=0.1)
    begun = trio.current_time()
    assert not isinstance(await house.ask(device_did("b", HOME), patience=2.0), Found)
    assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
    dns.silent = False
    house.names.flush()
    assert isinstance(await house.ask(), Found)
    dns.silent, house.now = True, house.now + 400
    begun = trio.current_time()
    assert isinstance(await house.ask(least=Trust.OWNER_SIGNED), TooWeak)
    assert trio.current_time() - begun == pytest.approx(10.0, abs=0.1)

"""The books on disk: whole after ``kill -9``, polite on a full disk, one winner among two hundred."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from sn_people import HERE, NOW, SN, Person, person, secret

from cyfs_gateway.io.sn import books as books_module
from cyfs_gateway.io.sn import store as store_module
from cyfs_gateway.io.sn.books import Books, open_books, read_books
from cyfs_gateway.io.sn.store import Database, Line, Store
from cyfs_gateway.io.sn.tables import MIGRATIONS
from cyfs_gateway.sn.accounts import Account, Change, Device, Invitation, Name, Stamp, Whereabouts, code_of
from cyfs_gateway.sn.admission import Code, Policy, challenge
from cyfs_gateway.sn.meter import Batch, Usage, month_of
from cyfs_gateway.sn.quota import Grant, Quota
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import Admit, Bind, Point, Register, Rekey, Release, Report, Request
from cyfs_gateway.sn.upkeep import invite, with_quota
from cyfs_ns.errors import BadWire, ConfigFault, Misuse, Unreachable
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.issue import Issuer
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.revision import Revision
from cyfs_ns.identity.token import read_token

KEY = PublicKey(secret(1).public.raw)
OWNER = Did("bns", "alice")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sn.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path)) as database:
        yield database


def everything(number: int) -> list[Change]:
    """One of each kind, as one change."""
    owner, did = Did("bns", f"owner{number}"), person(10_000 + number).did
    mark = Revision(number, "ab" * 32)
    quota = Quota(rate=5, names=2)
    return [
        Change(None, entry)
        for entry in (
            Account(owner=owner, key=KEY, since=1, quota=quota, asked=Stamp(3, 4), mark=mark, suspended="why"),
            Device(did=did, owner=owner, name="ood1", since=2, mark=mark, expires=9, mini="a.b.c"),
            Whereabouts(did=did, iat=1, seen=2, addresses=("192.0.2.1", "2001:db8::1"), observed="192.0.2.2"),
            Name(name=f"name{number}", owner=owner, since=1, device=did, boot="d.e.f", issuers=("a b", "c")),
            Invitation(digest=f"{number:064x}", uses=2, used=1, expires=5, quota=quota, note="for \u00c4nne"),
        )
    ]


def shown(registry: Registry) -> list[list[str]]:
    tables = (registry.accounts(), registry.all_names(), registry.devices(), registry.reports(), registry.invitations())
    return [sorted(map(repr, table)) for table in tables]


# -- the file


def test_what_was_written_is_read_again(path: Path):
    with closing(Database(path)) as database:
        for number in range(3):
            database.write(everything(number))
        database.write([change.undone for change in everything(1)])
    expected = Registry()
    for number in (0, 2):
        expected.apply(everything(number))
    with closing(Database(path)) as database:
        assert shown(read_books(database)) == shown(expected)
        database.write([Change(None, one) for one in (Account(owner=OWNER, key=KEY, since=1),)])
        account = read_books(database).account(OWNER)
        assert account is not None and account.quota is None and account.mark is None


def test_nobody_else_reads_the_file(path: Path):
    path.touch(0o666)
    path.chmod(0o666)
    with closing(Database(path)) as database:
        database.write(everything(1))
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
        assert modes == {"sn.db": 0o600, "sn.db-wal": 0o600}


def test_a_link_is_not_followed(path: Path):
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(ConfigFault):
        Database(path)


def test_two_programs_do_not_share_the_books(path: Path, database: Database):
    with pytest.raises(ConfigFault, match="another program"):
        Database(path)


def test_a_strangers_file_is_left_alone(path: Path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigFault, match="another kind"):
        Database(path)
    assert b"theirs" in path.read_bytes() and len(path.read_bytes()) == len(before)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigFault):
        Database(path)


def test_damage_is_told_at_the_start(path: Path):
    with closing(Database(path)) as database:
        for number in range(300):
            database.write(everything(number))
    content = bytearray(path.read_bytes())
    content[8192 : len(content) : 512] = b"\xff" * len(content[8192 : len(content) : 512])
    path.write_bytes(content)
    with pytest.raises(ConfigFault, match="backup"):
        Database(path)


def test_a_row_that_cannot_be_is_told_with_its_place(path: Path):
    with closing(Database(path)) as database:
        database.write(everything(1))
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE account SET key = x'00'")
        other.commit()
    with closing(Database(path)) as database, pytest.raises(ConfigFault, match="account 'did:bns:owner1'"):
        read_books(database)


def test_a_migration_is_done_once_and_whole(path: Path):
    with closing(Database(path)) as database:
        database.write(everything(1))
    broken = (*MIGRATIONS, "CREATE TABLE more (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);")
    with pytest.raises(ConfigFault):
        Database(path, broken)
    with closing(Database(path)) as database:
        assert len(read_books(database).accounts()) == 1
    later = (*MIGRATIONS, "CREATE TABLE more (x INTEGER) STRICT;\nINSERT INTO more VALUES (1);")
    for _ in range(2):
        with closing(Database(path, later)) as database:
            assert len(read_books(database).accounts()) == 1
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM more").fetchone() == (1,)
    with pytest.raises(ConfigFault, match="later version"):
        Database(path)


def test_a_backup_is_whole_and_can_take_the_place_of_the_books(path: Path, database: Database):
    database.write(everything(1))
    copy = path.with_name("copy.db")
    copy.write_bytes(b"an older one")
    database.backup(copy)
    database.write(everything(2))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(Database(copy)) as again:
        assert [str(account.owner) for account in read_books(again).accounts()] == ["did:bns:owner1"]
    with pytest.raises(OSError):
        database.backup(path.with_name("nowhere") / "copy.db")
    assert sorted(one.name for one in path.parent.iterdir()) == ["copy.db", "sn.db", "sn.db-wal"]


# -- the audit log


def line(number: int, verdict: str = "ok") -> Line:
    return Line(number, f"did:bns:owner{number}", "register", verdict, "because")


def test_the_audit_log_stands(path: Path):
    with closing(Database(path)) as database:
        database.write([], [line(1), line(2, "taken")])
        assert database.audit(10) == [line(2, "taken"), line(1)]
    with closing(sqlite3.connect(path)) as other, pytest.raises(sqlite3.IntegrityError, match="stands"):
        other.execute("UPDATE audit SET why = 'nothing happened'")


def test_refusals_do_not_wash_away_what_was_done(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "MOST_DONE", 5)
    monkeypatch.setattr(store_module, "MOST_REFUSED", 3)
    monkeypatch.setattr(store_module, "_ROTATE", 1)
    for number in range(8):
        database.write([], [line(number)])
    for number in range(100, 140):
        database.write([], [line(number, "closed")])
    assert [one.at for one in database.audit(100)] == [139, 138, 137, 7, 6, 5, 4, 3]


# -- killed


def write_for_ever(path: Path, pipe: int) -> None:
    """Registers accounts and counts usage, and tells of each when it is on the disk."""
    database = Database(path)
    number, batch = len(read_books(database).accounts()), database.tally().batch
    while True:
        number, batch = number + 1, batch + 1
        database.write(everything(number), [line(number)])
        database.add(Batch(batch, 202611, {(202611, OWNER): Usage(100, 10, 1.0, 1)}))
        os.write(pipe, f"{number} {batch}\n".encode())


def killed_in_the_middle(path: Path, delay: float) -> tuple[int, int]:
    """What the child had told when it was killed ``delay`` seconds after it first did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            write_for_ever(path, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        first = told.readline()
        threading.Event().wait(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = told.read()
    number, batch = (first + rest).splitlines()[-1].split()
    return int(number), int(batch)


def test_killed_thirty_times_and_never_half(path: Path):
    dice = random.Random(6)
    seen = (0, 0)
    for _ in range(30):
        told = killed_in_the_middle(path, dice.random() * 0.02)
        with closing(Database(path)) as database:
            registry, tally = read_books(database), database.tally()
            number, batch = len(registry.accounts()), tally.batch
            assert seen < told <= (number, batch) <= (told[0] + 1, told[1] + 1)
            whole = [len(table) for table in (registry.all_names(), registry.devices(), registry.invitations())]
            assert whole == [number] * 3 and len(database.audit(1 << 20)) == number
            assert tally.used[OWNER] == Usage(100 * batch, 10 * batch, float(batch), batch)
            database.add(Batch(batch, 202611, {(202611, OWNER): Usage(100, 10, 1.0, 1)}))
            assert database.tally() == tally
        seen = (number, batch)


# -- the one task that decides


class Sn:
    """Books with a clock that the test sets."""

    def __init__(self, database: Database, **policy: object) -> None:
        self.now = NOW
        self.database = database
        self.store = Store(database)
        self.books = Books(
            self.store,
            read_books(database),
            Policy(domain=SN, **{"hourly": 1000, "open": True, **policy}),  # type: ignore[arg-type]
            wall=lambda: self.now,
        )

    async def ask(self, request: Request) -> Code:
        return (await self.books.submit(request, HERE)).code


@pytest.fixture
async def sn(database: Database, nursery: trio.Nursery) -> Sn:
    sn = Sn(database)
    await nursery.start(sn.books.run)
    return sn


async def test_two_hundred_want_one_name_and_one_gets_it(sn: Sn):
    verdicts: list[Code] = []
    async with trio.open_nursery() as crowd:
        for seed in range(200):

            async def want(one: Person) -> None:
                verdicts.append(await sn.ask(one.ask(Register("alice"))))

            crowd.start_soon(want, person(5000 + seed))
    assert sorted(verdicts) == [Code.OK] + [Code.TAKEN] * 199
    stored = read_books(sn.database)
    assert shown(stored) == shown(sn.books.registry) and len(stored.accounts()) == 1


async def test_a_verdict_is_on_the_disk_when_it_is_heard(sn: Sn):
    alice, box = person(1), person(2)
    assert await sn.ask(alice.ask(Register("alice"))) is Code.OK
    assert await sn.ask(box.ask(Admit(alice.device(box)))) is Code.OK
    assert await sn.ask(box.ask(Report(("192.0.2.9",)))) is Code.OK
    assert shown(read_books(sn.database)) == shown(sn.books.registry)
    entry = read_books(sn.database).find_name("alice")
    assert entry is not None and entry.hosts["ood1"].where is not None


async def test_a_replayed_registration_is_refused_after_a_restart_too(sn: Sn, nursery: trio.Nursery):
    request = person(1).ask(Register("alice"))
    assert await sn.ask(request) is Code.OK
    assert await sn.ask(request) is Code.REPLAYED
    again = Sn(sn.database)
    await nursery.start(again.books.run)
    assert await again.ask(request) is Code.REPLAYED


async def test_the_audit_log_says_who_and_what_and_no_secret(sn: Sn):
    made: list[str] = []

    def invited(registry: Registry, now: float) -> list[Change[Invitation]]:
        code, change = invite(registry, b"0123456789", 1, int(now) + 60)
        made.append(code)
        return [change]

    await sn.books.operate("invite for Bob", invited)
    assert await sn.ask(person(3).ask(Register("admin"))) is Code.BAD_NAME
    assert await sn.ask(person(4).ask(Register("bobby", made[0]))) is Code.OK
    lines = await sn.store.audit(10)
    assert [(one.who[:8], one.what, one.verdict) for one in lines] == [
        ("did:dev:", "register bobby", "ok"),
        ("did:dev:", "register admin", "bad-name"),
        ("operator", "invite for Bob", "ok"),
    ]
    assert made == [code_of(b"0123456789")]
    files = b"".join(one.read_bytes() for one in sn.database.path.parent.iterdir())
    assert made[0].encode() not in files and b"0123456789" not in files
    assert not any(made[0] in repr(one) for one in lines)


async def test_what_the_operator_got_wrong_is_told_to_them_alone(sn: Sn):
    with pytest.raises(Misuse):
        await sn.books.operate("invite", lambda registry, now: [invite(registry, b"x", 0, 0)[1]])
    alice = person(1)
    assert await sn.ask(alice.ask(Register("alice"))) is Code.OK
    stale = sn.books.registry.account(alice.did)
    assert stale is not None
    assert await sn.ask(alice.ask(Point("alice", None))) is Code.OK
    with pytest.raises(Misuse):
        await sn.books.operate("quota", lambda registry, now: [with_quota(stale, None)])
    assert await sn.ask(alice.ask(Release("alice"))) is Code.OK


async def test_reports_are_not_in_the_audit_log(sn: Sn):
    assert await sn.ask(person(9).ask(Report(("192.0.2.9",)))) is Code.UNKNOWN
    assert await sn.ask(person(1).ask(Register("alice"))) is Code.OK
    assert [one.what for one in await sn.store.audit(10)] == ["register alice"]


async def until(so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not so():  # noqa: ASYNC110  # nothing tells
            await trio.sleep(0.005)


async def test_time_tidies_the_books(database: Database, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(books_module, "_UPKEEP", 0.005)
    sn = Sn(database, grace=100)
    await nursery.start(sn.books.run)
    alice = person(1)
    assert await sn.ask(alice.ask(Register("alice"))) is Code.OK
    assert await sn.ask(alice.ask(Release("alice"))) is Code.OK
    assert sn.books.registry.name("alice") is not None
    sn.now += 1000
    await until(lambda: sn.books.registry.name("alice") is None)
    assert await sn.ask(alice.ask(Register("alicia"), sn.now)) is Code.OK
    assert [name.name for name in read_books(database).all_names()] == ["alicia"]


async def test_a_slow_disk_says_so_and_a_request_is_still_obeyed_once(sn: Sn, monkeypatch: pytest.MonkeyPatch):
    turning, write = threading.Event(), sn.database.write

    def slow(*what: object) -> None:
        turning.wait()
        write(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(sn.database, "write", slow)
    request = person(1).ask(Register("alice"))
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(books_module, "_PATIENCE", 0.01)
            assert await sn.ask(request) is Code.SLOW
    finally:
        turning.set()
    assert await sn.ask(request) is Code.REPLAYED
    assert len(read_books(sn.database).accounts()) == 1


async def test_a_crowd_that_is_too_large_is_told_to_come_again(sn: Sn):
    verdicts: list[Code] = []
    request = person(1).ask(Register("alice"))
    async with trio.open_nursery() as crowd:
        for _ in range(1500):

            async def want() -> None:
                verdicts.append(await sn.ask(request))

            crowd.start_soon(want)
    assert verdicts.count(Code.OK) == 1 and Code.UNWRITTEN in verdicts
    assert set(verdicts) == {Code.OK, Code.REPLAYED, Code.UNWRITTEN}


# -- from what was sent to what is written


class Internet:
    """What names resolve to, and who was asked."""

    def __init__(self, keys: dict[Did, PublicKey] | None = None) -> None:
        self.keys = keys or {}
        self.texts: dict[str, list[bytes]] = {}
        self.asked: list[str] = []

    async def key_of(self, owner: Did) -> PublicKey | None:
        self.asked.append(str(owner))
        return self.keys.get(owner)

    async def texts_at(self, name: str) -> list[bytes]:
        self.asked.append(name)
        return self.texts.get(name, [])


async def test_an_owner_who_is_a_key_is_believed_without_asking_anybody(sn: Sn):
    internet = Internet()
    assert (await sn.books.hear(person(1).sign(Register("alice")), HERE.source, internet)).ok
    forged = Person(secret(2), person(1).did).sign(Release("alice"))
    with pytest.raises(BadWire):
        await sn.books.hear(forged, HERE.source, internet)
    assert internet.asked == []


async def test_a_named_owner_is_believed_by_what_the_name_resolves_to_and_then_by_the_books(sn: Sn):
    old, new = Person(secret(21), OWNER), Person(secret(22), OWNER)
    internet = Internet()
    with pytest.raises(BadWire, match="nobody can say"):
        await sn.books.hear(old.sign(Register("alice")), HERE.source, internet)
    internet.keys[OWNER] = old.key.public
    assert (await sn.books.hear(old.sign(Register("alice")), HERE.source, internet)).ok
    internet.asked.clear()
    assert (await sn.books.hear(old.sign(Point("alice", None)), HERE.source, internet)).ok
    assert internet.asked == []
    with pytest.raises(BadWire):
        await sn.books.hear(new.sign(Release("alice")), HERE.source, internet)


async def test_an_owner_who_lost_the_old_key_recovers_by_the_one_their_name_resolves_to(sn: Sn):
    lost, new = Person(secret(21), OWNER), Person(secret(22), OWNER)
    internet = Internet({OWNER: lost.key.public})
    assert (await sn.books.hear(lost.sign(Register("alice")), HERE.source, internet)).ok
    internet.keys[OWNER] = new.key.public
    new.last = Stamp(int(NOW), 5)
    assert (await sn.books.hear(new.sign(Release("alice")), HERE.source, internet)).code is Code.PROOF
    issuer = Issuer(key=new.key, id=OWNER, iat=int(NOW), exp=int(NOW) + 86_400)
    document = read_token(issuer.sign(issuer.owner("alice")))
    assert (await sn.books.hear(new.sign(Rekey(document)), HERE.source, internet)).ok
    assert (await sn.books.hear(new.sign(Release("alice")), HERE.source, internet)).ok


@pytest.mark.parametrize("invites", [False, True])
async def test_nobody_is_looked_up_who_can_become_nothing_here(
    database: Database, nursery: trio.Nursery, invites: bool
) -> None:
    sn = Sn(database, open=False, invites=invites)
    await nursery.start(sn.books.run)
    code, change = invite(sn.books.registry, b"0123456789", 1, int(NOW) + 60)
    await sn.books.operate("invite", lambda registry, now: [change])
    bob, internet = Person(secret(21), OWNER), Internet({OWNER: secret(21).public})
    assert (await sn.books.hear(bob.sign(Register("bobby")), HERE.source, internet)).code is Code.CLOSED
    guessed = await sn.books.hear(bob.sign(Register("bobby", code_of(b"9876543210"))), HERE.source, internet)
    assert guessed.code is (Code.INVITATION if invites else Code.CLOSED)
    assert internet.asked == []
    said = await sn.books.hear(bob.sign(Register("bobby", code)), HERE.source, internet)
    assert said.ok is invites
    assert internet.asked == [str(OWNER)] * invites


async def test_nobody_is_looked_up_all_the_time(database: Database, nursery: trio.Nursery):
    sn, other = Sn(database, hourly=1, owners=frozenset({OWNER})), Did("web", "eve.example")
    await nursery.start(sn.books.run)
    internet = Internet()
    elsewhere = bytes([198, 51, 100, 7])
    # Who says to be one of the SN's own people is counted apart from others, but counted.
    for did, times in ((other, 4), (OWNER, 32)):
        who = Person(secret(23), did)
        for _ in range(times):
            with pytest.raises(BadWire, match="nobody can say"):
                await sn.books.hear(who.sign(Register("eve-home")), HERE.source, internet)
        assert (await sn.books.hear(who.sign(Register("eve-home")), HERE.source, internet)).code is Code.TOO_OFTEN
        with pytest.raises(BadWire, match="nobody can say"):
            await sn.books.hear(who.sign(Register("eve-home")), elsewhere, internet)
    assert len(internet.asked) == 38


async def test_a_domain_is_looked_up_for_those_who_have_an_account(sn: Sn):
    alice, internet = person(1), Internet()
    wanted = challenge("home.example", alice.did, SN)
    internet.texts[wanted.name] = [wanted.value.encode()]
    assert (await sn.books.hear(alice.sign(Bind("home.example")), HERE.source, internet)).code is Code.UNKNOWN
    assert internet.asked == []
    assert (await sn.books.hear(alice.sign(Register("alice")), HERE.source, internet)).ok
    assert (await sn.books.hear(alice.sign(Bind("home.example")), HERE.source, internet)).ok
    assert internet.asked == [wanted.name]


async def test_books_and_ledger_open_work_and_close_together(path: Path):
    alice, policy = person(1), Policy(domain=SN, open=True)
    for round_ in range(2):
        async with open_books(path, policy, lambda: NOW) as (books, ledger):
            verdict = await books.submit(alice.ask(Register("alice")), HERE)
            assert verdict.ok and ledger.used(alice.did).bytes == 1000 * round_
            assert ledger.open(alice.did) == ""
            grant = ledger.ask(alice.did)
            assert isinstance(grant, Grant)
            ledger.settle(alice.did, grant, 600, 400)
            ledger.close(alice.did)
            with pytest.raises(ConfigFault):
                async with open_books(path, policy):
                    pytest.fail("two have the books open")
    with closing(Database(path)) as database:
        assert database.usage(month_of(NOW))[alice.did].bytes == 2000


# -- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", place], check=False)
    if done.returncode:
        pytest.skip("needs mount namespaces, which this machine does not allow")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
async def test_a_full_disk_refuses_politely_and_recovers(small_disk: Path, nursery: trio.Nursery):
    with closing(Database(small_disk / "sn.db")) as database:
        sn = Sn(database)
        async with trio.open_nursery() as running:
            await running.start(sn.books.run)
            assert await sn.ask(person(1).ask(Register("alice"))) is Code.OK
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
                while file.write(bytes(4096)) == 4096:
                    pass
            requests = [person(100 + seed).ask(Register(f"somebody-{seed:03}x")) for seed in range(60)]
            verdicts = [await sn.ask(request) for request in requests]
            assert verdicts[-1] is Code.UNWRITTEN and set(verdicts) <= {Code.OK, Code.UNWRITTEN}
            assert len(sn.books.registry.accounts()) == 1 + verdicts.count(Code.OK)
            assert shown(read_books(database)) == shown(sn.books.registry)
            with pytest.raises(Unreachable):
                await sn.store.backup(small_disk / "copy.db")
            with pytest.raises(Unreachable):
                for number in range(1, 200):
                    await sn.store.add(Batch(number, 202611, {(202611, Did("bns", "x" * number)): Usage(1, 1)}))
            ballast.unlink()
            refused = [request for request, code in zip(requests, verdicts, strict=True) if code is not Code.OK]
            assert [await sn.ask(request) for request in refused] == [Code.OK] * len(refused)
            assert len(read_books(database).accounts()) == 61
            running.cancel_scope.cancel()

"""The taker against givers that nobody would want, and the giver's files when somebody changes them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from inprocess import until
from test_chunks import ends

from cyfs_gateway.filenames import part_name
from cyfs_gateway.io.chunks import Chunked
from cyfs_gateway.io.command.giving import NotGiven, Source
from cyfs_gateway.io.command.inbox import Inbox, Part
from cyfs_gateway.io.command.taking import Conversation, Taker
from cyfs_gateway.transfer import Hold, Offer
from tunnels.io.stream import EndpointStream

DATA = os.urandom(300_000)
HASH = hashlib.sha256(DATA).hexdigest()


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.whole_names: list[str] = []
        self.faults: list[str] = []

    def begun(self, peer: str, offer: Offer, held: int) -> None:
        """Not of interest."""

    def moved(self, peer: str, offer: Offer, held: int) -> None:
        """Not of interest."""

    def whole(self, peer: str, offer: Offer) -> None:
        self.whole_names.append(offer.name)

    def failed(self, peer: str, name: str, why: str) -> None:
        self.faults.append(why)


class Giver:
    """Says what a test wants it to."""

    def __init__(self, stream: EndpointStream) -> None:
        self.stream = stream
        self._heard = b""

    async def say(self, value: object) -> None:
        await self.stream.send_all(json.dumps(value).encode() + b"\n")

    async def offer(self, name: str = "film.bin", size: int = len(DATA)) -> object:
        await self.say({"offer": {"v": 1, "name": name, "size": size, "mtime": 1}})
        return await self.answer()

    async def answer(self) -> object:
        with trio.fail_after(60):
            while b"\n" not in self._heard:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)


@pytest.fixture
def taker(tmp_path: Path) -> Taker:
    return Taker(Inbox(tmp_path), Told())


@asynccontextmanager
async def giver(taker: Taker, nursery: trio.Nursery, peer: str = "mallory") -> AsyncIterator[Giver]:
    ours, theirs = ends()
    conversation = Conversation(taker, EndpointStream(Chunked(ours)), peer)
    nursery.start_soon(conversation.run)
    async with EndpointStream(Chunked(theirs)) as stream:
        yield Giver(stream)


async def test_names_that_lead_elsewhere_are_answered_and_never_reach_the_disk(
    taker: Taker, tmp_path: Path, nursery: trio.Nursery
) -> None:
    before = sorted(os.listdir(tmp_path.parent))
    async with giver(taker, nursery) as bad:
        for name in ("../../x", "/etc/passwd", ".bashrc", "a\0b", "x" * 300, "", "a\x1b[2J", "\u202egpj.exe", "-rf"):
            answer = await bad.offer(name)
            assert isinstance(answer, dict)
            assert answer["no"]["code"] == "name", name
        assert await bad.offer("good") == {"hold": {"offset": 0, "sha256": hashlib.sha256().hexdigest()}}
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".good.")] == []
    assert sorted(os.listdir(tmp_path.parent)) == before


@pytest.mark.parametrize(
    "lines", [[{"start": 0}], [{"end": HASH}], ["x" * 3000], [{"offer": {"v": 1}}], [{"wait": True}, {"hold": 1}]]
)
async def test_nonsense_ends_the_conversation_and_is_told(
    taker: Taker, nursery: trio.Nursery, lines: list[object]
) -> None:
    async with giver(taker, nursery) as bad:
        for line in lines:
            await bad.say(line)
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            while await bad.stream.receive_some():
                pass
    assert isinstance(taker.witness, Told)
    assert len(taker.witness.faults) == 1


async def test_a_hash_that_is_wrong_leaves_nothing(taker: Taker, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with giver(taker, nursery) as bad:
        await bad.offer()
        await bad.say({"start": 0})
        await bad.stream.send_all(DATA)
        await bad.say({"end": "0" * 64})
        answer = await bad.answer()
        assert isinstance(answer, dict)
        assert answer["no"]["code"] == "hash"
        assert os.listdir(tmp_path) == []
        assert await bad.offer() == {"hold": {"offset": 0, "sha256": hashlib.sha256().hexdigest()}}, "once more"


async def test_who_begins_anew_by_another_stream_takes_the_file_over(
    taker: Taker, tmp_path: Path, nursery: trio.Nursery
) -> None:
    async with giver(taker, nursery) as stuck, giver(taker, nursery) as anew, giver(taker, nursery, "bob") as other:
        await stuck.offer()
        await stuck.say({"start": 0})
        await stuck.stream.send_all(DATA[:200_000])
        assert await other.offer() == {"hold": {"offset": 0, "sha256": hashlib.sha256().hexdigest()}}, "is another's"
        with trio.fail_after(60):
            while True:
                answer = await anew.offer()
                assert isinstance(answer, dict)
                held = answer["hold"]["offset"]
                assert answer["hold"]["sha256"] == hashlib.sha256(DATA[:held]).hexdigest()
                if held:
                    break
                # The first bytes of the other stream had not arrived yet.
                await anew.say({"start": 0})
                await anew.stream.send_all(DATA)
                await anew.say({"end": HASH})
                assert await anew.answer() == {"done": True}
                return
        await anew.say({"start": held})
        await anew.stream.send_all(DATA[held:])
        await anew.say({"end": HASH})
        assert await anew.answer() == {"done": True}
    assert (tmp_path / "film.bin").read_bytes() == DATA


async def test_what_has_its_name_and_was_not_tidied_up_is_tidied_up(
    taker: Taker, tmp_path: Path, nursery: trio.Nursery
) -> None:
    (tmp_path / "film.bin").write_bytes(DATA)
    os.link(tmp_path / "film.bin", tmp_path / part_name("film.bin", "mallory", len(DATA), 1))
    async with giver(taker, nursery) as good:
        assert await good.offer() == {"have": True}
        await good.say({"end": HASH})
        assert await good.answer() == {"done": True}
    assert os.listdir(tmp_path) == ["film.bin"]


# The giver's files


def shorter(path: Path) -> None:
    os.truncate(path, 1_500_000)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [shorter, longer])
def test_a_file_that_is_changed_meanwhile_is_not_sent_as_if_it_were_whole(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "film.bin"
    path.write_bytes(bytes(3_000_000))
    source = Source(path)
    try:
        assert source.read()
        change(path)
        with pytest.raises(NotGiven, match="send it again"):
            while source.read():
                pass
            source.check_unchanged()
    finally:
        source.close()


def test_what_is_no_file_or_has_no_name_for_others_is_not_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".hidden").touch()
    for name in ("pipe", ".hidden", "ghost", "."):
        with pytest.raises(NotGiven):
            Source(tmp_path / name)


def test_a_file_is_gone_on_with_only_where_its_beginning_is_held(tmp_path: Path) -> None:
    path = tmp_path / "film.bin"
    path.write_bytes(DATA)
    source = Source(path)
    try:
        assert source.begin(Hold(1000, hashlib.sha256(DATA[:1000]).hexdigest())) == 1000
        assert source.read() == DATA[1000:]
        assert source.sha256() == HASH
        assert source.begin(Hold(1000, HASH)) == 0
        assert source.read() == DATA
        assert source.prove() == HASH
    finally:
        source.close()


async def test_who_is_cut_off_while_his_part_is_read_leaves_it_to_the_next(
    taker: Taker, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = threading.Event(), threading.Event()
    part = taker.inbox.part

    def slow(offer: Offer, sender: str) -> Part:
        taken = part(offer, sender)
        if not read.is_set():
            read.set()
            assert go_on.wait(10)
        return taken

    monkeypatch.setattr(taker.inbox, "part", slow)
    async with giver(taker, nursery) as stuck, giver(taker, nursery) as anew:
        offered = {"offer": {"v": 1, "name": "film.bin", "size": len(DATA), "mtime": 1}}
        await stuck.say(offered)
        assert await trio.to_thread.run_sync(read.wait, 10)
        await anew.say(offered)
        (held,) = taker._busy.values()
        with trio.fail_after(60):
            await until(lambda: held._scope.cancel_called)
        go_on.set()
        assert await anew.answer() == {"hold": {"offset": 0, "sha256": hashlib.sha256().hexdigest()}}

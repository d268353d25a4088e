"""Files that are given to another device (``cyfs_gateway.transfer``): read, sent, and sent again where it broke."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from cyfs_gateway.filenames import check_name
from cyfs_gateway.io.command.attached import Controller
from cyfs_gateway.io.command.piping import open_remote
from cyfs_gateway.io.command.taking import Witness, patiently
from cyfs_gateway.io.offers import PORT, RECEIVE
from cyfs_gateway.remote import Remote
from cyfs_gateway.transfer import Answer, Code, Done, Giving, Have, Hold, No, Offer
from cyfs_ns.errors import BadWire, CyfsError, Unreachable
from cyfs_ns.io.client import ApiFault
from tunnels.io.stream import EndpointStream

_BLOCK: Final = 1 << 20
_READ: Final = 65536
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_LAST_WORDS: Final = 3.0


class NotGiven(CyfsError):
    """A file cannot be sent, or is not wanted."""


class _Broken(CyfsError):
    """The way broke; what was sent before counts."""


class Source:
    """A file to be sent.  Raises ``NotGiven``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as fault:
            raise NotGiven(f"{path}: {fault.strerror}") from fault
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise NotGiven(f"{path}: this is no file")
            self.offer = self._described()
            check_name(self.offer.name)
        except BadWire as bad:
            self.close()
            raise NotGiven(f"{path}: {bad}") from bad
        except BaseException:
            self.close()
            raise
        self._at = 0
        self._hash = hashlib.sha256()

    def _described(self) -> Offer:
        about = os.fstat(self._fd)
        return Offer(self.path.name, about.st_size, about.st_mtime_ns // 1000)

    def begin(self, held: Hold) -> int:
        """Where to begin, for one who holds so much."""
        self._rewind()
        while self._at < held.offset:
            self._next(min(_BLOCK, held.offset - self._at))
        if self._hash.hexdigest() != held.sha256:
            self._rewind()
        return self._at

    def sha256(self) -> str:
        """Of the whole."""
        while self._at < self.offer.size:
            self.read()
        return self._hash.hexdigest()

    def prove(self) -> str:
        """The hash of the whole, read anew."""
        self._rewind()
        return self.sha256()

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return self._next(min(_BLOCK, self.offer.size - self._at))

    def check_unchanged(self) -> None:
        if self._described() != self.offer:
            raise NotGiven(f"{self.path}: it was changed while it was sent; send it again")

    def _next(self, most: int) -> bytes:
        if not most:
            return b""
        try:
            data = os.pread(self._fd, most, self._at)
        except OSError as fault:
            raise NotGiven(f"{self.path}: {fault.strerror}") from fault
        if not data:
            raise NotGiven(f"{self.path}: it became shorter while it was sent; send it again")
        self._hash.update(data)
        self._at += len(data)
        return data

    def _rewind(self) -> None:
        self._at, self._hash = 0, hashlib.sha256()

    def close(self) -> None:
        """May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def give_all(controller: Controller, paths: Sequence[Path], peer: str, witness: Witness, *, retry: float) -> int:
    """Send all files.  How many were not taken; ``witness`` has heard why.

    A way that breaks is made again for ``retry`` seconds after the last time that it led further.  Raises what opening
    the first stream raises, ``BadWire`` for a taker that talks nonsense, and ``ApiFault`` when the way stays broken.
    """
    giver = _Giver(controller, peer, witness, list(paths))
    tries, led_further = 0, float("-inf")
    while giver.left:
        before = giver.reached
        try:
            await giver.converse()
        except (_Broken, ApiFault, Unreachable) as fault:
            if not giver.met:
                raise ApiFault(0, str(fault)) if isinstance(fault, _Broken) else fault from None
            now = trio.current_time()
            if giver.reached != before or tries == 0:
                tries, led_further = 0, now
            if now - led_further > retry:
                raise ApiFault(0, f"{fault}; what has arrived is kept there, so send it again to go on") from None
            await trio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1
        else:
            tries = 0
    return giver.refused


class _Giver:
    def __init__(self, controller: Controller, peer: str, witness: Witness, left: list[Path]) -> None:
        self.left = left
        """What is still to be sent."""
        self.refused = 0
        self.met = False
        """Whether the taker has ever answered."""
        self.reached = (0, 0)
        """Files that are through, and what the taker holds of the next."""
        self._controller, self._peer, self._witness = controller, peer, witness

    async def converse(self) -> None:
        """Give as many files as one stream can take.  Raises ``_Broken``, and what opening a stream raises."""
        async with await open_remote(self._controller, Remote(self._peer, RECEIVE, PORT)) as stream:
            talk = _Talk(stream)
            try:
                while self.left and talk.machine.may_offer:
                    await self._give_next(talk)
                if not self.left:
                    await stream.send_eof()
                    with trio.move_on_after(_LAST_WORDS):
                        await stream.receive_some(_READ)
            except trio.BrokenResourceError as fault:
                if self.left:
                    raise _Broken(str(fault)) from fault

    async def _give_next(self, talk: _Talk) -> None:
        path = self.left[0]
        try:
            source = await trio.to_thread.run_sync(Source, path)
            try:
                answer = await self._give(talk, source)
            finally:
                source.close()
        except NotGiven as fault:
            self._failed(path, str(fault))
            return
        self.met = True
        match answer:
            case Done():
                self._witness.whole(self._peer, source.offer)
                self._through()
            case No(Code.BUSY, text):
                raise _Broken(text)
            case No(_, text):
                self._failed(path, text)

    def _failed(self, path: Path, why: str) -> None:
        self._witness.failed(self._peer, path.name, why)
        self.refused += 1
        self._through()

    def _through(self) -> None:
        self.left.pop(0)
        self.reached = (self.reached[0] + 1, 0)

    async def _give(self, talk: _Talk, source: Source) -> Answer:
        machine, stream = talk.machine, talk.stream
        await stream.send_all(machine.offer(source.offer))
        answer = await talk.next_answer()
        if isinstance(answer, Have):
            await stream.send_all(machine.end(await patiently(stream, source.prove)))
            answer = await talk.next_answer()
        if isinstance(answer, Hold):
            held = answer
            self.met, self.reached = True, (self.reached[0], held.offset)
            at = await patiently(stream, lambda: source.begin(held))
            self._witness.begun(self._peer, source.offer, at)
            answer = await self._move(talk, source, at)
        return answer

    async def _move(self, talk: _Talk, source: Source, at: int) -> Answer:
        """Send the bytes, and hear meanwhile whether they are wanted any more."""
        answers: list[Answer] = []
        faults: list[Exception] = []
        blocks, ready = trio.open_memory_channel[bytes](1)
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                try:
                    answers.append(await talk.next_answer())
                except (trio.BrokenResourceError, CyfsError) as fault:
                    faults.append(fault)
                nursery.cancel_scope.cancel()

            async def read() -> None:
                try:
                    while data := await trio.to_thread.run_sync(source.read):
                        await blocks.send(data)
                except NotGiven as fault:
                    faults.append(fault)
                    nursery.cancel_scope.cancel()
                else:
                    blocks.close()

            nursery.start_soon(hear)
            try:
                await talk.stream.send_all(talk.machine.start(at))
                nursery.start_soon(read)
                async for data in ready:
                    await talk.stream.send_all(data)
                    at += len(data)
                    self._witness.moved(self._peer, source.offer, at)
                source.check_unchanged()
                await talk.stream.send_all(talk.machine.end(source.sha256()))
            except NotGiven as fault:
                faults.append(fault)
                nursery.cancel_scope.cancel()
            except trio.BrokenResourceError as fault:
                with trio.move_on_after(_LAST_WORDS):  # why it broke may still be on the way
                    await trio.sleep_forever()
                faults.append(fault)
                nursery.cancel_scope.cancel()
        if answers:
            return answers[0]
        raise faults[0]


class _Talk:
    """One stream, and the answers that come by it."""

    def __init__(self, stream: EndpointStream) -> None:
        self.stream, self.machine = stream, Giving()
        self._answers: list[Answer] = []

    async def next_answer(self) -> Answer:
        """Raises ``_Broken``, ``BadWire`` and ``trio.BrokenResourceError``."""
        while not self._answers:
            data = await self.stream.receive_some(_READ)
            if not data:
                raise _Broken("the other side ended in the middle")
            self._answers = self.machine.receive_data(data)
        return self._answers.pop(0)

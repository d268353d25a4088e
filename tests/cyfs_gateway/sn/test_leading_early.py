"""What a member says first to another goes out behind the request for it, and is all for nothing when the other says
no."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from cyfs_gateway.io.rtcp import _Answered
from cyfs_gateway.io.sn.leading import Leading
from cyfs_gateway.sn.meter import NOTHING, Usage
from cyfs_ns.errors import Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did
from tests.cyfs_gateway.membership.test_answered import pair
from tests.cyfs_ns.identity.identities import ALICE, MALLORY, NAS, PI

ASKER, ASKED = (
    SimpleNamespace(did=dev_did(one.public), owner=dev_did(whose.public))
    for one, whose in ((NAS, ALICE), (PI, MALLORY))
)


class Ledger:
    """One that lets everybody, and counts who is in."""

    def __init__(self) -> None:
        self.inside = 0
        self.charged: dict[Did, Usage] = {}

    def charge(self, owner: Did, used: Usage) -> None:
        self.charged[owner] = self.charged.get(owner, NOTHING).plus(used)

    def open(self, owner: Any) -> str:
        self.inside += 1
        return ""

    def close(self, owner: Any) -> None:
        self.inside -= 1


class Begun:
    """A stream that the other device answers when ``says`` has something."""

    def __init__(self) -> None:
        self.pipe, self.far = pair()
        self.said = trio.Event()
        self.no: Refused | Unreachable | None = None
        self.wanted = ""

    async def answered(self) -> None:
        try:
            await self.said.wait()
            if self.no is not None:
                raise self.no
        except BaseException:
            self.pipe.close()
            raise


def house() -> tuple[Leading, Begun, Ledger]:
    begun, ledger = Begun(), Ledger()

    async def begin(device: Any, host: str, port: int, **_: Any) -> Begun:
        await trio.lowlevel.checkpoint()
        begun.wanted = host
        return begun

    host = SimpleNamespace(begin_to_peer=begin)
    return Leading(host, ledger, most=4), begun, ledger  # type: ignore[arg-type]


async def test_what_is_said_first_does_not_wait_for_the_answer() -> None:
    leading, begun, ledger = house()
    near, client = pair()
    led: Any = None

    async def open_() -> None:
        nonlocal led
        led = await leading.open(ASKER, ASKED, None, near, b"with the request, ")  # type: ignore[arg-type]

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_)
            await client.send_all(b"and behind it")
            got = b""
            while got != b"with the request, and behind it":
                got += await begun.far.receive_some(64)
            assert led is None
            begun.said.set()
    assert led.early == b""
    assert ledger.charged == {ASKER.owner: Usage(up=len(got)), ASKED.owner: Usage(down=len(got))}
    led.close()
    near.close()


async def test_no_more_goes_out_than_another_device_holds_and_the_rest_is_kept() -> None:
    leading, begun, ledger = house()
    near, client = pair()
    early = bytes(1 << 20)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def say_yes() -> None:
                await trio.testing.wait_all_tasks_blocked(0.01)
                begun.said.set()

            nursery.start_soon(say_yes)
            led = await leading.open(ASKER, ASKED, None, near, early)  # type: ignore[arg-type]
    assert led.early and ledger.charged[ASKER.owner].up + len(led.early) == len(early)
    led.close()
    near.close()
    await client.aclose()


async def test_one_device_has_so_many_streams_whoever_they_go_to() -> None:
    leading, begun, ledger = house()
    begun.said.set()
    other, (near, client) = SimpleNamespace(did=dev_did(MALLORY.public), owner=ASKED.owner), pair()

    async def open_(who: Any = ASKER, to: Any = ASKED) -> Any:
        with trio.fail_after(60):
            return await leading.open(who, to, None, near, b"")

    streams = [await open_(to=to) for to in (ASKED, other, ASKED, other)]
    for to in (ASKED, other):
        with pytest.raises(Refused, match="4 streams"):
            await open_(to=to)
    assert (ledger.inside, leading.refused) == (8, 2), "what was refused counts for nobody"
    streams.append(await open_(who=other))
    streams.pop(0).close()
    streams.append(await open_())
    for stream in streams:
        stream.close()
    assert ledger.inside == 0
    near.close()
    await client.aclose()


@pytest.mark.parametrize("no", [Refused("nobody here"), Unreachable("gone")])
async def test_a_no_leaves_nothing(no: Refused | Unreachable) -> None:
    leading, begun, ledger = house()
    near, client = pair()
    begun.no = no

    async def say_no() -> None:
        assert await begun.far.receive_some(64) == b"hello"
        begun.said.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_no)
            with pytest.raises(type(no)):
                await leading.open(ASKER, ASKED, None, near, b"hello")  # type: ignore[arg-type]
    assert ledger.inside == 0 and leading.refused == 1
    assert ledger.charged == {ASKER.owner: Usage(up=5)}, "who asked pays for what was carried; who said no does not"
    near.close()
    await client.aclose()


@pytest.mark.parametrize(
    ("known_as", "wanted"), [("", "rtcp.invalid"), ("laptop.alice.sn.example", "laptop.alice.sn.example.rtcp.invalid")]
)
async def test_the_other_device_is_told_who_comes(known_as: str, wanted: str) -> None:
    leading, begun, _ = house()
    near, client = pair()
    begun.said.set()
    led = await leading.open(ASKER, ASKED, None, near, b"", known_as=known_as)  # type: ignore[arg-type]
    assert begun.wanted == wanted
    led.close()
    near.close()
    await client.aclose()


async def test_whoever_goes_away_with_the_yes_leaves_nothing() -> None:
    leading, begun, ledger = house()
    near, client = pair()
    with trio.CancelScope() as asking:
        async with trio.open_nursery() as nursery:

            async def say_yes() -> None:
                await trio.testing.wait_all_tasks_blocked(0.01)
                begun.said.set()
                asking.cancel()

            nursery.start_soon(say_yes)
            await leading.open(ASKER, ASKED, None, near, b"hello")  # type: ignore[arg-type]
    assert asking.cancelled_caught and begun.pipe.fileno() < 0 and ledger.inside == 0
    near.close()
    await client.aclose()


async def test_a_stream_of_version_4_is_closed_when_nobody_waits_for_it_any_more() -> None:
    pipe, far = pair()
    with trio.CancelScope() as asking:
        asking.cancel()
        await _Answered(pipe).answered()
    assert asking.cancelled_caught and pipe.fileno() < 0
    await far.aclose()

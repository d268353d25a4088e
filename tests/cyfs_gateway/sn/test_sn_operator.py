"""The SN's operator as the attacker: they can drop what members say to each other, and that is all they can do.

The SN is a whole one whose carrying of streams was tampered with; Eve is the operator's own machine, and a member too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from sn_house import OWNER, LivingSn, Machine, join, machine, sn_house
from sn_people import person

from cyfs_gateway.io.sn.leading import Leading, Led
from cyfs_gateway.sn.accounts import Device
from cyfs_ns.errors import CyfsError
from tests.cyfs_gateway.io.inprocess import serve, until
from tunnels.endpoint import Endpoint
from tunnels.io.waiting import receive_some, send_all

BOX, LAPTOP, EVE, EVES_OWNER = (person(number) for number in (11, 12, 13, 14))
SECRET = b"what only the box may hear "
Tap = Callable[[bytes, int], bytes]
"""What becomes of octets, of which so many went that way before."""


@asynccontextmanager
async def house(tmp_path: Path, nursery: trio.Nursery, heard: bytearray) -> AsyncIterator[tuple[LivingSn, Machine]]:
    """The SN and Alice's laptop; her box and Eve's machine have the same service, which tells all it hears."""

    async def echo(stream: trio.SocketStream) -> None:
        async for piece in stream:
            heard.extend(piece)
            await stream.send_all(piece)

    target = await serve(nursery, echo)
    allow = f"allow: ['DID,{LAPTOP.did}']"
    web = f"  services: [{{name: web, port: 80, target: 'tcp://127.0.0.1:{target}', {allow}}}]\n"
    async with (
        sn_house(tmp_path, "  open: anyone\n") as sn,
        machine(sn, BOX, web) as box,
        machine(sn, LAPTOP) as laptop,
        machine(sn, EVE, web) as eve,
    ):
        await join(box, OWNER, "alice")
        await join(laptop, OWNER, "", "laptop")
        await join(eve, EVES_OWNER, "eve")
        yield sn, laptop


def tapped(monkeypatch: pytest.MonkeyPatch, tap: Tap) -> bytearray:
    """All that members say to each other through the SN from now on; ``tap`` is between them."""
    seen = bytearray()
    open_ = Leading.open

    async def opened(self: Leading, *args: Any, **more: Any) -> Led:
        seen.extend(args[4])
        return await open_(self, *args, **more)

    async def one_way(come: Endpoint, go: Endpoint, early: bytes) -> None:
        passed = 0
        while early or (early := await receive_some(come)):
            seen.extend(early)
            await send_all(go, tap(early, passed))
            passed, early = passed + len(early), b""
        go.shutdown_write()

    async def carry(self: Leading, near: Endpoint, led: Led) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one_way, near, led.far, led.early)
                nursery.start_soon(one_way, led.far, near, b"")
        except* OSError:
            pass
        finally:
            near.close()
            led.close()

    monkeypatch.setattr(Leading, "open", opened)
    monkeypatch.setattr(Leading, "carry", carry)
    return seen


async def test_an_sn_that_reads_along_reads_nothing(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = bytearray()
    async with house(tmp_path, nursery, heard) as (_, laptop):
        seen = tapped(monkeypatch, lambda data, _: data)
        pipe = await laptop.tunnel_to(BOX.did)
        await send_all(pipe, SECRET * 1000)
        back = bytearray()
        with trio.fail_after(60):
            while len(back) < len(SECRET) * 1000:
                back += await receive_some(pipe)
        pipe.close()
        assert back == heard == SECRET * 1000
        assert len(seen) > 2 * len(heard), "all of it went through the SN"
        assert SECRET not in seen and b"only the box" not in seen


async def test_an_sn_that_leads_to_another_device_is_found_out_before_a_word_was_said(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = bytearray()
    async with house(tmp_path, nursery, heard) as (_, laptop):
        open_ = Leading.open
        led: list[Any] = []

        async def to_eve(self: Leading, asker: Device, to: Device, *args: Any, **more: Any) -> Led:
            led.append(to.did)
            return await open_(self, asker, replace(to, did=EVE.did), *args, **more)

        with monkeypatch.context() as tampered:
            tampered.setattr(Leading, "open", to_eve)
            with pytest.raises((CyfsError, OSError)):
                pipe = await laptop.tunnel_to(BOX.did)
                await send_all(pipe, SECRET)
        assert led and not heard
        assert not [one for one in laptop.house.gateway.peers() if one.device in (str(BOX.did), str(EVE.did))]
        pipe = await laptop.tunnel_to(BOX.did)
        await send_all(pipe, SECRET)
        await until(lambda: heard == SECRET)
        pipe.close()


async def test_a_word_that_the_sn_altered_is_thrown_away_with_its_carrier(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversation goes on by another carrier, where it was."""
    heard, back, sent = bytearray(), bytearray(), SECRET * 20_000
    async with house(tmp_path, nursery, heard) as (_, laptop):
        altered: list[int] = []

        def tap(data: bytes, passed: int) -> bytes:
            at = 100_000 - passed
            if altered or not 0 <= at < len(data):
                return data
            altered.append(at)
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

        tapped(monkeypatch, tap)
        pipe = await laptop.tunnel_to(BOX.did)
        with trio.fail_after(60):
            async with trio.open_nursery() as speaking:
                speaking.start_soon(send_all, pipe, sent)
                while len(back) < len(sent):
                    piece = await receive_some(pipe)
                    assert piece, "it ended"
                    back += piece
        assert altered and back == heard == sent
        pipe.close()

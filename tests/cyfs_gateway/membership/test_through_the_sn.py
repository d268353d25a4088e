"""Two machines and their SN, each a process of its own: a box that nobody can dial is reached through the SN, whoever
of them is killed and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.cyfs_gateway.io.inprocess import echo, exactly, serve, socks5
from tests.cyfs_gateway.membership.membership_houses import House, Sn, killed_at_last, owned, settle, sn_at
from tests.cyfs_ns.identity.identities import NAS, PI, secret
from tests.freeport import free_port


@dataclass
class Story:
    """The ``home`` box has no door; the ``laptop`` takes SOCKS at ``port`` and leads all to port 80 of the box."""

    sns: list[Sn]
    home: House
    laptop: House
    port: int

    async def hello(self, seconds: float = 100.0) -> None:
        """Until somebody at home answers."""
        with trio.fail_after(seconds):
            while not await self._answers():  # noqa: ASYNC110 - another process
                await trio.sleep(0.2)

    async def _answers(self) -> bool:
        # The way it chose may have died a moment ago; the next attempt takes another.
        with trio.move_on_after(10), suppress(AssertionError, OSError, trio.BrokenResourceError):
            stream, code = await socks5(self.port, "photos.test", 80)
            async with stream:
                if not code:
                    await stream.send_all(b"hello")
                    return await exactly(stream, 5) == b"hello"
        return False


@asynccontextmanager
async def story(base: Path, nursery: trio.Nursery, *domains: str) -> AsyncIterator[Story]:
    """All of it runs, and the owner has the name alice at each SN."""
    target = await serve(nursery, echo)
    sns = [sn_at(base / f"s{n}", secret(60 + n), domain) for n, domain in enumerate(domains)]
    entries = ", ".join(sn.entry for sn in sns)
    port = free_port()
    home = House(
        base / "home",
        NAS,
        f"""
listeners: []
rtcp:
  udp: false
  sn: [{entries}]
  services: [{{name: web, port: 80, target: 'tcp://127.0.0.1:{target}', allow: [TO_BE_SAID]}}]
rules: ['MATCH,DIRECT']
""",
    )
    laptop = House(
        base / "laptop",
        PI,
        f"""
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: {port}}}]
proxies: [{{name: box, type: rtcp, server: '{home.did}', target: ':80'}}]
rtcp: {{udp: false, sn: [{entries}]}}
rules: ['MATCH,box']
""",
    )
    home.config = home.config.replace("TO_BE_SAID", f"'{laptop.did}'")
    settle(home.home, NAS, "ood1")
    owned(home.home)
    settle(laptop.home, PI, "laptop")
    houses = [*(sn.house for sn in sns), home, laptop]
    async with killed_at_last(*houses):
        for some in (houses[: len(sns)], houses[len(sns) :]):
            async with trio.open_nursery() as starting:
                for house in some:
                    starting.start_soon(house.start)
            for sn in sns:  # who comes before has to come again
                await sn.house.until(lambda said: "domain" in said["modules"]["sn"])
        for sn in sns:
            await home.until(lambda said, sn=sn: _reached(said, sn))  # type: ignore[misc]
            said = await home.told("sn", "join", str(sn.house.did), "--name", "alice", "--yes")
            assert said["why"] == "welcome"
        await laptop.look_again()
        await home.settled()
        await laptop.settled()
        yield Story(sns, home, laptop, port)


def _reached(said: dict, sn: Sn) -> bool:  # type: ignore[type-arg]
    return any(one["sn"] == str(sn.house.did) and one["tunnel"] == "stands" for one in said["memberships"])


@pytest.mark.timeout(600)  # programs start eight times
async def test_it_is_reached_and_again_whoever_was_killed(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with story(tmp_path, nursery, "sn.example", "other.example") as all_of_them:
        home, (first, second) = all_of_them.home, all_of_them.sns
        await all_of_them.hello()
        await home.kill()
        await home.start()
        await all_of_them.hello()
        await first.house.kill()
        await all_of_them.hello()  # by the second
        await second.house.kill()
        await second.house.start()
        await all_of_them.hello()

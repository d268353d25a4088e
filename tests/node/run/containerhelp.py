"""A node of a test that runs containers: images of busybox, runs, limits and doors, all real."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.io.run.cgroups import ControlGroups
from node.io.run.containers import Able, Containers
from node.io.run.exits import Outside
from node.io.run.runs import Runs
from node.run.runner import Order
from node.run.seccomp import program
from tests.node.image.imagery import HERE, Made, file, folder, layer, saved, symlink
from tunnels.io.reactor import Reactor
from zone.scheduler.service import Work

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
TOOLS = ("sh", "cat", "echo", "httpd", "id", "ls", "mkdir", "nc", "ps", "sleep", "test", "touch", "wget", "yes", "head")


async def token(service: str) -> str:
    return f"e30.{service}.c2ln"


def able(runtime: str) -> Able:
    path = shutil.which(runtime)
    assert path is not None
    return Able(runtime, path, program(MACHINES[HERE]) if runtime == "bwrap" else b"")  # type: ignore[arg-type]


def image(home: Path, *more: Made, name: str = "box:1", **said: Any) -> str:
    """Put an image of busybox into the packages of the node at ``home``."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    base = layer(
        folder("bin"),
        folder("tmp", 0o1777),
        folder("etc"),
        file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:101:102::/:/bin/sh\n"),
        file("etc/group", b"root:x:0:\nweb:x:102:\n"),
        file("bin/busybox", Path(busybox).read_bytes(), 0o755),
        *(symlink(f"bin/{tool}", "busybox") for tool in TOOLS),
    )
    package, _, version = name.partition(":")
    (home / "packages" / package).mkdir(parents=True, exist_ok=True)
    saved(home / "packages" / package / f"{version}.tar", [base, layer(*more)], **said)
    return name


def page(service: str = "web", *command: str, name: str = "box:1", **work: Any) -> Order:
    ports = work.pop("on", ())
    more = {"memory": 64 << 20} | work
    return Order(service=service, work=Work(image=name, command=command, **more), ports=ports)


@dataclass
class Node:
    """What a daemon has of it."""

    home: Path
    runs: Runs
    limits: ControlGroups
    kind: Containers

    async def start(self, order: Order) -> None:
        """As the loop does."""
        place = self.runs.place(order.service)
        await self.kind.prepare(order, place)
        await self.runs.start(order, await self.kind.launch(order, place))

    async def ready(self, order: Order) -> None:
        """Until it can be probed."""
        with trio.fail_after(60):
            while await self.kind.probe(order, self.runs.place(order.service)):  # noqa: ASYNC110 -- no event
                await trio.sleep(0.01)

    async def ended(self, service: str) -> str:
        """Wait for its end; why it came."""
        ended = await self.runs.wait(service)
        place = self.runs.place(service)
        why = self.kind.explain(place, ended)
        await self.kind.release(place)
        return why

    async def close(self) -> None:
        for service in await self.runs.find():
            await self.runs.stop(service, at_once=True)
            await self.ended(service)
        self.limits.close()


@asynccontextmanager
async def node_at(home: Path, runtime: str, outside: Outside | None = None) -> AsyncIterator[Node]:
    """A daemon; nothing that runs ends with it."""
    async with trio.open_nursery() as nursery:
        reactor = Reactor()
        await nursery.start(reactor.run)
        limits = ControlGroups(str(home))
        kind = Containers("ood1", str(home), limits, reactor, nursery, token, able(runtime), outside=outside)
        yield Node(home, Runs(str(home)), limits, kind)
        nursery.cancel_scope.cancel()
    reactor.close()

"""Runs of real programs below a directory of a test, and what of them is still there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from node.run.runner import MARK, Launch, Order
from zone.scheduler.service import Work

PATH = os.environ["PATH"]


def order(service: str = "notes", **work: object) -> Order:
    return Order(service=service, work=Work(image="notes:1", kind="process", **work))  # type: ignore[arg-type]


def shell(script: str, **more: object) -> Launch:
    return Launch(argv=("/bin/sh", "-c", script), env=(("PATH", PATH),), **more)  # type: ignore[arg-type]


def alive(home: Path, service: str = "notes") -> list[int]:
    """The processes that carry the run's mark."""
    mark = f"{MARK}={home}/runs/{service}\0".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if mark in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
    return found


def keeper_of(home: Path, service: str = "notes") -> int:
    text = (home / "runs" / service / "state").read_text()
    return int(text.partition("keeper=")[2].split()[0])


def kill_keeper(home: Path, service: str = "notes") -> None:
    os.kill(keeper_of(home, service), signal.SIGKILL)


def lines(home: Path, service: str = "notes") -> list[str]:
    """All that it wrote, without times."""
    log = home / "logs" / service / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


async def until(holds: Callable[[], object]) -> None:
    """What real processes do is asked for again and again; minutes are for a machine that is busy."""
    with trio.fail_after(200):
        while not holds():  # noqa: ASYNC110 -- they tell no event
            await trio.sleep(0.005)

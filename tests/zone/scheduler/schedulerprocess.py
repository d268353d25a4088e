"""A scheduler as a process of its own, so that it can be killed: ``schedulerprocess.py NAME NAMESPACE MEMBER...``."""

from __future__ import annotations

import sys

import trio

from zone.io.config.etcd import EtcdBackend
from zone.io.config.store import ConfigStore
from zone.io.scheduler.loop import Scheduler


async def main() -> None:
    await Scheduler(sys.argv[1], ConfigStore(EtcdBackend(sys.argv[3:], sys.argv[2], 5.0))).run()


trio.run(main)

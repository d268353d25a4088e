"""A node of its own process that serves notes, as user NAME of tests: ``python krpcserverprocess.py NAME``.

Prints its port when it can be called; what whoami answers is NAME.
"""

from __future__ import annotations

import sys

import trio
from krpcservices import KeptNotes, Notes, user, verify

from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import KrpcServer
from zone.krpc.interface import Served


async def main(name: str) -> None:
    dispatcher = Dispatcher()
    dispatcher.register("notes", Served(Notes, lambda caller, _: KeptNotes({}, user(name))))
    server = KrpcServer(dispatcher, verify, lambda identity: None)
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(lambda task_status: server.serve(tcp=("127.0.0.1", 0), task_status=task_status))
        print(url.rpartition(":")[2], flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])

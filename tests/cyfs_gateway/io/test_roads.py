"""A machine that is plugged in elsewhere tells its tunnels, in a network namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_WATCHER = """
import trio
from cyfs_gateway.io.roads import follow_roads

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(follow_roads, lambda: print("changed", flush=True))
        print("ready", flush=True)

trio.run(main)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_a_new_address_is_told_once():
    watcher = subprocess.Popen(["unshare", "--net", sys.executable, "-c", _WATCHER], stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "ready\n"
        inside = ["nsenter", "--net", "--target", str(watcher.pid), "ip"]
        subprocess.run([*inside, "link", "add", "road0", "type", "veth", "peer", "name", "road1"], check=True)
        for end in ("road0", "road1"):
            subprocess.run([*inside, "link", "set", end, "up"], check=True)
        subprocess.run([*inside, "address", "add", "192.0.2.7/24", "dev", "road0"], check=True)
        assert watcher.stdout.readline() == "changed\n"
        subprocess.run([*inside, "address", "delete", "192.0.2.7/24", "dev", "road0"], check=True)
        assert watcher.stdout.readline() == "changed\n"
    finally:
        watcher.kill()
        watcher.wait()

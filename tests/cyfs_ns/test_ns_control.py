"""The API of a name server below a prefix, as a gateway carries it, and asked by ``cyfs-ns`` there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from dnsfakes import udp_server, zone
from nsprogram import cyfs_ns

from cyfs_ns.config.load import load_dns
from cyfs_ns.control.access import Door
from cyfs_ns.control.router import Router
from cyfs_ns.io import upstreams
from cyfs_ns.io.control.conversation import Site
from cyfs_ns.io.control.entrance import Entrance, close_entrances, open_unix, serve_entrances
from cyfs_ns.io.control.nameserver import Served, routes
from cyfs_ns.io.serving import Serving


@asynccontextmanager
async def house(folder: Path, keys: str = "") -> AsyncIterator[Serving]:
    """A name server without doors of its own, behind the socket of a gateway."""
    async with udp_server(zone("a.example. 60 IN A 192.0.2.1")) as behind:
        loaded = load_dns(f"dns: {{listen: '127.0.0.1:0', nameserver: ['{behind}'] {keys}}}".encode())
        assert loaded.dns is not None, loaded.faults
        serving = Serving(folder, loaded.dns)
        staged = await serving.stage(loaded.dns, loaded.hosts, serving.around)
        path = folder / "cyfs-gateway.sock"
        entrance = Entrance(listener=open_unix(path), door=Door(), url=f"unix:{path}", path=path)
        site = Site(Served(serving, lambda: 0.0), Router(routes(lambda served: served, "/dns")))
        try:
            async with trio.open_nursery() as nursery:
                serving.begin(nursery, staged)
                nursery.start_soon(serve_entrances, site, [entrance])
                yield serving
                nursery.cancel_scope.cancel()
        finally:
            close_entrances([entrance])


async def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(lambda: cyfs_ns(*words, "--home", folder))


async def asked(folder: Path, *words: str) -> Any:
    done = await run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_the_commands_find_the_name_server_in_a_gateway(tmp_path: Path) -> None:
    async with house(tmp_path):
        assert (await asked(tmp_path, "status"))["home"] == str(tmp_path)
        way = await asked(tmp_path, "explain", "a.example")
        assert [record["data"] for record in way["answer"]] == ["192.0.2.1"]
        assert (await asked(tmp_path, "flush"))["flushed"] == 1
        done = await run(tmp_path, "reload")
        assert done.returncode == 1 and "the house around" in done.stderr


async def test_lists_are_looked_at_when_asked_for(tmp_path: Path) -> None:
    listed = tmp_path / "ads.txt"
    listed.write_text("||one.example^\n")
    async with house(tmp_path, f", lists: {{ads: {{path: '{listed}'}}}}"):
        (shown,) = (await asked(tmp_path, "lists", "--refresh"))["lists"]
        assert (shown["name"], shown["entries"], shown["action"], shown["fault"]) == ("ads", 1, "block", "")
        listed.write_text("||one.example^\n||two.example^\n")
        said = await asked(tmp_path, "lists", "--refresh")
        assert said["changed"] and said["lists"][0]["entries"] == 2
        assert (await asked(tmp_path, "explain", "www.two.example"))["source"] == "blocked"


async def test_a_server_that_fails_is_shown_with_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "_PAUSES", ())
    async with house(tmp_path, ", servers: [/dead.example/127.0.0.1#1]"):
        way = await asked(tmp_path, "explain", "www.dead.example")
        assert (way["source"], way["rcode"]) == ("failed", "SERVFAIL")
        assert any("127.0.0.1:1" in step["said"] for step in way["steps"])
        shown = {one["server"]: one for one in (await asked(tmp_path, "upstreams"))["upstreams"]}
        assert shown["udp://127.0.0.1:1"]["fault"]

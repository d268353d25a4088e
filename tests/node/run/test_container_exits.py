"""The ways out of containers: real ones, to a real gateway and a real server of kRPC."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from containerhelp import Node, image, node_at, page
from runhelp import lines, until

from cyfs_ns.identity.strictjson import Json
from node.io.run.exits import Outside
from tests.cyfs_gateway.io.inprocess import Living, hello, living, serve
from tests.freeport import free_port
from zone.io.krpc.dispatch import Dispatcher
from zone.io.krpc.server import KrpcServer
from zone.krpc.caller import Caller
from zone.krpc.service import CallContext

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers have users of their own"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed"),
]


@pytest.fixture(params=["bwrap", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


async def who(caller: Caller, _method: str, _params: Mapping[str, Json], _context: CallContext) -> Json:
    return caller.name


@asynccontextmanager
async def house(home: Path, rules: str = "") -> AsyncIterator[tuple[Living, Outside, int]]:
    """A gateway with a name server, kRPC at a unix socket, and a web server of the house at a port."""
    dns = f"dns: {{enable: true, listen: '127.0.0.1:{free_port()}', nameserver: ['127.0.0.1:9']}}\n"
    hosts = "hosts: {inside.test: 127.0.0.1, far.test: 192.0.2.7}\n"
    async with trio.open_nursery() as nursery:
        port = await serve(nursery, hello)
        dispatcher = Dispatcher()
        dispatcher.register("who", who)
        krpc = KrpcServer(dispatcher, lambda token: Caller(name=token, subjects=()), lambda _: None)
        unix = home / "krpc.sock"
        await nursery.start(lambda task_status: krpc.serve(unix=unix, task_status=task_status))
        async with living(home / "gateway", hosts + rules.replace("WEB", str(port)), base=dns) as found:
            yield found, Outside(found.gateway, unix), port
        nursery.cancel_scope.cancel()


async def script(node: Node, text: str) -> list[str]:
    """What a container writes that begins when it can be probed, and ends by itself."""
    order = page("web", "/bin/sh", "-c", f"until test -e /go/on; do sleep 0.01; done; {text}".replace("$", "$$"))
    order = page("web", *order.work.command, volumes=(("go", "/go"),))
    await node.start(order)
    await node.ready(order)
    (node.home / "volumes/web/go/on").touch()
    await node.ended("web")
    (node.home / "volumes/web/go/on").unlink()
    return lines(node.home, "web")


OPEN = "rules: ['MATCH,DIRECT']\n"
NAMED = "rules: ['AND,((IN-NAME,service:web),(DST-PORT,WEB)),DIRECT', 'MATCH,DIRECT']\n"


async def test_a_container_reaches_what_a_rule_gives_it_and_nothing_else_of_the_house(tmp_path: Path, runtime: str):
    image(tmp_path)
    async with house(tmp_path, NAMED) as (_, outside, port), node_at(tmp_path, runtime, outside) as node:
        try:
            found = await script(
                node,
                f"wget -q -O - http://inside.test:{port}/page; echo; wget -O - http://inside.test:9/;"
                f"wget -Y off -O - http://127.0.0.1:{port}/; echo $HTTPS_PROXY $all_proxy",
            )
        finally:
            await node.close()
    assert "o hello /page" in found
    assert any("403" in line for line in found) and any("refused" in line for line in found), found
    assert "o http://127.0.0.1:3181 socks5h://127.0.0.1:3181" in found


async def test_without_a_rule_that_names_it_the_house_is_closed(tmp_path: Path, runtime: str):
    image(tmp_path)
    async with house(tmp_path, OPEN) as (_, outside, port), node_at(tmp_path, runtime, outside) as node:
        try:
            names = ("inside.test", "localhost", "127.0.0.1", "0.0.0.0")
            asks = ";".join(f"wget -O - http://{name}:{port}/" for name in names)
            found = await script(node, asks)
        finally:
            await node.close()
    assert sum("403" in line for line in found) == 4 and not any("hello" in line for line in found), found


async def test_a_container_calls_services_with_its_token_and_asks_for_names(tmp_path: Path, runtime: str):
    image(tmp_path)
    async with house(tmp_path) as (_, outside, _), node_at(tmp_path, runtime, outside) as node:
        try:
            call = json.dumps({"method": "x", "params": {}, "sys": [1, "$T"]}).replace('"', '\\"')
            found = await script(
                node,
                "T=$(cat $CYFS_TOKEN_FILE); for host in host.docker.internal gateway 127.0.0.1; do "
                f'wget -Y off -q -O - --post-data "{call}" http://$host:3180/kapi/who; echo; done;'
                "busybox nslookup far.test",
            )
        finally:
            await node.close()
    assert found.count('o {"result":"e30.web.c2ln","sys":[1]}') == 3, found
    assert any("192.0.2.7" in line for line in found), found


async def test_the_next_daemon_makes_the_ways_out_anew(tmp_path: Path, runtime: str):
    image(tmp_path)
    text = "while true; do wget -q -O - http://inside.test:WEB/page && echo; sleep 0.05; done"
    async with house(tmp_path, NAMED) as (_, outside, port):
        order = page("web", "/bin/sh", "-c", text.replace("WEB", str(port)))
        async with node_at(tmp_path, runtime, outside) as first:
            await first.start(order)
            await first.ready(order)
            await until(lambda: "o hello /page" in lines(tmp_path, "web"))
        seen = len(lines(tmp_path, "web"))
        await until(lambda: any("refused" in line for line in lines(tmp_path, "web")[seen:]))
        async with node_at(tmp_path, runtime, outside) as second:
            try:
                seen = len(lines(tmp_path, "web"))
                await second.ready(order)
                await until(lambda: "o hello /page" in lines(tmp_path, "web")[seen:])
            finally:
                await second.close()

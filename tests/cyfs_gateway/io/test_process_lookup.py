"""Rules on processes, decided for a real curl."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
from inprocess import curl, hello, living, serve, socks5

from cyfs_gateway.flow import Flow
from cyfs_gateway.io import process

CONFIG = """
find-process-mode: MODE
listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]
rules:
  - PROCESS-NAME,curl,REJECT
  - MATCH,DIRECT
"""


@pytest.mark.parametrize(("mode", "code"), [("strict", 97), ("always", 97), ("off", 0)])
async def test_curl_is_known_by_its_name(tmp_path: Path, nursery: trio.Nursery, mode: str, code: int) -> None:
    web = await serve(nursery, hello)
    async with living(tmp_path, CONFIG.replace("MODE", mode)) as house:
        found, _ = await curl("-x", f"socks5h://127.0.0.1:{house.port()}", f"http://127.0.0.1:{web}/")
        assert found == code
        stream, reply = await socks5(house.port(), "127.0.0.1", web)
        assert reply == 0
        (flow,) = house.tracker
        assert flow.flow.process == ("" if mode == "off" else Path(os.readlink("/proc/self/exe")).name)
        assert flow.flow.uid == (-1 if mode == "off" else os.geteuid())
        await stream.aclose()


@pytest.mark.parametrize(
    ("family", "host", "network"),
    [
        (socket.AF_INET, "127.0.0.1", "tcp"),
        (socket.AF_INET6, "::1", "tcp"),
        (socket.AF_INET, "127.0.0.1", "udp"),
        (socket.AF_INET, "0.0.0.0", "udp"),
        (socket.AF_INET6, "::1", "udp"),
    ],
)
async def test_our_own_sockets_lead_to_us(family: int, host: str, network: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM if network == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        if network == "tcp":
            sock.listen()
        client = "127.0.0.1" if host == "0.0.0.0" else host
        flow = Flow(network, "Socks5", client, sock.getsockname()[1], "x.test", "", 80)
        await process.find_process(flow)
    assert (flow.uid, flow.process_path) == (os.geteuid(), os.readlink("/proc/self/exe"))


@pytest.mark.parametrize("client", [("192.0.2.1", 4), ("127.0.0.1", 1)])
async def test_strangers_and_nobody_stay_unknown(client: tuple[str, int]) -> None:
    flow = Flow("tcp", "Socks5", *client, "x.test", "", 80)
    await process.find_process(flow)
    assert (flow.uid, flow.process, flow.process_path) == (-1, "", "")


def test_a_descriptor_that_closes_meanwhile_hides_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.readlink

    def flaky(path: str) -> str:
        found = real(path)
        if "/fd/" in path and not found.startswith("socket:"):
            raise FileNotFoundError(path)
        return found

    with socket.create_server(("127.0.0.1", 0)) as sock:
        monkeypatch.setattr(os, "readlink", flaky)
        inode = os.fstat(sock.fileno()).st_ino
        assert process._holder_of(inode) == real("/proc/self/exe")

"""The installed gateway as a plain proxy for a client that knows it, on good roads and bad ones."""

from __future__ import annotations

import hashlib
import random

import trio
from netnslab import HOME, Host, Link
from netnslab.traffic import http_server
from pictures import Picture

PORT = 7890


def proxy_config(*sources: str) -> dict:
    return {
        "mixed-port": PORT,
        "allow-lan": True,
        "lan-allowed-ips": list(sources),
        "hosts": {"files.lab.example": "198.51.100.1"},
        "rules": ["DOMAIN,forbidden.lab.example,REJECT", "MATCH,DIRECT"],
    }


async def test_a_client_reaches_a_server_by_a_name_from_hosts(lab):
    picture = Picture(lab)
    client, box, server = picture.client, picture.box, picture.server
    assert server.ip == "198.51.100.1"
    async with lab.up(), trio.open_nursery() as nursery:
        await nursery.start(http_server, server, server.ip, 80)
        async with box.gateway(proxy_config("192.168.1.0/24")):
            place = f"{picture.box_lan}:{PORT}"
            for how in (
                ("--socks5-hostname", place),
                ("--proxy", f"http://{place}"),
                ("-p", "--proxy", f"http://{place}"),
            ):
                done = await client.run("curl", "-sS", "-m", "8", *how, "http://files.lab.example/")
                assert done.out == box.ip
                refused = await client.run(
                    "curl", "-sSf", "-m", "8", *how, "http://forbidden.lab.example/", check=False
                )
                assert refused.code != 0
            outsider = await server.run(
                "curl", "-sS", "-m", "8", "--socks5", f"{box.ip}:{PORT}", f"http://{server.ip}/", check=False
            )
            assert outsider.code != 0, "only named sources are served"
        nursery.cancel_scope.cancel()


async def test_a_download_over_a_bad_road_arrives_whole(lab):
    internet = lab.network("198.51.100.0/24", name="internet")
    bad_road = Link(delay=0.02, jitter=0.005, loss=0.01, rate=50e6, seed=3)
    server: Host = lab.host(internet, name="server", link=bad_road)
    home = lab.network("192.168.1.0/24", uplink=internet, nat=HOME, name="home")
    client = lab.host(home, name="client")
    body = random.Random(1).randbytes(1 << 20)
    async with lab.up(), trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: http_server(server, server.ip, 80, body=body, task_status=task_status))
        async with home.router.gateway(proxy_config("192.168.1.0/24")):
            file = lab.directory / "download"
            place = f"192.168.1.1:{PORT}"
            words = ("curl", "-sS", "-m", "50", "--socks5", place, "-o", str(file), f"http://{server.ip}/")
            await client.run(*words, timeout=60)
            received = await trio.Path(file).read_bytes()
            assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
        nursery.cancel_scope.cancel()

"""The door for links at home, the ingress of an SN in front: a browser with nothing of ours, and no fakes."""

from __future__ import annotations

import json
from pathlib import Path

import trio
import trustme

from tests.cyfs_gateway.io.inprocess import serve
from tests.cyfs_gateway.sn.ingressstage import PHOTOS, ran, staged
from tests.freeport import free_port


async def test_a_link_opens_a_service_behind_an_sn_that_sees_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    heard: list[bytes] = []

    async def photos(stream: trio.SocketStream) -> None:
        heard.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nphotos")

    ca, door, inner = trustme.CA(), free_port(), await serve(nursery, photos)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = tmp_path / "own.pem"
    ca.issue_cert(PHOTOS).private_key_and_cert_chain_pem.write_to_path(own)
    own.chmod(0o600)
    service = f"name: tls, port: 443, target: 'tcp://127.0.0.1:{door}', hosts: ['{PHOTOS}'], proxy-protocol: true"
    at_home = f"""
certificates: {{files: ['{own}']}}
share:
  listen: ["127.0.0.1:{door}"]
  proxy-protocol: true
  services:
    photos: {{host: {PHOTOS}, to: "tcp://127.0.0.1:{inner}"}}
"""
    async with staged(tmp_path, service, at_home=at_home) as stage:
        to = ["--connect-to", f"{PHOTOS}:443:127.0.0.1:{stage.tls}", "--cacert", str(tmp_path / "ca.pem")]

        async def browser(*words: str) -> str:
            return (await ran("curl", "-q", "-sS", "--noproxy", "*", *to, *words))[1]

        given = await stage.home.gateway.control("share", "link", {"service": "photos", "note": "Ann"})
        with trio.fail_after(60):
            while "401" not in await browser("-i", f"https://{PHOTOS}/"):  # noqa: ASYNC110 - the door has no event
                await trio.sleep(0.05)
        jar = str(tmp_path / "jar")
        words = ("--local-port", "33000-39000", "-L", "-b", jar, "-c", jar)
        assert await browser(*words, str(given["url"])) == "photos"
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in heard[0]
        liar = ("-b", jar, "-H", "X-Forwarded-For: 192.0.2.1")
        assert await browser(*liar, f"https://{PHOTOS}/") == "photos"
        assert b"192.0.2.1" not in heard[1]
        listed = await stage.home.gateway.control("share", "list", {})
        assert json.dumps(listed).count("Ann") == 1
        # Who says nothing of where they come from does not get in by this door.
        async with await trio.open_tcp_stream("127.0.0.1", door) as stream:
            await stream.send_all(f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
            assert not await stream.receive_some()

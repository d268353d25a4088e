"""The whole of it: an SN by its configuration, a machine that joins it, and curl, which knows neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sn_house import HOST, OWNER, join, machine, sn_house, submit
from sn_people import person

from cyfs_gateway.sn.requests import Remove
from cyfs_gateway.sn.talk import Lease, Leased, Place, Submitted
from tests.cyfs_gateway.io.inprocess import connect, exactly, serve, until
from tests.cyfs_gateway.sn.ingressstage import PHOTOS, nginx, ran
from tests.freeport import free_port

BOX = person(11)


async def greeting(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-home\r\n")


async def test_who_joins_and_exposes_a_service_is_visited(tmp_path: Path, nursery: trio.Nursery) -> None:
    tls, http, first, ssh = free_port(), free_port(), free_port(), await serve(nursery, greeting)
    ingress = f"  ingress: {{tls: '127.0.0.1:{tls}', http: '127.0.0.1:{http}', ports: {first}-{first + 9}}}\n"
    async with nginx(tmp_path) as server, sn_house(tmp_path, ingress) as sn:
        services = f"""
  sn: [{{peer: '{HOST.did}', at: '127.0.0.1:{sn.port}'}}]
  services:
    - name: web
      port: 443
      target: tcp://127.0.0.1:{server.tls}
      hosts: [+.alice.sn.example]
      public: true
      proxy-protocol: true
    - {{name: ssh, port: 22, target: 'tcp://127.0.0.1:{ssh}', public: true}}
    - {{name: inside, port: 8080, target: 'tcp://127.0.0.1:{ssh}', allow: ['{OWNER.did}']}}
"""
        async with machine(sn, BOX, services) as box:
            to = ["--connect-to", f"{PHOTOS}:443:127.0.0.1:{tls}", "--connect-to", f"{PHOTOS}:80:127.0.0.1:{http}"]
            ask = ["curl", "-q", "-sS", "--noproxy", "*", "--cacert", str(server.root), *to]
            code, said = await ran(*ask, f"https://{PHOTOS}/who")
            assert code != 0 and "unrecognized name" in said, "nobody has that name yet"

            await join(box, OWNER, "alice")
            code, said = await ran(*ask, "-L", f"http://{PHOTOS}/who")
            assert code == 0 and said.endswith(f" https {PHOTOS}"), said

            leased = await box.ask(Lease(Place("tcp", name="ssh")))
            assert isinstance(leased, Leased)
            assert await exactly(await connect(leased.place.port), 14) == b"SSH-2.0-home\r\n"
            private = await box.ask(Lease(Place("tcp", name="inside")))
            assert isinstance(private, Leased)
            await until(lambda: sn.module["ingress"])

            assert isinstance(await submit(box, OWNER, Remove(BOX.did)), Submitted)
            code, said = await ran(*ask, "-i", f"http://{PHOTOS}/who")
            assert said.startswith(("HTTP/1.1 502 ", "HTTP/1.1 404 ")), said
            with pytest.raises(OSError, match="refused"):
                await connect(leased.place.port)

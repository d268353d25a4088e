"""Where a stream came from, as a peer tells it: believed of whom ``proxy-from`` names, and of nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from inprocess import echo, exactly, serve, socks5
from peering import LAPTOP, NAS, PHOTOS, PI, dev, machine, published

from rtcp.v5.frames import Opening, Purpose, Route
from rtcp.v5.targets import write_target
from tests.freeport import free_port

CLIENT = ("198.51.100.7", 40000)
LAPTOPS = """
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
proxies: [{{name: peers, type: rtcp}}]
rules: ['DOMAIN-SUFFIX,home.example,peers', 'MATCH,DIRECT']
rtcp: {{versions: [{version}]}}
"""
MAPPED = ("::ffff:198.51.100.7", 40000)
BELIEVED, NOT_BELIEVED = CLIENT, ("127.0.0.1", 0)


def telling(told: tuple[str, int]) -> Callable[[Purpose, str | None, int], Opening]:
    def tell(purpose: Purpose, host: str | None, port: int) -> Opening:
        return replace(
            write_target(purpose, host, port), route=Route(told, ("2001:db8::2" if ":" in told[0] else "192.0.2.2", 22))
        )

    return tell


@pytest.mark.parametrize(
    ("believed", "version", "told", "seen"),
    [
        ("laptop.home.example", 5, CLIENT, BELIEVED),
        (str(dev(PI)), 5, MAPPED, BELIEVED),
        ("laptop.home.example", 4, CLIENT, NOT_BELIEVED),
        ("photos.home.example", 5, CLIENT, NOT_BELIEVED),
        ("", 5, CLIENT, NOT_BELIEVED),
    ],
)
async def test_a_source_is_believed_of_whom_it_may_be(
    tmp_path: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    believed: str,
    version: int,
    told: tuple[str, int],
    seen: tuple[str, int],
) -> None:
    monkeypatch.setattr("rtcp.io.asking.write_target", telling(told))
    port, target = free_port(), await serve(nursery, echo)
    photos_config = f"""
rtcp:
  listen: 127.0.0.1:{port}
  proxy-from: [{believed}]
rules: ['AND,((ZONE,home.example),(SRC-IP-CIDR,{seen[0]}/32),(DST-PORT,{target})),DIRECT']
"""
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_config, did=PHOTOS, dns=dns) as photos,
        machine(tmp_path / "laptop", PI, LAPTOPS.format(version=version), did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", target)
        assert code == 0, "the rules see it, too"
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        ((src_ip, src_port),) = [(one.flow.src_ip, one.flow.src_port) for one in photos.gateway.connections()]
        assert (src_ip, src_port) == seen
        (who,) = [one.flow.identity for one in photos.gateway.connections()]
        assert who is not None and who.did == str(LAPTOP), "whose word it is does not change"
        await stream.aclose()


async def test_nobody_is_believed_for_a_name_that_only_the_dns_gives_him(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtcp.io.asking.write_target", telling(CLIENT))
    port, target = free_port(), await serve(nursery, echo)
    photos_config = f"""
rtcp:
  listen: 127.0.0.1:{port}
  txt-bootstrap: true
  admission: ['TRUST,plain-dns,ACCEPT']
  proxy-from: [laptop.home.example]
rules: ['AND,((TRUST,none),(DST-PORT,{target})),DIRECT']
"""
    async with (
        published(port) as dns,
        machine(tmp_path / "photos", NAS, photos_config, did=PHOTOS, dns=dns, pinned=False) as photos,
        machine(tmp_path / "laptop", PI, LAPTOPS.format(version=5), did=LAPTOP, dns=dns) as laptop,
    ):
        stream, code = await socks5(laptop.port(), "photos.home.example", target)
        assert code == 0
        (flow,) = [one.flow for one in photos.gateway.connections()]
        assert flow.identity is not None and flow.identity.did == str(LAPTOP)
        assert (flow.src_ip, flow.src_port) == NOT_BELIEVED
        await stream.aclose()

"""A geo database that a rule needs and nobody has put there: it is downloaded before the rules are compiled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from inprocess import dead_port, living, serve

from cyfs_gateway.config.load import load
from cyfs_gateway.io.explain import explain_offline
from cyfs_ns.errors import ConfigFault


def field(number: int, data: bytes) -> bytes:
    """A short length-delimited field of protobuf."""
    return bytes((number << 3 | 2, len(data))) + data


SITES = field(1, field(1, b"ADS") + field(2, b"\x08\x02" + field(2, b"ads.test")))
PLACES = field(1, field(1, b"CN") + field(2, field(1, b"\xc0\0\x02\0") + b"\x10\x18"))


def config(port: int) -> str:
    return f"""
hosts: {{files.test: 127.0.0.1}}
geodata-mode: true
geox-url: {{geoip: "http://files.test:{port}/geoip.dat", geosite: "http://127.0.0.1:{port}/geosite.dat"}}
rules: ["GEOSITE,ads,REJECT", "GEOIP,cn,REJECT,no-resolve", "MATCH,DIRECT"]
"""


async def files(nursery: trio.Nursery, asked: list[bytes], sites: bytes) -> int:
    async def give(stream: trio.SocketStream) -> None:
        path = (await stream.receive_some()).split()[1]
        asked.append(path)
        body = PLACES if b"geoip" in path else sites
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return await serve(nursery, give)


async def test_missing_databases_are_fetched_once(tmp_path: Path, nursery: trio.Nursery) -> None:
    asked: list[bytes] = []
    text = config(await files(nursery, asked, SITES))
    async with living(tmp_path, text) as house:
        for host, rule in (("www.ads.test", "GeoSite"), ("192.0.2.7", "GeoIP"), ("198.51.100.1", "Match")):
            assert (await house.gateway.explain(host, 80)).rule.startswith(rule)
        await house.reload(text)
    assert sorted(asked) == [b"/geoip.dat", b"/geosite.dat"]


@pytest.mark.parametrize("how", ["dead", "nonsense"])
async def test_what_cannot_be_fetched_is_told_and_not_kept(tmp_path: Path, nursery: trio.Nursery, how: str) -> None:
    port = dead_port() if how == "dead" else await files(nursery, [], b"\xff\xff not geo data")
    async with living(tmp_path, "rules: ['MATCH,DIRECT']") as house:
        with pytest.raises(ConfigFault, match=r"GeoSite\.dat.*put it into"):
            await house.reload(config(port))
        assert not [name for name in os.listdir(tmp_path) if name.lower().startswith("geosite")]
        assert len(house.gateway.config.rules) == 1


async def test_explaining_a_file_downloads_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    asked: list[bytes] = []
    text = config(await files(nursery, asked, SITES))
    assert load(text.encode(), home=str(tmp_path)).config
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigFault, match="needs geo data"):
        await explain_offline(
            str(tmp_path / "c.yaml"), tmp_path, "a.test", 80, network="tcp", source="127.0.0.1", process=""
        )
    assert not asked


async def test_a_stop_does_not_wait_for_a_download(tmp_path: Path, nursery: trio.Nursery) -> None:
    asked, faults = trio.Event(), []

    async def silent(stream: trio.SocketStream) -> None:
        asked.set()
        await trio.sleep_forever()

    async with living(tmp_path, "rules: ['MATCH,DIRECT']") as house:

        async def change(text: str) -> None:
            with pytest.raises(ConfigFault, match="stopp") as fault:
                await house.reload(text)
            faults.append(fault)

        async with trio.open_nursery() as changes:
            changes.start_soon(change, config(await serve(nursery, silent)))
            await asked.wait()
            house.gateway.stop()
        assert faults

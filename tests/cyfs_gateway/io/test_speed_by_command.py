"""``speedtest`` as a real program, between two gateways: who is answered, and that what is told was measured."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from commands import pair
from inprocess import socks5
from peering import MALLORY, dev, machine

from cyfs_ns.errors import Refused
from tunnels.url import parse

PHOTOS = "photos.home.example"


@pytest.mark.parametrize("versions", ["[4]", "[5]"])
async def test_both_directions_and_the_round_trip_are_told(tmp_path: Path, versions: str) -> None:
    async with pair(tmp_path, versions=versions) as both:
        done = await both.run("laptop", "speedtest", PHOTOS, "--seconds", "0.3", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["peer"] == PHOTOS
        for way in ("download", "upload"):
            assert said[way]["bytes"] > 0
            assert said[way]["mbps"] > 0
        assert said["rtt"]["idle"]["count"] > 0
        up, down = both.laptop.gateway.totals()
        assert up >= said["upload"]["bytes"]
        assert down >= said["download"]["bytes"]
        shown = await both.run("laptop", "speedtest", PHOTOS, "--seconds", "0.2")
        assert [line.partition(b":")[0] for line in shown.stdout.splitlines()] == [b"idle", b"download", b"upload"]


async def test_strangers_measure_nothing_unless_they_are_let(tmp_path: Path) -> None:
    stranger = str(dev(MALLORY))
    known = f"  admission: ['DID,{stranger},ACCEPT', 'ZONE,home.example,ACCEPT']\n"
    for number, (more, codes) in enumerate(
        (
            ("", (1, 0)),
            (f"  speedtest: {{allow: ['{stranger}']}}\n", (0, 1)),
            ("  speedtest: {allow: []}\n", (1, 1)),
        )
    ):
        base = tmp_path / str(number)
        base.mkdir()
        async with (
            pair(base, known + more) as both,
            machine(base / "mallory", MALLORY, "rtcp: {}\n", dns=both.dns),
        ):
            for who, code in zip(("mallory", "laptop"), codes, strict=True):
                done = await both.run(who, "speedtest", PHOTOS, "--seconds", "0.1", "--json")
                assert done.returncode == code, (who, more, done.stderr)


async def test_whoever_uses_a_way_through_our_tunnel_is_not_this_device(tmp_path: Path) -> None:
    through = (
        "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\n"
        "proxies: [{name: photos, type: rtcp, server: photos.home.example}]\nrules: ['MATCH,photos']\n"
    )
    async with pair(tmp_path, rules="['ZONE,home.example,DIRECT']", laptop=through) as both:
        stream, code = await socks5(both.laptop.port(), "speedtest.cyfs.invalid", 1)
        assert code == 2
        await stream.aclose()
        nested = quote("rtcp://far.home.example/speedtest.cyfs.invalid:1", safe="")
        with pytest.raises(Refused):
            await both.laptop.gateway.tunnels.open_url(parse(f"rtcp://{PHOTOS}/{nested}"))
        assert both.photos.tracker.seen == 0, "a peer does not borrow our name either"


async def test_a_name_of_ours_that_nobody_answers_to_goes_nowhere_else(tmp_path: Path) -> None:
    async with pair(tmp_path, rules="['ZONE,home.example,DIRECT']") as both:
        for name in ("receive", "nonsense"):
            done = await both.run("laptop", "nc", PHOTOS, f"{name}.cyfs.invalid:1")
            assert done.returncode == 1, done.stderr
        assert both.photos.tracker.seen == 0

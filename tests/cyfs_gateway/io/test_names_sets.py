"""Who is asked about a name, and who gets a fake address, by sets of names: GeoSite.dat and rule providers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from inprocess import serve
from names_house import behind, named
from test_names_served import DIRECT, call

from cyfs_ns.errors import ConfigFault
from tests.cyfs_gateway.rules.dat_writer import geosite_dat
from tests.cyfs_gateway.rules.mrs_writer import domain_mrs

KEYWORD, REGEX, SUFFIX, FULL = range(4)
SITES = {
    "INNER": [
        (SUFFIX, "inner.example.net", ()),
        (FULL, "only.example.net", ()),
        (KEYWORD, "within", ()),
        (REGEX, r"^r[0-9]+\.example\.net$", ()),
        (FULL, "ad.example.net", ("ads",)),
    ],
    "GEOLOCATION-!CN": [(SUFFIX, "abroad.example.net", ())],
    "PRIVATE": [(SUFFIX, "lan.example.net", ())],
}
IN_INNER = ("inner.example.net", "a.inner.example.net", "only.example.net", "notwithin.example.net", "r12.example.net")
NOT_IN_INNER = ("xinner.example.net", "a.only.example.net", "r1x.example.net", "lan.example.net", "www.example.net")
ANSWER = "{}. 60 A 192.0.2.{}"


def answering(last: int) -> list[str]:
    names = (*IN_INNER, *NOT_IN_INNER, "ad.example.net", "abroad.example.net", "x.lan.example.net", "new.example.net")
    return [ANSWER.format(name, last) for name in names]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "GeoSite.dat").write_bytes(geosite_dat(SITES))
    return tmp_path / "own"


async def test_geosite_chooses_the_servers(home: Path) -> None:
    async with behind(*answering(1)) as inner, behind(*answering(2)) as ads, behind(*answering(3)) as standard:
        lines = f"""
  nameserver-policy:
    'geosite:INNER@ads': '127.0.0.1:{ads.port}'
    'geosite:inner,geolocation-!cn': '127.0.0.1:{inner.port}'
    '+.inner.example.net': 'rcode://refused'
"""
        async with named(home, lines, DIRECT, standard) as names:
            for name in (*IN_INNER, "abroad.example.net"):
                assert await names.ask(name) == ["192.0.2.1"], f"{name}: the first pattern that fits counts"
            for name in NOT_IN_INNER:
                assert await names.ask(name) == ["192.0.2.3"], name
            assert await names.ask("ad.example.net") == ["192.0.2.2"]
            assert await names.ask("AD.eXample.net") == ["192.0.2.2"]


async def test_geosite_in_the_fallback_filter(home: Path) -> None:
    async with behind(*answering(1)) as standard, behind(*answering(2)) as fallback:
        lines = f"""
  fallback: ['127.0.0.1:{fallback.port}']
  fallback-filter: {{geoip: false, geosite: [inner]}}
"""
        async with named(home, lines, DIRECT, standard) as names:
            assert await names.ask("a.inner.example.net") == ["192.0.2.2"]
            assert await names.ask("www.example.net") == ["192.0.2.1"]
            assert standard.names() == ["www.example.net"], "those of the list are not even asked for there"


@pytest.mark.parametrize(
    ("mode", "entries"),
    [
        ("blacklist", "['geosite:private', 'rule-set:mine', 'www.example.net']"),
        ("rule", "['GEOSITE,private,real-ip', 'RULE-SET,mine,real-ip', 'DOMAIN,www.example.net,real-ip']"),
        ("whitelist", "['geosite:inner', 'geosite:geolocation-!cn']"),
        ("rule", "['GEOSITE,inner,fake-ip', 'GEOSITE,geolocation-!cn,fake-ip', 'MATCH,real-ip']"),
    ],
    ids=["blacklist", "rules, real", "whitelist", "rules, fake"],
)  # fmt: skip
async def test_sets_say_who_gets_a_fake_address(home: Path, mode: str, entries: str) -> None:
    rest = DIRECT + "rule-providers: {mine: {type: inline, behavior: domain, payload: ['+.xinner.example.net']}}\n"
    lines = f"  enhanced-mode: fake-ip\n  fake-ip-filter-mode: {mode}\n  fake-ip-filter: {entries}\n"
    async with behind(*answering(1)) as standard, named(home, lines, rest, standard) as names:
        for name in ("a.inner.example.net", "r12.example.net", "abroad.example.net"):
            (told,) = await names.ask(name)
            assert told.startswith("198.18."), name
        for name in ("x.lan.example.net", "xinner.example.net", "www.example.net"):
            assert await names.ask(name) == ["192.0.2.1"], name


async def test_a_new_geosite_file_counts_from_the_next_reload_on(home: Path) -> None:
    lines = "  enhanced-mode: fake-ip\n  fake-ip-filter: ['geosite:private']\n"
    async with behind(*answering(1)) as standard, named(home, lines, DIRECT, standard) as names:
        (fake,) = await names.ask("new.example.net")
        assert fake.startswith("198.18.")
        assert await names.ask("x.lan.example.net") == ["192.0.2.1"]
        fresh = {**SITES, "PRIVATE": [(FULL, "new.example.net", ())]}
        (home / "new").write_bytes(geosite_dat(fresh))
        (home / "new").rename(home / "GeoSite.dat")
        await names.reload(lines, DIRECT)
        assert await names.ask("new.example.net") == ["192.0.2.1"]
        assert (await names.ask("x.lan.example.net"))[0].startswith("198.18.")


async def test_a_geosite_file_that_is_missing_is_fetched(tmp_path: Path, nursery: trio.Nursery) -> None:
    body = geosite_dat(SITES)

    async def give(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    rest = f"geox-url: {{geosite: 'http://127.0.0.1:{await serve(nursery, give)}/geosite.dat'}}\n" + DIRECT
    async with behind(*answering(1)) as inner, behind(*answering(2)) as standard:
        lines = f"  nameserver-policy: {{'geosite:inner': '127.0.0.1:{inner.port}'}}\n"
        async with named(tmp_path, lines, rest, standard) as names:
            assert await names.ask("a.inner.example.net") == ["192.0.2.1"]
            assert await names.ask("www.example.net") == ["192.0.2.2"]
            assert (tmp_path / "GeoSite.dat").read_bytes() == body


PLAIN = ["+.inner.example.net", "only.example.net"]
CLASSICAL = "payload: ['DOMAIN-SUFFIX,inner.example.net', 'DOMAIN,only.example.net', 'IP-CIDR,192.0.2.0/24']\n"


def written(kind: str, only: str) -> bytes:
    """A rule set in which ``only`` stands in the place of ``only.example.net``."""
    names = [PLAIN[0], only]
    match kind:
        case "mrs":
            return domain_mrs(names)
        case "text":
            return "\n".join(names).encode()
        case "yaml":
            return json.dumps({"payload": names}).encode()
        case _:
            return CLASSICAL.replace("only.example.net", only).encode()


@pytest.mark.parametrize("kind", ["yaml", "text", "mrs", "classical"])
async def test_a_rule_set_from_a_file_is_read_again(home: Path, kind: str) -> None:
    """Names that come into a set are asked for where they belong from then on, and are no longer faked."""
    behavior, form = ("classical", "yaml") if kind == "classical" else ("domain", kind)
    (home / "mine").write_bytes(written(kind, "only.example.net"))
    rest = f"rule-providers: {{mine: {{type: file, behavior: {behavior}, format: {form}, path: ./mine}}}}\n{DIRECT}"
    async with behind(*answering(1)) as inner, behind(*answering(2)) as standard:
        lines = f"""
  enhanced-mode: fake-ip
  fake-ip-filter: ['rule-set:mine']
  nameserver-policy: {{'rule-set:mine': '127.0.0.1:{inner.port}'}}
"""
        async with named(home, lines, rest, standard) as names:
            for name in ("a.inner.example.net", "only.example.net"):
                assert await names.ask(name) == ["192.0.2.1"]
            for name in ("www.example.net", "new.example.net"):
                assert (await names.ask(name))[0].startswith("198.18.")
            assert standard.names() == []
            (home / "mine").write_bytes(written(kind, "new.example.net"))
            assert (await call(names, "PUT", "/providers/rules/mine"))[0] == 204
            assert await names.ask("new.example.net") == ["192.0.2.1"], "at once, whatever was remembered"
            assert (await names.ask("only.example.net"))[0].startswith("198.18.")


async def test_a_set_of_addresses_has_no_names(home: Path) -> None:
    rest = "rule-providers: {nets: {type: inline, behavior: ipcidr, payload: [192.0.2.0/24]}}\n" + DIRECT
    async with named(home, "", rest) as names:
        with pytest.raises(ConfigFault, match="holds no names"):
            await names.reload("  nameserver-policy: {'rule-set:nets': 192.0.2.1}\n", rest)

"""Lists that live elsewhere: what comes in replaces what was there, or nothing changes."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from inprocess import Living, dead_port, echo, living, serve, socks5, until

from cyfs_ns.errors import ConfigFault, CyfsError
from tests.webserver import Quiet, WebServer

GOOD_RULES = b"payload: ['+.listed.test']\n"
GOOD_PROXIES = b"proxies:\n- {name: near, type: socks5, server: 127.0.0.1, port: 9}\n- {name: far, type: direct}\n"


class Library(WebServer):
    """A web server whose one answer the test sets."""

    def __init__(self) -> None:
        self.body = b""
        self.etag = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.promised = 0
        """Bytes announced beyond those sent."""
        self.asked: list[dict[str, str]] = []
        library = self

        class Answer(Quiet):
            def do_GET(self) -> None:
                library.asked.append({key.lower(): value for key, value in self.headers.items()})
                unchanged = library.etag and self.headers.get("If-None-Match") == library.etag
                self.send_response(304 if unchanged else library.status)
                if library.etag:
                    self.send_header("ETag", library.etag)
                body = b"" if unchanged else library.body
                for key, value in library.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) + library.promised))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Answer)
        self.url = f"{self.address}/list"


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library()
    yield made
    made.close()


def rules(url: str, more: str = "") -> str:
    return f"""
hosts: {{www.listed.test: 127.0.0.1, new.test: 127.0.0.1}}
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
rule-providers:
  list: {{type: http, behavior: domain, url: "{url}", interval: 3600, {more}}}
rules:
  - RULE-SET,list,REJECT
  - MATCH,DIRECT
"""


async def verdict(house: Living, host: str) -> str:
    return (await house.gateway.explain(host, 80)).rule.split(",")[0]


async def loaded(house: Living) -> None:
    await until(lambda: house.gateway._world.rule_providers["list"].updated_at)


async def test_a_rule_provider_comes_in_by_itself_and_decides(tmp_path: Path, library: Library) -> None:
    library.body = GOOD_RULES
    async with living(tmp_path, rules(library.url, "header: {X-Mine: [yes]}")) as house:
        await loaded(house)
        _, code = await socks5(house.port(), "www.listed.test", 80)
        assert code == 2
        view = house.gateway.rule_providers()["list"].body
        assert (view["ruleCount"], view["vehicleType"], view["behavior"]) == (1, "HTTP", "Domain")
        assert library.asked[0]["x-mine"] == "yes"


BROKEN = pytest.mark.parametrize("how", ["yaml", "empty", "status", "cut", "big", "bomb", "gone", "html"])


def break_it(library: Library, how: str) -> None:
    library.etag = ""
    if how == "yaml":
        library.body = b"payload: ['+.new.test'\n"
    elif how == "empty":
        library.body = b""
    elif how == "html":
        library.body = b"<!doctype html><title>Log in</title>"
    elif how == "status":
        library.status, library.body = 503, b"payload: ['+.new.test']\n"
    elif how == "cut":
        library.body, library.promised = b"payload:\n- '+.new.test'\n", 100
    elif how == "big":
        library.body = b"payload:\n" + b"- '+.new.test'\n" * 10_000
    elif how == "bomb":
        library.body = gzip.compress(b"payload:\n" + b"- '+.new.test'\n" * 10_000)
        library.headers["Content-Encoding"] = "gzip"
        assert len(library.body) < 4096
    else:
        library.close()


@BROKEN
async def test_a_broken_download_leaves_what_was_there(tmp_path: Path, library: Library, how: str) -> None:
    library.body = GOOD_RULES
    async with living(tmp_path, rules(library.url, "size-limit: 8192")) as house:
        await loaded(house)
        provider = house.gateway._world.rule_providers["list"]
        kept, stamp = provider._path.read_bytes(), provider.updated_at
        break_it(library, how)
        with pytest.raises((CyfsError, OSError)):
            await house.gateway.update_rule_provider("list")
        assert await verdict(house, "www.listed.test") == "RuleSet"
        assert await verdict(house, "new.test") == "Match"
        assert provider._path.read_bytes() == kept == GOOD_RULES
        assert provider.updated_at == stamp


async def test_what_did_not_change_is_not_sent_again(tmp_path: Path, library: Library) -> None:
    library.body, library.etag = GOOD_RULES, '"one"'
    async with living(tmp_path, rules(library.url)) as house:
        await loaded(house)
        provider = house.gateway._world.rule_providers["list"]
        os.utime(provider._path, (1, 1))
        await house.gateway.update_rule_provider("list")
        assert [asked.get("if-none-match") for asked in library.asked] == [None, '"one"']
        assert provider._path.stat().st_mtime > 1
        assert await verdict(house, "www.listed.test") == "RuleSet"
        provider._path.unlink()
        await house.gateway.update_rule_provider("list")
        assert not provider._path.exists()
        library.body, library.etag = b"payload: ['+.new.test']\n", '"two"'
        await house.gateway.update_rule_provider("list")
        assert await verdict(house, "www.listed.test") == "Match"
        assert await verdict(house, "new.test") == "RuleSet"


async def test_the_saved_copy_serves_while_the_server_is_down(tmp_path: Path, library: Library) -> None:
    library.body = GOOD_RULES
    async with living(tmp_path, rules(library.url)) as house:
        await loaded(house)
    library.close()
    async with living(tmp_path, rules(library.url)) as house:
        assert await verdict(house, "www.listed.test") == "RuleSet"
        assert len(library.asked) == 1


@pytest.mark.parametrize("saved", [b"\0 no list \xff", b"x" * 10_000])
async def test_a_spoilt_saved_copy_is_fetched_again(tmp_path: Path, library: Library, saved: bytes) -> None:
    library.body = GOOD_RULES
    config = rules(library.url, "size-limit: 8192")
    async with living(tmp_path, config) as house:
        await loaded(house)
        path = house.gateway._world.rule_providers["list"]._path
    path.write_bytes(saved)
    async with living(tmp_path, config) as house:
        await loaded(house)
        assert await verdict(house, "www.listed.test") == "RuleSet"
    assert path.read_bytes() == GOOD_RULES


async def test_an_old_copy_serves_until_the_new_one_is_there(tmp_path: Path, library: Library) -> None:
    library.body = GOOD_RULES
    async with living(tmp_path, rules(library.url)) as house:
        await loaded(house)
        path = house.gateway._world.rule_providers["list"]._path
    day_ago = time.time() - 86400
    os.utime(path, (day_ago, day_ago))
    library.body = b"payload: ['+.new.test']\n"
    async with living(tmp_path, rules(library.url)) as house:
        await until(lambda: house.gateway._world.rule_providers["list"].updated_at > day_ago + 1)
        assert await verdict(house, "new.test") == "RuleSet"


async def test_a_disk_that_takes_nothing_does_not_hold_up_the_list(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cyfs_gateway.io.providers.write_atomic", full)
    library.body = GOOD_RULES
    async with living(tmp_path, rules(library.url)) as house:
        await loaded(house)
        assert await verdict(house, "www.listed.test") == "RuleSet"


async def test_a_file_provider(tmp_path: Path) -> None:
    config = rules("", "path: ./list.yaml").replace("type: http", "type: file").replace('url: "", interval: 3600, ', "")
    file = tmp_path / "list.yaml"
    async with living(tmp_path, "rules: ['MATCH,DIRECT']") as house:
        with pytest.raises(ConfigFault, match="does not exist"):
            await house.reload(config)
        file.write_bytes(b"payload: [")
        with pytest.raises(ConfigFault, match=r"list\.yaml"):
            await house.reload(config)
        file.write_bytes(GOOD_RULES)
        await house.reload(config)
        assert await verdict(house, "www.listed.test") == "RuleSet"
        file.write_bytes(b"payload: ['+.new.test']\n")
        await house.gateway.update_rule_provider("list")
        assert await verdict(house, "new.test") == "RuleSet"
        file.write_bytes(b"payload: [")
        with pytest.raises(CyfsError):
            await house.gateway.update_rule_provider("list")
        assert await verdict(house, "new.test") == "RuleSet"
        with pytest.raises(ConfigFault, match=r"list\.yaml"):
            await house.reload(config + "log-level: debug\n")
        assert await verdict(house, "new.test") == "RuleSet"


def proxies(url: str) -> str:
    return f"""
listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}]
proxy-providers:
  far: {{type: http, url: "{url}", interval: 3600}}
proxy-groups:
  - {{name: all, type: select, use: [far]}}
  - {{name: some, type: select, proxies: [REJECT], use: [far], filter: "^n"}}
rules: ["MATCH,all"]
"""


async def test_a_proxy_provider_fills_groups_and_changes_them(
    tmp_path: Path, nursery: trio.Nursery, library: Library
) -> None:
    port = await serve(nursery, echo)
    library.body, library.headers = GOOD_PROXIES, {"Subscription-Userinfo": "upload=1; download=2; total=30; expire=4"}
    async with living(tmp_path, proxies(library.url)) as house:
        groups = house.gateway._world.groups
        await until(lambda: groups["all"].all == ["near", "far"])
        assert groups["some"].all == ["REJECT", "near"]
        house.gateway.select("all", "far")
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 0
        (view,) = house.gateway.connections()
        assert view.chains == ("far", "all")
        await until(lambda: "subscriptionInfo" in house.gateway.proxy_providers()["far"].body)
        body = house.gateway.proxy_providers()["far"].body
        assert body["subscriptionInfo"] == {"Upload": 1, "Download": 2, "Total": 30, "Expire": 4}
        library.body = b"proxies:\n- {name: nigh, type: direct}\n"
        await house.gateway.update_proxy_provider("far")
        assert groups["all"].all == ["nigh"]
        assert groups["some"].all == ["REJECT", "nigh"]
        for spoilt in (b"proxies: []\n", b"proxies: [", b"hello"):
            library.body = spoilt
            with pytest.raises(CyfsError):
                await house.gateway.update_proxy_provider("far")
            assert groups["all"].all == ["nigh"]
        library.body = GOOD_PROXIES
        await house.gateway.update_proxy_provider("far")
        assert groups["all"].now == "far"
        await stream.aclose()
    library.close()
    async with living(tmp_path, proxies(library.url)) as house:
        assert house.gateway._world.groups["all"].all == ["near", "far"]
        assert house.gateway._world.groups["all"].now == "far"


async def test_without_its_provider_a_group_goes_straight(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, proxies(f"http://127.0.0.1:{dead_port()}/")) as house:
        assert house.gateway._world.groups["all"].all == ["COMPATIBLE"]
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 0
        await stream.aclose()


async def test_hosts_below_a_bridge_are_names_of_its_method_in_every_list(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("payload: ['OWNER,alice.web3.example']\n")
    config = """
identity: {bridges: {bns: web3.example}}
rule-providers:
  near: {type: inline, behavior: classical, payload: ['ZONE,alice.web3.example']}
  far: {type: file, behavior: classical, path: ./list.yaml}
sub-rules: {more: ['DID,ood1.alice.web3.example,DIRECT']}
rules: ['RULE-SET,near,DIRECT', 'RULE-SET,far,DIRECT', 'SUB-RULE,(OWNER,bob.web3.example),more', 'MATCH,DIRECT']
"""
    async with living(tmp_path, config) as house:
        world = house.gateway._world
        listed = [str(rule) for name in ("near", "far") for rule in world.rule_providers[name].content.rules]
        assert listed == ["ZONE,did:bns:alice", "OWNER,did:bns:alice"]
        assert str(world.config.rules[2]) == "SUB-RULE,(OWNER,did:bns:bob),more"
        assert str(world.config.sub_rules["more"][0]) == "DID,did:bns:ood1.alice,DIRECT"

"""A change of configuration is a transaction: all of the new or all of the old, and flows never notice."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from inprocess import connect, dead_port, echo, exactly, living, serve, socks5, the_rest, until

from cyfs_gateway.decide import Pending
from cyfs_gateway.flow import Flow
from cyfs_ns.errors import ConfigFault

FIRST = """
hosts: {echo.test: 127.0.0.1}
proxy-groups:
  - {name: choice, type: select, proxies: [DIRECT, REJECT]}
listeners:
  - {name: mixed, type: mixed, listen: 127.0.0.1, port: 0}
  - {name: second, type: mixed, listen: 127.0.0.1, port: 0}
rules:
  - DOMAIN,chosen.test,choice
  - DOMAIN,no.test,REJECT
  - MATCH,DIRECT
"""
SECOND = """
listeners:
  - {name: mixed, type: mixed, listen: 127.0.0.1, port: 0}
  - {name: third, type: socks, listen: 127.0.0.1, port: 0}
rules:
  - DOMAIN,no.test,DIRECT
  - MATCH,REJECT
"""


async def test_a_flow_lives_through_any_change(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, FIRST) as house:
        by_stays, _ = await socks5(house.port("mixed"), "127.0.0.1", port)
        by_goes, _ = await socks5(house.port("second"), "127.0.0.1", port)
        mixed, second = house.port("mixed"), house.port("second")
        await house.reload(SECOND)
        assert house.port("mixed") == mixed
        with pytest.raises(OSError, match="refused"):
            await connect(second)
        for stream in (by_stays, by_goes):
            await stream.send_all(b"still here")
            assert await exactly(stream, 10) == b"still here"
        for name in ("mixed", "third"):
            _, code = await socks5(house.port(name), "127.0.0.1", port)
            assert code == 2
        for stream in (by_stays, by_goes):
            await stream.aclose()


async def test_a_client_in_mid_handshake_is_decided_by_the_new_rules(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, FIRST) as house:
        stream = await connect(house.port())
        await stream.send_all(b"\x05\x01\x00")
        assert await exactly(stream, 2) == b"\x05\x00"
        await house.reload(SECOND)
        await stream.send_all(b"\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big"))
        assert (await exactly(stream, 10))[1] == 2
        await stream.aclose()


async def test_a_client_whose_listener_and_its_way_are_gone_is_refused(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    own = """
proxy-groups: [{name: own, type: select, proxies: [DIRECT]}]
sub-rules: {own: ["MATCH,DIRECT"]}
listeners:
  - {name: by-proxy, type: mixed, listen: 127.0.0.1, port: 0, proxy: own}
  - {name: by-rule, type: mixed, listen: 127.0.0.1, port: 0, rule: own}
rules: ["MATCH,DIRECT"]
"""
    async with living(tmp_path, own) as house:
        for name in ("by-proxy", "by-rule"):
            await house.reload(own)
            stream = await connect(house.port(name))
            await stream.send_all(b"\x05\x01\x00")
            assert await exactly(stream, 2) == b"\x05\x00"
            await house.reload(SECOND)
            await stream.send_all(b"\x05\x01\x00\x01\x7f\0\0\x01" + port.to_bytes(2, "big"))
            assert (await exactly(stream, 10))[1] == 2
            await stream.aclose()


async def test_a_question_to_the_old_rules_is_not_answered_by_the_new_ones(tmp_path: Path) -> None:
    """A decision waits at some line of the old rules; that line of the new ones is another."""
    old = 'rules: ["DOMAIN,no.test,REJECT", "DOMAIN,no2.test,REJECT", "IP-CIDR,192.0.2.0/24,REJECT", "MATCH,DIRECT"]'
    async with living(tmp_path, old) as house:
        flow = Flow("tcp", "Socks5", "127.0.0.1", 5, "name.test", "", 80)
        pending = house.engine.router.route(flow)
        assert isinstance(pending, Pending)
        await house.reload('rules: ["DOMAIN,name.test,REJECT", "MATCH,DIRECT"]')
        decision = await house.engine.decide(flow, pending)
        assert (decision.verdict.index, decision.verdict.type) == (0, "Domain")


@pytest.mark.parametrize("how", ["port", "syntax", "control", "provider"])
async def test_what_fails_late_changes_nothing(tmp_path: Path, nursery: trio.Nursery, how: str) -> None:
    port = await serve(nursery, echo)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        bad = {
            "port": SECOND.replace(
                "type: socks, listen: 127.0.0.1, port: 0", f"type: socks, listen: 127.0.0.1, port: {number}"
            ),
            "syntax": SECOND + "mode: sideways\n",
            "control": SECOND + f"external-controller: 127.0.0.1:{number}\n",
            "provider": SECOND + "rule-providers: {missing: {type: file, behavior: domain, path: ./none.yaml}}\n",
        }[how]
        async with living(tmp_path, FIRST) as house:
            ports = house.gateway._listeners.view()
            await house.gateway.patch({"mode": "rule"})
            kept, _ = await socks5(house.port(), "127.0.0.1", port)
            config, table = house.gateway.config, house.gateway.rules
            controls = dict(house.gateway._controls)
            with pytest.raises(ConfigFault):
                await house.reload(bad)
            assert house.gateway._listeners.view() == ports
            assert house.gateway.config is config
            assert house.gateway.rules is table
            assert house.gateway._controls == controls
            await kept.send_all(b"still here")
            assert await exactly(kept, 10) == b"still here"
            again, code = await socks5(house.port("second"), "127.0.0.1", port)
            assert code == 0
            _, code = await socks5(house.port(), "no.test", port)
            assert code == 2
            client = await trio.open_unix_socket(config.control.unix)
            await client.send_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b" 200 " in await the_rest(client)
            await again.aclose()
            await kept.aclose()


async def test_listeners_may_change_kind_and_width_on_their_port(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, target = dead_port(), await serve(nursery, echo)
    users = 'authentication: ["a:b"]\nskip-auth-prefixes: [127.0.0.0/8]\n'
    async with living(tmp_path, f"ipv6: false\nsocks-port: {port}\n{users}", base="") as house:
        kept, code = await socks5(port, "127.0.0.1", target)
        assert code == 0
        for config in (
            f"mixed-port: {port}\n{users}",
            f"mixed-port: {port}\nallow-lan: true\n{users}",
            f"socks-port: {port}\nallow-lan: true\n{users}",
            f"socks-port: {port}\n{users}",
        ):
            await house.reload("ipv6: false\n" + config, base="")
            stream, code = await socks5(port, "127.0.0.1", target)
            assert code == 0
            await stream.aclose()
            assert len(house.gateway._listeners.view()) == 1
        await kept.send_all(b"still here")
        assert await exactly(kept, 10) == b"still here"
        await kept.aclose()


async def test_own_ports_are_known_after_a_reload_too(tmp_path: Path) -> None:
    async with living(tmp_path, FIRST) as house:
        await house.reload(FIRST + "log-level: debug\nipv6: true\n", base="")
        _, code = await socks5(house.port(), "127.0.0.1", house.port("second"))
        assert code == 2


async def test_changes_at_the_same_time_take_turns(tmp_path: Path, nursery: trio.Nursery) -> None:
    configs = [
        f"listeners: [{{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}, "
        f"{{name: number{n}, type: socks, listen: 127.0.0.1, port: 0}}]\nrules: ['MATCH,DIRECT']\n"
        for n in range(6)
    ]
    async with living(tmp_path, FIRST) as house:
        async with trio.open_nursery() as changes:
            for config in configs:
                changes.start_soon(house.reload, config)
        names = {str(entry["name"]) for entry in house.gateway._listeners.view()}
        assert len(names) == 2
        (number,) = (name for name in names if name != "mixed")
        assert number in {entry.name for entry in house.gateway.config.listeners}
        assert len(house.gateway._controls) == 1


async def test_a_change_survives_whoever_asked_for_it(tmp_path: Path) -> None:
    async with living(tmp_path, FIRST) as house:
        switch = house.gateway._switch

        async def interrupting(*given: object, **how: object) -> object:
            asking.cancel()
            return await switch(*given, **how)

        house.gateway._switch = interrupting
        with trio.CancelScope() as asking:
            await house.reload(SECOND)
        assert asking.cancelled_caught
        await until(lambda: any(entry["name"] == "third" for entry in house.gateway._listeners.view()))


async def test_a_choice_decides_at_once_and_outlives_restart_and_reload(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    hosts = FIRST.replace("echo.test", "chosen.test")
    async with living(tmp_path, hosts) as house:
        kept, code = await socks5(house.port(), "chosen.test", port)
        assert code == 0
        house.gateway.select("choice", "REJECT")
        _, code = await socks5(house.port(), "chosen.test", port)
        assert code == 2
        await kept.send_all(b"still here")
        assert await exactly(kept, 10) == b"still here"
        await house.reload(hosts + "log-level: debug\n")
        _, code = await socks5(house.port(), "chosen.test", port)
        assert code == 2
        await kept.aclose()
    async with living(tmp_path, hosts) as house:
        _, code = await socks5(house.port(), "chosen.test", port)
        assert code == 2
        house.gateway.select("choice", "DIRECT")
        stream, code = await socks5(house.port(), "chosen.test", port)
        assert code == 0
        await stream.aclose()


async def test_two_gateways_do_not_share_a_home(tmp_path: Path) -> None:
    async with living(tmp_path, FIRST):
        with pytest.raises(ConfigFault, match="another gateway"):
            async with living(tmp_path, FIRST):
                pass
    async with living(tmp_path, FIRST):
        pass


async def test_small_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    async with living(tmp_path, FIRST) as house:
        async with trio.open_nursery() as changes:
            for change in ({"mode": "direct"}, {"log-level": "debug"}, {"ipv6": False}):
                changes.start_soon(house.gateway.patch, change)
            changes.start_soon(house.reload, FIRST + "tcp-concurrent: true\n")
            changes.start_soon(house.gateway.patch, {"mode": "global"})
        config = house.gateway.config
        assert config.tcp_concurrent
        for _ in range(3):
            async with trio.open_nursery() as changes:
                changes.start_soon(house.gateway.patch, {"mode": "direct"})
                changes.start_soon(house.gateway.patch, {"log-level": "warning"})
                changes.start_soon(house.gateway.patch, {"ipv6": False})
            config = house.gateway.config
            assert (config.mode, config.log_level, config.ipv6) == ("direct", "warning", False)
            await house.gateway.patch({"mode": "rule", "log-level": "info", "ipv6": True})


async def test_a_reload_without_a_change_reads_the_files_again(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("payload: ['+.old.test']")
    config = """
rule-providers: {list: {type: file, behavior: domain, path: ./list.yaml}}
rules: ["RULE-SET,list,REJECT", "MATCH,DIRECT"]
"""
    async with living(tmp_path, config) as house:
        assert (await house.gateway.explain("x.old.test", 80)).index == 0
        (tmp_path / "list.yaml").write_text("payload: ['+.new.test']")
        await house.gateway.patch({"mode": "rule"})
        assert (await house.gateway.explain("x.old.test", 80)).index == 0
        await house.reload(config)
        assert (await house.gateway.explain("x.old.test", 80)).index == 1
        assert (await house.gateway.explain("x.new.test", 80)).index == 0

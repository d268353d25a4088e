"""What clients say first, and what comes of it: rules by name for flows that only had an address."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
from inprocess import dead_port, echo, exactly, living, only, serve, socks5, the_rest, until

CONFIG = """
hosts: {{sni.test: 127.0.0.8, forced.test: 127.0.0.1}}
sniffer:
  enable: true
  sniff:
    TLS: {{ports: ["1-65535"], override-destination: {override}}}
    HTTP: {{ports: ["1-65535"], override-destination: {override}}}
  force-domain: [forced.test]
  skip-domain: [skipped.test]
listeners:
  - {{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}}
rules:
  - DOMAIN,blocked.test,REJECT
  - DOMAIN,skipped.test,REJECT
  - DOMAIN-SUFFIX,slow.test,DIRECT
  - IP-CIDR,203.0.113.0/24,REJECT
  - MATCH,DIRECT
"""


def client_hello(host: str) -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def get(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.mark.parametrize("say", [client_hello, get])
async def test_the_name_a_client_says_decides_for_an_address(tmp_path: Path, nursery: trio.Nursery, say) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG.format(override="false")) as house:
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 0
        await stream.send_all(say("blocked.test"))
        assert await the_rest(stream) == b""
        assert house.tracker.totals() == (0, 0)
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        for byte in say("fine.test"):
            await stream.send_all(bytes([byte]))
        assert await exactly(stream, len(say("fine.test"))) == say("fine.test") or say is client_hello
        flow = only(house.tracker).flow
        assert (flow.sniff_host, flow.host, flow.dst_ip) == ("fine.test", "", "127.0.0.1")
        await stream.aclose()


async def test_override_dials_the_sniffed_name(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo, "127.0.0.8")
    async with living(tmp_path, CONFIG.format(override="true")) as house:
        stream, _ = await socks5(house.port(), "127.0.0.1", port)
        await stream.send_all(get("sni.test"))
        assert await exactly(stream, len(get("sni.test"))) == get("sni.test")
        assert only(house.gateway.connections()).remote == "127.0.0.8"
        await stream.aclose()


async def test_names_are_looked_at_only_when_forced_and_some_findings_are_skipped(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG.format(override="false")) as house:
        for host, said, through in (
            ("sni.test", "blocked.test", True),
            ("forced.test", "blocked.test", False),
            ("127.0.0.1", "skipped.test", True),
        ):
            to = port if host != "sni.test" else await serve(nursery, echo, "127.0.0.8")
            stream, _ = await socks5(house.port(), host, to)
            await stream.send_all(get(said))
            if through:
                assert await exactly(stream, 5) == b"GET /"
            else:
                assert await the_rest(stream) == b""
            await stream.aclose()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-me\r\n"])
async def test_whoever_says_nothing_known_is_carried_all_the_same(
    tmp_path: Path, nursery: trio.Nursery, said: bytes
) -> None:
    async def banner(stream: trio.SocketStream) -> None:
        await stream.send_all(b"welcome ")
        await echo(stream)

    port = await serve(nursery, banner)
    async with living(tmp_path, CONFIG.format(override="true")) as house:
        stream, _ = await socks5(house.port(), "127.0.0.1", port)
        if said:
            await stream.send_all(said)
        assert await exactly(stream, 8 + len(said)) == b"welcome " + said
        assert only(house.tracker).flow.sniff_host == ""
        await stream.aclose()


async def test_half_a_greeting_and_an_end_are_carried_too(tmp_path: Path, nursery: trio.Nursery) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG.format(override="true")) as house:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            stream, _ = await socks5(house.port(), "127.0.0.1", port)
            if said:
                await stream.send_all(said)
            await stream.send_eof()
            assert await the_rest(stream) == said
            await stream.aclose()


async def test_where_servers_speak_first_nobody_waits(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyfs_gateway.io.connection._SNIFF_SECONDS", 3600.0)
    with socket.create_server(("127.0.0.7", 2525)) as taken:
        taken.settimeout(10)
        async with living(tmp_path, CONFIG.format(override="true")) as house:
            _, code = await socks5(house.port(), "127.0.0.7", 2525)
            assert code == 0
            accepted, _ = await trio.to_thread.run_sync(taken.accept)
            accepted.close()


async def test_a_slow_resolver_outlasts_the_sniffers_patience(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sniffed name must be resolved for an IP rule; that takes longer than sniffing may."""
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG.format(override="false")) as house:
        resolving = trio.Event()

        async def resolve(host: str) -> tuple[str, ...]:
            resolving.set()
            await trio.sleep(1.2)
            return ("127.0.0.1",)

        house.engine.resolve = resolve
        stream, code = await socks5(house.port(), "forced.test", port)
        assert code == 0
        said = get("elsewhere.test")
        await stream.send_all(said)
        with trio.fail_after(60):
            await resolving.wait()
        assert await exactly(stream, len(said)) == said
        await stream.aclose()


async def test_a_refused_target_behind_the_sniffer_just_ends(tmp_path: Path) -> None:
    async with living(tmp_path, CONFIG.format(override="false")) as house:
        stream, code = await socks5(house.port(), "127.0.0.1", dead_port())
        assert code == 0
        await stream.send_all(get("x.test"))
        assert await the_rest(stream) == b""
        await until(lambda: not len(house.tracker))

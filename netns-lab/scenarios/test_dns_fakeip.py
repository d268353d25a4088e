"""The gateway as a LAN's name server and way out: programs that only know addresses go by rules that only know names.

Every name of ``.example`` is one and the same machine on the internet, so no address can tell them apart.  That machine
says from where it was asked: the box itself (DIRECT), the proxy, or the client, past the gateway.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trustme
from netnslab import Gateway, Host, Lab, need
from netnslab.nameserver import dig, dnsmasq
from netnslab.process import until
from netnslab.quic import ask_quic, quic_server
from netnslab.traffic import ask_udp, udp_echo

FAKE4, FAKE6 = "198.18.0.0/16", "fdfe:dcba:9876::/64"
ECHO, QUIC = 4433, 443


class Street:
    """``server`` and ``proxy`` on the internet, ``resolver`` knows the names; behind ``box`` two clients."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
        self.server, self.proxy, self.resolver = (
            lab.host(internet, name=name, addresses=2) for name in ("server", "proxy", "resolver")
        )
        lan = lab.network("192.168.1.0/24", "2001:db8:a::/64", uplink=internet, name="lan")
        assert lan.router is not None
        self.box: Host = lan.router
        self.client, self.other = (lab.host(lan, name=name) for name in ("client", "other"))
        self.at4, self.at6 = "192.168.1.1", "2001:db8:a::1"
        self.roots = trustme.CA()

    def config(
        self,
        *,
        mode: str = "fake-ip",
        listen: str = ":53",
        redirect: bool = False,
        real: str = "+.real.example",
        **more: Any,
    ) -> dict[str, Any]:
        lan = ["192.168.1.0/24", "2001:db8:a::/64", "127.0.0.0/8", "::1/128"]
        return {
            "allow-lan": True,
            "bind-address": "*",
            "ipv6": True,
            "log-level": "debug",
            "lan-allowed-ips": lan,
            "tproxy-port": 7893,
            "iptables": {"enable": True, "inbound-interface": ["lan"], "dns-redirect": redirect},
            "dns": {
                "enable": True,
                "listen": listen,
                "ipv6": True,
                "use-system-hosts": False,
                "nameserver": [self.resolver.ip],
                "enhanced-mode": mode,
                "fake-ip-range": "198.18.0.1/16",
                "fake-ip-range6": "fdfe:dcba:9876::1/64",
                "fake-ip-filter": [real],
            },
            "proxies": [{"name": "far", "type": "socks5", "server": self.proxy.ip, "port": 1080, "udp": True}],
            "rules": [
                "DOMAIN-SUFFIX,direct.example,DIRECT",
                "DOMAIN-SUFFIX,proxied.example,far",
                "DOMAIN-SUFFIX,forbidden.example,REJECT",
                "DOMAIN-SUFFIX,real.example,far",
                "MATCH,DIRECT",
            ],
            **more,
        }

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """All but the gateway on the box."""
        async with self.lab.up(), trio.open_nursery() as nursery:
            await self._serve(nursery)
            addresses = (f"--address=/example/{self.server.ip}", f"--address=/example/{self.server.ip6}")
            dnsmasq(self.resolver, *addresses, "--mx-host=direct.example,mail.example,10")
            await self.resolver.wait_for_port(53)
            self.proxy.resolve_with(self.resolver.ip)
            for client in (self.client, self.other):
                client.resolve_with(self.at4, self.at6)
            socks = {"socks-port": 1080, "allow-lan": True, "lan-allowed-ips": ["198.51.100.0/24"], "ipv6": True}
            async with self.proxy.gateway({**socks, "bind-address": "*", "rules": ["MATCH,DIRECT"]}):
                yield
            nursery.cancel_scope.cancel()

    async def _serve(self, nursery: trio.Nursery) -> None:
        home = self.lab.directory / "nginx"
        home.mkdir()
        (home / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; user root; pid {home}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;\n"
            f"fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n"
            'server { listen 80; listen [::]:80; location / { return 200 "$host $remote_addr"; } } }\n'
        )
        self.server.start("nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr")
        certificate = self.roots.issue_cert("*.direct.example", "*.proxied.example", "*.real.example")
        for ip in self.server.addresses:
            await nursery.start(udp_echo, self.server, ip, ECHO)
            await nursery.start(quic_server, self.server, ip, QUIC, certificate)
        await self.server.wait_for_port(80)

    @contextlib.asynccontextmanager
    async def gateway(self, config: dict[str, Any], *, ends: bool = False) -> AsyncIterator[Gateway]:
        """It is killed in the end, unless how it ``ends`` is looked at: it waits until fake addresses are forgotten."""
        async with self.box.gateway(config, home=self.lab.directory / "box.home") as gateway:
            yield gateway
            if not ends:
                await gateway.kill()


@pytest.fixture
def street(lab):
    need("dig", "dnsmasq", "nginx")
    return Street(lab)


async def curl(client: Host, name: str, *options: str) -> str:
    """What nginx said of who asked for which name; an empty string when nothing came."""
    url = f"http://{f'[{name}]' if ':' in name else name}/"
    return (await client.run("curl", "-sS", "-m", "8", *options, url, check=False)).out


async def address(client: Host, name: str, server: str, rtype: str = "A") -> str:
    (found,) = (await dig(client, server, name, rtype)).data
    return found


async def converse(client: Host, ip: str, turns: int = 5) -> list[bytes]:
    """Datagrams of QUIC's size to a UDP server and its answers, all of one conversation."""
    answers = []
    with await client.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.connect((ip, ECHO))
        for turn in range(turns):
            data = bytes([turn]) * 1200
            heard = b""
            with trio.fail_after(60):
                while not heard.endswith(data):
                    with trio.move_on_after(1):
                        await sock.send(data)
                        heard = await sock.recv(65536)
            answers.append(heard.removesuffix(b"|" + data))
    return answers


async def test_a_lan_browses_by_the_names_it_asked_for(street):
    box, proxy = street.box, street.proxy
    async with street.alive(), street.gateway(street.config(), ends=True) as gateway:
        for client in (street.client, street.other):
            for option in ("-4", "-6"):
                name, _, by = (await curl(client, "www.direct.example", option)).partition(" ")
                assert (name, by in box.addresses) == ("www.direct.example", True), by
                name, _, by = (await curl(client, "www.proxied.example", option)).partition(" ")
                assert (name, by in proxy.addresses) == ("www.proxied.example", True), by
                assert await curl(client, "www.forbidden.example", option) == ""
            for rtype in ("A", "AAAA"):
                direct, proxied, forbidden = [
                    await address(client, f"udp.{name}.example", street.at4, rtype)
                    for name in ("direct", "proxied", "forbidden")
                ]
                assert set(await converse(client, direct)) <= {own.encode() for own in box.addresses}
                assert set(await converse(client, proxied)) <= {own.encode() for own in proxy.addresses}
                assert await ask_udp(client, (forbidden, ECHO), b"x", timeout=0.3) is None
        connections = (await gateway.api("/connections"))["connections"]
        hosts = {each["metadata"]["host"] for each in connections if each["metadata"]["network"] == "udp"}
        assert hosts >= {"udp.direct.example", "udp.proxied.example"}


async def quic(street: Street, client: Host, ip: str, name: str, *, timeout: float = 10.0) -> str:
    """Who a real QUIC server was asked by; an empty string when it was not.  That it is ``name`` is proven."""
    answer = await ask_quic(client, (ip, QUIC), name, b"x" * 20_000, street.roots, timeout=timeout)
    by, _, said = (answer or b"").partition(b"|")
    assert said in (b"", b"x" * 20_000)
    return by.decode()


@pytest.mark.parametrize("sniffs", [False, True], ids=["by the address", "with a sniffer"])
async def test_quic_goes_by_the_names(street, sniffs):
    box, proxy, client = street.box, street.proxy, street.client
    sniffer = {"enable": True, "parse-pure-ip": True, "sniff": {"QUIC": {"ports": [QUIC]}}}
    async with street.alive(), street.gateway(street.config(**({"sniffer": sniffer} if sniffs else {}))) as gateway:
        for rtype, real in (("A", street.server.ip), ("AAAA", street.server.ip6)):
            for name, others in (("q.direct.example", box.addresses), ("q.proxied.example", proxy.addresses)):
                fake = await address(client, name, street.at4, rtype)
                assert await quic(street, client, fake, name) in others
                if sniffs:
                    assert await quic(street, client, real, name) in others, (
                        "nobody asked for a name, but the hello says"
                    )
            forbidden = await address(client, "q.forbidden.example", street.at4, rtype)
            assert await quic(street, client, forbidden, "q.direct.example", timeout=1.0) == ""
            unknown = "198.18.77.77" if rtype == "A" else "fdfe:dcba:9876::7777"
            by = await quic(street, client, unknown, "q.proxied.example", timeout=10.0 if sniffs else 1.0)
            assert by in (proxy.addresses if sniffs else ("",)), "a fake address that was forgotten"
        connections = (await gateway.api("/connections"))["connections"]
        hosts = {each["metadata"]["host"] for each in connections if each["metadata"]["destinationPort"] == str(QUIC)}
        assert hosts == {"q.direct.example", "q.proxied.example"}


async def test_streams_by_redirect_and_datagrams_by_tproxy(street):
    box, proxy, client = street.box, street.proxy, street.client
    async with street.alive(), street.gateway(street.config(**{"redir-port": 7892})) as gateway:
        for rtype, option, family in (("A", "-4", socket.AF_INET), ("AAAA", "-6", socket.AF_INET6)):
            name, _, by = (await curl(client, "www.direct.example", option)).partition(" ")
            assert (name, by in box.addresses) == ("www.direct.example", True), by
            name, _, by = (await curl(client, "www.proxied.example", option)).partition(" ")
            assert (name, by in proxy.addresses) == ("www.proxied.example", True), by
            assert await curl(client, "www.forbidden.example", option) == ""
            fake = await address(client, "q.proxied.example", street.at4, rtype)
            assert await quic(street, client, fake, "q.proxied.example") in proxy.addresses
            with await client.socket(family, socket.SOCK_STREAM) as sock:
                await sock.connect((fake, 80))
                await sock.send(b"GET / HTTP/1.0\r\n")

                async def both() -> bool:
                    known = [each["metadata"] for each in (await gateway.api("/connections"))["connections"]]
                    ways = {(each["type"], each["network"], each["host"]) for each in known}
                    wanted = {(kind, net, "q.proxied.example") for kind, net in (("Redir", "tcp"), ("TProxy", "udp"))}
                    return wanted <= ways

                await until("each came in by its own way", both)
        assert await curl(client, "198.18.77.77") == "", "nobody was told of this address"
        assert await curl(client, "fdfe:dcba:9876::7777") == ""


async def test_a_client_without_ipv4(street):
    box, proxy, client = street.box, street.proxy, street.client
    async with street.alive(), street.gateway(street.config()):
        await client.run("ip", "-4", "address", "flush", "dev", "eth0")
        client.resolve_with(street.at6)
        assert (await curl(client, "www.direct.example")).split()[-1] in box.addresses
        assert (await curl(client, "www.proxied.example")).split()[-1] in proxy.addresses
        assert await curl(client, "www.forbidden.example") == ""
        fake = await address(client, "q.proxied.example", street.at6, "AAAA")
        assert ipaddress.ip_address(fake) in ipaddress.ip_network(FAKE6)
        assert await quic(street, client, fake, "q.proxied.example") in proxy.addresses
        assert set(await converse(client, fake)) <= {own.encode() for own in proxy.addresses}


async def test_one_socket_talks_to_many_names(street):
    client = street.client
    async with street.alive(), street.gateway(street.config()):
        by = {"direct": street.box, "proxied": street.proxy}
        for rtype, family in (("A", socket.AF_INET), ("AAAA", socket.AF_INET6)):
            names = [f"{number}.{kind}.example" for kind in by for number in (1, 2, 3)]
            fakes = {await address(client, name, street.at4, rtype): name for name in names}
            heard: dict[str, bytes] = {}
            with await client.socket(family, socket.SOCK_DGRAM) as sock, trio.fail_after(60):
                while len(heard) < len(fakes):
                    for ip in fakes.keys() - heard.keys():
                        await sock.sendto(fakes[ip].encode(), (ip, ECHO))
                    with trio.move_on_after(1):
                        while len(heard) < len(fakes):
                            data, source = await sock.recvfrom(65536)
                            heard[source[0]] = data
            for ip, name in fakes.items():
                seen, _, said = heard[ip].partition(b"|")
                assert said == name.encode(), "the answer comes from whom the question went to"
                assert seen.decode() in by[name.split(".")[1]].addresses


async def test_which_questions_get_fake_addresses(street):
    client, server = street.client, street.server
    async with street.alive(), street.gateway(street.config()):
        for at in (street.at4, street.at6):
            for option in ("+notcp", "+tcp"):
                for rtype, prefix in (("A", FAKE4), ("AAAA", FAKE6)):
                    answer = await dig(client, at, "www.direct.example", rtype, option)
                    (record,) = answer.records
                    assert ipaddress.ip_address(record.data) in ipaddress.ip_network(prefix)
                    assert record.ttl == 1
                https = await dig(client, at, "www.direct.example", "HTTPS", option)
                assert (https.status, https.records) == ("NOERROR", ())
                assert (await dig(client, at, "direct.example", "MX", option)).data == ["10 mail.example."]
        assert await address(client, "www.real.example", street.at4) == server.ip
        assert await address(client, "www.real.example", street.at4, "AAAA") == server.ip6
        name, _, by = (await curl(client, "www.real.example")).partition(" ")
        assert name == "www.real.example"
        assert by in street.proxy.addresses, "whose address it was is known all the same"
        assert await curl(client, "198.18.77.77") == "", "nobody was told of this address"
        assert await curl(client, "fdfe:dcba:9876::7777") == ""
        assert await ask_udp(client, ("198.18.77.77", ECHO), b"x", timeout=0.3) is None


async def test_fake_addresses_outlive_a_kill(street):
    client = street.client
    async with street.alive():
        async with street.gateway(street.config()) as gateway:
            known = {
                (name, rtype): await address(client, f"{name}.direct.example", street.at4, rtype)
                for name in ("one", "two", "three")
                for rtype in ("A", "AAAA")
            }
            assert len(set(known.values())) == 6
            await gateway.kill()
        async with street.gateway(street.config()) as gateway:
            for (name, _), ip in known.items():
                heard = await curl(client, ip, "-H", f"Host: {name}")
                assert heard.split()[-1] in street.box.addresses, "who had asked before goes on"
            await gateway.kill()
        async with street.gateway(street.config()):
            fresh = await address(client, "zero.direct.example", street.at4)
            assert fresh not in known.values()
            for (name, rtype), ip in known.items():
                assert await address(client, f"{name}.direct.example", street.at6, rtype) == ip


async def test_a_new_configuration_forgets_no_fake_address(street):
    client, server = street.client, street.server
    async with street.alive(), street.gateway(street.config()) as gateway:
        fake = await address(client, "www.direct.example", street.at4)

        async def told(what: str, name: str = "www.direct.example") -> None:
            async def heard() -> bool:
                return await address(client, name, street.at4) == what

            await until(f"the answer is {what}", heard)

        gateway.reload(street.config(real="+.direct.example"))
        await told(server.ip)
        assert (await curl(client, fake)).split()[-1] in street.box.addresses, "who was told before goes on"
        gateway.reload(street.config(mode="redir-host"))
        await told(server.ip, "www.proxied.example")
        gateway.reload(street.config())
        await told(fake)
        assert (await curl(client, fake)).split()[-1] in street.box.addresses
        assert await gateway.stop() == 0


async def test_real_addresses_that_are_remembered_by_name(street):
    client, server = street.client, street.server
    async with street.alive(), street.gateway(street.config(mode="redir-host")):
        for name, rtype, ip in (("forbidden", "A", server.ip), ("forbidden", "AAAA", server.ip6)):
            assert await address(client, f"{name}.example", street.at4, rtype) == ip
        assert await curl(client, server.ip) == ""
        assert await curl(client, server.ip6) == ""
        for option in ("-4", "-6"):
            assert (await curl(client, "direct.example", option)).split()[-1] in street.box.addresses
            assert (await curl(client, "proxied.example", option)).split()[-1] in street.proxy.addresses
            assert await curl(client, "forbidden.example", option) == ""


async def test_questions_to_others_are_answered_here(street):
    client = street.client
    async with street.alive():
        client.resolve_with("203.0.113.53", "2001:db8:f::53")
        async with street.gateway(street.config(listen=":1053", redirect=True)):
            for at in ("203.0.113.53", "2001:db8:f::53", street.at4, street.at6):
                for option in ("+notcp", "+tcp"):
                    found = (await dig(client, at, "www.direct.example", "A", option)).data
                    assert len(found) == 1, f"{at} {option}"
                    assert ipaddress.ip_address(found[0]) in ipaddress.ip_network(FAKE4)
            assert (await curl(client, "www.direct.example")).split()[-1] in street.box.addresses

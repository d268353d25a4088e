"""``cyfs-ns serve`` in the place of dnsmasq: a router's name server for a LAN of three clients, on good and bad days.

Upstream are three addresses of a resolver that speaks DNS over TLS alone (its names found by a bootstrap server) and a
company's server for the company's names.  The clients' programs find the router in their resolv.conf.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import pytest
import trio
from netnslab import HOME, Host, Lab, need
from netnslab.nameserver import NameServer, Tls, dig, dnsmasq, name_server, unbound
from netnslab.process import until
from netnslab.traffic import dhcp_lease, http_server

STALE, BLOCKED = 3, 15  # codes of extended errors
BRIEF = "brief.example"


class House:
    """``internet`` with ``resolver``, ``web`` and ``company``; behind ``router`` the clients."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
        self.resolver = lab.host(internet, name="resolver", addresses=3)
        self.web = lab.host(internet, name="web", addresses=2)
        self.company = lab.host(internet, name="company")
        lan = lab.network("192.168.1.0/24", "2001:db8:a::/64", uplink=internet, nat=HOME, name="lan")
        assert lan.router is not None
        self.router: Host = lan.router
        self.laptop, self.child, self.television = (lab.host(lan, name=name) for name in ("laptop", "child", "tv"))
        self.at4, self.at6 = "192.168.1.1", "2001:db8:a::1"

    @property
    def clients(self) -> tuple[Host, ...]:
        return self.laptop, self.child, self.television

    @property
    def leases(self) -> Path:
        return self.lab.directory / "dnsmasq.leases"

    async def ask(self, client: Host, name: str, rtype: str = "A", *options: str) -> list[str]:
        return (await dig(client, self.at4, name, rtype, *options)).data

    async def is_served(self, server: str) -> None:
        """Wait until a client has answers at this address, by every door."""
        words = ("kdig", f"@{server}", "+short", "+time=1", "+retry=0", "www.example")
        for door in ("+notcp", "+tcp", "+tls", "+https"):

            async def answers(door: str = door) -> bool:
                return (await self.laptop.run(*words, door, check=False)).out.split() == [self.web.addresses[1]]

            await until(f"{server} answers {door}", answers)

    async def config(self, **more: Any) -> dict[str, Any]:
        blocked = self.lab.directory / "blocked.txt"
        blocked.write_text("0.0.0.0 ads.example\n0.0.0.0 games.example\n")
        return {
            "dns": {
                "enable": True,
                "listen": ":53",
                "listen-tls": ":853",
                "listen-https": ":443",
                "interfaces": ["lan", "lo"],
                "ipv6": True,
                "use-system-hosts": False,
                "default-nameserver": [self.resolver.ip],
                "nameserver": [f"tls://{name}.dns.example" for name in ("one", "two", "three")],
                "servers": [f"/corp.example/{self.company.ip}"],
                "cache": {"stale-wait": "300ms"},
                "domain": "home.example",
                "lease-files": [str(self.leases)],
                "lists": {"blocked": {"path": str(blocked), "format": "hosts"}},
                "clients": [
                    {"name": "laptop", "match": [await self.laptop.mac()], "allow": ["games.example"]},
                    {"name": "tv", "match": [self.television.ip], "lists": []},
                ],
                "nftset": ["/shop.example/4#inet#firewall#shop4,6#inet#firewall#shop6"],
                **more,
            }
        }

    def lease(self, host: Host, mac: str, name: str) -> None:
        """As dnsmasq does: the whole file, every time."""
        text = self.leases.read_text() if self.leases.exists() else ""
        self.leases.write_text(f"{text}{int(time.time()) + 3600} {mac} {host.ip} {name} *\n")

    async def firewall(self) -> None:
        """The shop can be reached by way of its sets alone; who tries without is counted."""
        four, six = self.web.ip, self.web.ip6
        rules = f"""table inet firewall {{
            set shop4 {{ type ipv4_addr; flags timeout; }}
            set shop6 {{ type ipv6_addr; flags timeout; }}
            counter accepted {{ }}
            counter refused {{ }}
            chain forward {{
                type filter hook forward priority 0; policy accept;
                iifname lan ip daddr @shop4 tcp flags syn counter name accepted accept
                iifname lan ip6 daddr @shop6 tcp flags syn counter name accepted accept
                iifname lan ip daddr @shop4 accept
                iifname lan ip6 daddr @shop6 accept
                iifname lan ip daddr {four} counter name refused reject
                iifname lan ip6 daddr {six} counter name refused reject
            }}
        }}"""
        await self.router.run("nft", "-f", "-", stdin=rules)

    async def default_route(self) -> None:
        """As a provider gives one."""
        for version, ip in (("-4", self.web.ip), ("-6", self.web.ip6)):
            await self.router.run("ip", version, "route", "replace", "default", "via", ip)

    async def swallow(self, *addresses: str) -> None:
        """The resolver hears nothing at these addresses any more, and nobody is told."""
        rules = "add table ip hole\nadd chain ip hole input { type filter hook input priority 0; }\n"
        rules += f"add rule ip hole input ip daddr {{ {', '.join(addresses)} }} drop\n"
        await self.resolver.run("nft", "-f", "-", stdin=rules)

    async def counted(self, name: str, *, table: str = "firewall") -> int:
        text = (await self.router.run("nft", "list", "counter", "inet", table, name)).out
        return int(text.split("packets ")[1].split()[0])

    async def internet(self, nursery: trio.Nursery) -> dict[str, str]:
        """Start all servers; returns the environment of programs that trust the resolver."""
        tls = Tls(self.lab.directory)
        names = [f"{name}.dns.example" for name in ("one", "two", "three")]
        four = self.resolver.addresses[:3]
        lines = [f"interface: {ip}@853" for ip in self.resolver.addresses]
        lines += [f"interface: {four[0]}@53", f'tls-service-pem: "{tls.certificate(*names)}"']
        lines += [f'tls-service-key: "{tls.certificate(*names)}"', 'local-zone: "." static']
        records = [f"{name}. 60 A {ip}" for name, ip in zip(names, four, strict=True)]
        records += [f"shop.example. 60 A {self.web.ip}", f"shop.example. 60 AAAA {self.web.ip6}"]
        records += [f"{name}.example. 600 A {self.web.addresses[1]}" for name in ("www", "ads", "games", "new")]
        records += [f"www.example. 600 AAAA {self.web.addresses[3]}", f"{BRIEF}. 1 A {self.web.ip}"]
        records += ["leak.corp.example. 600 A 203.0.113.1"]
        lines += [f'local-data: "{record}"' for record in records]
        lines += [f"local-data: 'big.example. 600 TXT \"{number:0200}\"'" for number in range(20)]
        lines += ['local-zone: "many.example" redirect', 'local-data: "many.example. 600 A 203.0.113.9"']
        await unbound(self.resolver, self.lab.directory, "\n".join(lines), wait_for=(853, four[0]))
        self.books = dnsmasq(self.company, "--log-queries", "--address=/wiki.corp.example/10.9.8.7")
        await self.company.wait_for_port(53)
        for ip in self.web.addresses:
            await nursery.start(http_server, self.web, ip, 80)
        return tls.environment

    @contextlib.asynccontextmanager
    async def lived_in(self, **more: Any) -> AsyncIterator[NameServer]:
        """Everything up: servers, firewall, the router's name server; clients configured to use it."""
        async with self.lab.up(), trio.open_nursery() as nursery:
            self.environment = await self.internet(nursery)
            await self.firewall()
            await self.default_route()
            for client in self.clients:
                client.resolve_with(self.at4, self.at6)
            self.lease(self.laptop, await self.laptop.mac(), "laptop")
            async with self.name_server(await self.config(**more)) as server:
                yield server
            nursery.cancel_scope.cancel()

    def name_server(self, config: dict[str, Any]) -> contextlib.AbstractAsyncContextManager[NameServer]:
        return name_server(self.router, config, self.lab.directory / "router.ns", env=self.environment)


@pytest.fixture
def house(lab):
    need("dig", "kdig", "dnsmasq", "unbound")
    return House(lab)


async def curl(client: Host, name: str, *options: str) -> str:
    return (await client.run("curl", "-sS", "-m", "8", *options, f"http://{name}/", check=False)).out


async def test_everybody_asks_over_every_door(house):
    www4, www6 = house.web.addresses[1], house.web.addresses[3]
    async with house.lived_in():
        for client in house.clients:
            for server in (house.at4, house.at6):
                for options in ((), ("+tcp",)):
                    assert (await dig(client, server, "www.example", "A", *options)).data == [www4]
                    assert (await dig(client, server, "www.example", "AAAA", *options)).data == [www6]
            assert (await dig(client, house.at4, "nowhere.example")).status == "NXDOMAIN"
            assert await curl(client, "www.example", "-4") == house.router.ip
            assert await curl(client, "www.example", "-6") == client.ip6
        for option in ("+tls", "+https"):
            for server in (house.at4, house.at6):
                for rtype, ip in (("A", www4), ("AAAA", www6)):
                    said = await house.laptop.run("kdig", f"@{server}", option, "+short", "www.example", rtype)
                    assert said.out.split() == [ip]
        big = await dig(house.laptop, house.at4, "big.example", "TXT")
        assert len(big.data) == 20
        assert "Truncated" in big.text, "over UDP first, then whole over TCP"


async def test_the_house_is_served_and_strangers_are_not(house):
    async with house.lived_in(interfaces=[]):
        links = json.loads((await house.router.run("ip", "-j", "-6", "address", "show", "dev", "lan")).out)
        (local,) = [one["local"] for link in links for one in link.get("addr_info", []) if one["scope"] == "link"]
        for client in house.clients:
            for at in (house.at4, house.at6, f"{local}%eth0", house.router.ip, house.router.ip6):
                for option in ("+notcp", "+tcp"):
                    answer = await dig(client, at, "www.example", "A", option)
                    assert answer.data == [house.web.addresses[1]], f"{client.name} at {at}\n{answer.text}"
        assert (await dig(house.laptop, f"{local}%eth0", "games.example")).data == [house.web.addresses[1]], "by MAC"
        assert (await dig(house.child, f"{local}%eth0", "games.example")).data != [house.web.addresses[1]]
        for at in (house.router.ip6, house.at6):
            for option in ("+notcp", "+tcp"):
                assert (await dig(house.web, at, "www.example", "A", option)).status == "REFUSED"


async def test_leases_lists_and_split_names(house):
    laptop, child, television = house.clients
    async with house.lived_in():
        assert await house.ask(child, "laptop.home.example") == [laptop.ip]
        assert await house.ask(child, "laptop") == [laptop.ip]
        assert (await dig(child, house.at4, "tv.home.example")).status == "NXDOMAIN"
        house.lease(television, await television.mac(), "tv")

        async def learned() -> bool:
            return await house.ask(child, "tv.home.example") == [television.ip]

        await until("the new lease has a name", learned)
        assert (await dig(child, house.at4, "tv")).data == [television.ip]
        reverse = ".".join(reversed(television.ip.split("."))) + ".in-addr.arpa"
        assert await house.ask(child, reverse, "PTR") == ["tv.home.example."]

        real = [house.web.addresses[1]]
        for name, who_may in (("ads.example", {television}), ("games.example", {television, laptop})):
            for client in house.clients:
                got = await house.ask(client, name)
                assert (got == real) is (client in who_may), (client.name, name, got)
        for server in (house.at4, house.at6):
            assert (await dig(laptop, server, "games.example")).data == real, "by its MAC, whatever its address"

        assert await house.ask(child, "wiki.corp.example") == ["10.9.8.7"]
        assert await house.ask(child, "leak.corp.example") == [], "only the company is asked"
        asked = [line.lower() for line in house.books.text().splitlines() if "query[A]" in line]
        assert asked
        assert all("corp.example from" in line for line in asked), "nothing else leaves for there"


async def test_leases_of_a_dhcp_server_at_work(house):
    async with house.lived_in():
        pool = ("--dhcp-range=192.168.1.100,192.168.1.150,1h", f"--dhcp-leasefile={house.leases}", "--no-ping")
        dnsmasq(house.router, "--port=0", "--interface=lan", "--dhcp-authoritative", *pool)
        for number, name in enumerate(("phone", "printer")):
            ip = await dhcp_lease(house.laptop, f"02:00:00:00:00:{number:02x}", name)

            async def known(name: str = name, ip: str = ip) -> bool:
                return await house.ask(house.child, f"{name}.home.example") == [ip]

            await until(f"{name} has its name", known)
            reverse = ".".join(reversed(ip.split("."))) + ".in-addr.arpa"
            assert await house.ask(house.child, reverse, "PTR") == [f"{name}.home.example."]
        assert await house.ask(house.child, "laptop.home.example") == [house.laptop.ip], "from before"


async def test_it_tells_why(house):
    async with house.lived_in() as server:

        async def why(name: str, client: Host) -> str:
            return await server.ask("explain", name, "--client", client.ip)

        for client in house.clients:
            await house.ask(client, "www.example")  # the kernel learns their MAC addresses
        assert "blocked" in await why("games.example", house.child)
        for client in (house.laptop, house.television):
            said = await why("games.example", client)
            assert house.web.addresses[1] in said, said
            assert client.name in said, "the rules of this client"
        assert "dns.example" in await why("new.example", house.child), "the upstream that was asked"
        assert house.company.ip in await why("wiki.corp.example", house.child)
        assert "shop4" in await why("shop.example", house.child)
        said = await why("laptop.home.example", house.child)
        assert house.laptop.ip in said
        assert "lease" in said, said


async def test_sets_of_the_firewall_are_filled_before_the_answer(house):
    async with house.lived_in():
        assert await curl(house.laptop, house.web.ip) == "", "without a name there is no way"
        refused = await house.counted("refused")
        assert refused
        for client in house.clients:
            assert await curl(client, "shop.example", "-4") == house.router.ip
            assert await curl(client, "shop.example", "-6") == client.ip6
        assert await house.counted("refused") == refused, "not one packet came too early"
        assert await house.counted("accepted") == 2 * len(house.clients)
        await house.router.run("nft", "flush", "set", "inet", "firewall", "shop4")
        assert await curl(house.child, "shop.example", "-4") == house.router.ip, "its sets were emptied"
        assert await house.counted("refused") == refused
        await house.router.run("nft", "delete", "table", "inet", "firewall")
        await house.firewall()
        for option in ("-4", "-6"):
            assert await curl(house.child, "shop.example", option), "it was loaded anew"
        assert await house.counted("refused") == 0


async def test_the_mark_of_a_client_goes_on_its_questions(house):
    async with house.lived_in(connmark=True, nameserver=[house.resolver.ip]):
        rules = f"""table inet marks {{
            counter marked {{ }}
            chain in {{
                type filter hook prerouting priority mangle; policy accept;
                iifname lan ip saddr {house.television.ip} udp dport 53 ct mark set 7
            }}
            chain out {{
                type filter hook output priority filter; policy accept;
                oifname wan udp dport 53 meta mark 7 counter name marked
            }}
        }}"""
        await house.router.run("nft", "-f", "-", stdin=rules)

        async def marked() -> int:
            return await house.counted("marked", table="marks")

        assert await house.ask(house.child, "1.many.example")
        assert await marked() == 0
        assert await house.ask(house.television, "2.many.example")
        assert await marked()


async def test_the_way_out_goes_and_comes_back(house):
    async with house.lived_in() as server:
        first = await dig(house.laptop, house.at4, BRIEF)
        fresh = first.data
        assert fresh == [house.web.ip], first.text
        await house.router.unplug("wan")

        async def stale() -> bool:
            answer = await dig(house.laptop, house.at4, BRIEF)
            assert answer.data == fresh, answer.text
            return STALE in answer.extended

        await until("the old answer serves", stale)
        await server.process.says("no way out by IPv4")
        assert (await dig(house.laptop, house.at4, "laptop.home.example")).data == [house.laptop.ip]
        assert (await dig(house.child, house.at4, "new.example")).status == "SERVFAIL"
        await house.router.plug_in("wan")

        async def back() -> bool:
            answer = await dig(house.laptop, house.at4, BRIEF)
            return not answer.extended and answer.data == fresh

        await until("answers are fresh again", back)

        async def new() -> bool:
            return await house.ask(house.child, "new.example") == [house.web.addresses[1]]

        await until("names never asked before have answers", new)
        await house.router.renew("wan")
        await house.default_route()

        async def again() -> bool:
            return await house.ask(house.television, "ads.example") == [house.web.addresses[1]]

        await until("and after a new dial-in", again)
        assert server.process.code is None


async def test_nobody_answers_for_a_while(house):
    async with house.lived_in() as server:
        fresh = (await dig(house.laptop, house.at4, BRIEF)).data
        await house.swallow(*house.resolver.addresses[:3])

        async def stale() -> bool:
            answer = await dig(house.laptop, house.at4, BRIEF)
            assert answer.data == fresh, answer.text
            return STALE in answer.extended

        await until("the old answer serves", stale)
        await server.process.says("no server answers")
        await house.resolver.run("nft", "delete", "table", "ip", "hole")
        numbers = itertools.count()

        async def back() -> bool:
            await house.ask(house.child, f"{next(numbers)}.many.example")  # life goes on elsewhere
            answer = await dig(house.laptop, house.at4, BRIEF)
            return not answer.extended and answer.data == fresh

        await until("the first answer of all brings the others back", back)


async def test_a_killed_server_comes_back_with_what_it_knew(house):
    async with house.lived_in() as server:
        known = await house.ask(house.laptop, "www.example")
        await server.stop()
        await house.router.unplug("wan")
        for _ in range(2):
            async with house.name_server(await house.config()) as server:
                answer = await dig(house.laptop, house.at4, "www.example")
                assert (answer.data, answer.extended) == (known, ()), answer.text
                assert await house.ask(house.child, "laptop.home.example") == [house.laptop.ip]
                assert await house.ask(house.child, "ads.example") != known, "blocked from the first question on"
                await server.kill()


async def test_the_interface_is_made_anew(house):
    async with house.lived_in():
        assert await house.ask(house.laptop, "www.example")
        await house.router.renew("lan")

        for server in (house.at4, house.at6):
            await house.is_served(server)


async def test_the_interface_comes_later(house):
    router = house.router
    async with house.lived_in() as server:
        await server.stop()
        for words in ("set lan down", "set lan name later"):
            await router.run("ip", "link", *words.split())
        async with house.name_server(await house.config()):
            for words in ("set later name lan", "set lan up"):
                await router.run("ip", "link", *words.split())
            await house.is_served(house.at4)


async def test_a_new_configuration_and_an_open_connection(house):
    async with house.lived_in() as server:
        with await house.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            await sock.connect((house.at4, 53))
            assert await over(sock, "www.example") == house.web.addresses[1]
            assert await over(sock, "nas.home.example") == ""
            server.reload(await house.config(records=["nas.home.example A 192.168.1.77"]))

            async def changed() -> bool:
                return await over(sock, "nas.home.example") == "192.168.1.77"

            await until("the open connection hears the new answer", changed)
            server.reload({"dns": {"enable": True, "listen": "nonsense"}})
            await server.process.says("what was there stays")
            assert await over(sock, "nas.home.example") == "192.168.1.77"
        assert await house.ask(house.child, "laptop.home.example") == [house.laptop.ip]


async def over(sock: trio.socket.SocketType, name: str) -> str:
    """The first address a question over an open TCP connection brings."""
    query = dns.message.make_query(name, "A").to_wire()
    await sock.send(len(query).to_bytes(2) + query)
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
        more = await sock.recv(65536)
        assert more, "the server hung up"
        data += more
    answer = dns.message.from_wire(data[2:])
    found = [rdata.to_text() for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A for rdata in rrset]
    return found[0] if found else ""


async def test_one_of_three_upstreams_swallows_everything(house):
    async with house.lived_in():
        assert await house.ask(house.laptop, "0.many.example") == ["203.0.113.9"]
        await house.swallow(house.resolver.addresses[0])
        for number in range(1, 31):
            answer = await dig(house.clients[number % 3], house.at4, f"{number}.many.example")
            assert answer.data == ["203.0.113.9"], f"question {number}\n{answer.text}"

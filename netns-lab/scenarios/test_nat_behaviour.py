"""What our STUN client concludes about a router is what the router was built to do, whoever serves."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import trio
from netnslab import (
    FULL_CONE,
    HAIRPIN,
    HOME,
    ONE_TO_ONE,
    PER_ADDRESS,
    POOL,
    PORT_RESTRICTED,
    PREDICTABLE,
    RESTRICTED,
    SYMMETRIC,
    Host,
    Nat,
)
from netnslab.plugin import need
from netnslab.process import until

from rtcp.io.nat.stun import behaviour
from rtcp.nat.behaviour import Dependence, NatBehaviour, Patience, Scope, StunServer
from rtcp.nat.stun import HostPort

PORTS = (3478, 3479)
PATIENCE = Patience(first=0.25, times=4, last=2)
UNGUARDED = Nat(
    name="unguarded",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules="""table ip nat {
        chain pre { type nat hook prerouting priority dstnat; }
        chain post { type nat hook postrouting priority srcnat; oif "wan" masquerade; }
    }""",
)
"""HOME without its guard: the datagrams it keeps out are remembered all the same."""
BLOCKED = Nat(
    name="blocked",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules=f"""{HOME.rules}
    table ip block {{
        chain forward {{ type filter hook forward priority 0; udp dport != 53 drop;
        }}
    }}""",
)
NATS = (HOME, FULL_CONE, RESTRICTED, PORT_RESTRICTED, SYMMETRIC, PREDICTABLE, PER_ADDRESS, POOL, HAIRPIN, ONE_TO_ONE)
WORDS = {
    "EIM": Dependence.ENDPOINT_INDEPENDENT,
    "EIF": Dependence.ENDPOINT_INDEPENDENT,
    "ADM": Dependence.ADDRESS,
    "ADF": Dependence.ADDRESS,
    "APDM": Dependence.ADDRESS_AND_PORT,
    "APDF": Dependence.ADDRESS_AND_PORT,
}

_OURS = "import sys, trio; from rtcp.io.nat.stunserver import serve_stun; trio.run(serve_stun, sys.argv[1:], {ports})"


def serve(server: Host, who: str) -> None:
    """Start a STUN server on two addresses and two ports."""
    ips = [ip for ip in server.addresses if ":" not in ip]
    if who == "ours":
        server.start(sys.executable, "-c", _OURS.format(ports=PORTS), *ips, name="stun")
        return
    listening = [word for ip in ips for word in ("-L", ip)]
    server.start(
        *("turnserver", "-n", "--stun-only", *listening, "-p", str(PORTS[0]), "--alt-listening-port", str(PORTS[1])),
        *("--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"),
        *("--pidfile", "/dev/null", "--userdb", ":memory:"),
    )


@pytest.mark.parametrize("who", ["ours", "coturn"])
async def test_every_router_is_seen_through(lab, who):
    if who == "coturn":
        need("turnserver")
    internet = lab.network("198.51.100.0/24", "2001:db8:1::/64", name="internet")
    server = lab.host(internet, name="server", addresses=2)
    open_host = lab.host(internet, name="open")
    nats = (*NATS, UNGUARDED, BLOCKED)
    homes = {nat.name: lab.network("192.168.1.0/24", uplink=internet, nat=nat, name=nat.name) for nat in nats}
    hosts = {name: lab.host(home) for name, home in homes.items()}
    carrier = lab.network("100.64.0.0/24", uplink=internet, nat=SYMMETRIC, name="carrier")
    hosts["mobile"] = lab.host(carrier)
    hosts["open"] = open_host
    servers = [StunServer(HostPort(server.ip, PORTS[0]))]
    told: dict[str, NatBehaviour] = {}

    async def tell(name: str) -> None:
        # A router that means one port for two of our sockets cuts one of them off, and then it is tried again.
        for _ in range(3):
            told[name] = await hosts[name].call(partial(trio.run, partial(behaviour, servers, patience=PATIENCE)))
            if told[name].blocked.value or (told[name].mapping.value and told[name].filtering.value):
                break

    async with lab.up():
        serve(server, who)

        async def answers() -> bool:
            await tell("open")
            return told["open"].blocked.value is False

        await until("the server answers", answers, timeout=30)
        async with trio.open_nursery() as telling:
            for name in hosts:
                telling.start_soon(tell, name)

    for nat in (*NATS, UNGUARDED):
        seen = told[nat.name]
        assert seen.translated.value is True, nat.name
        assert seen.mapping.value is WORDS[nat.mapping], (nat.name, seen.mapping.why)
        assert seen.filtering.value is WORDS[nat.filtering], (nat.name, seen.filtering.why)
        assert seen.port_kept.value is nat.port_kept, (nat.name, seen.port_kept.why)
        assert seen.hairpin.value is nat.hairpin, (nat.name, seen.hairpin.why)
        assert {place.host for place in seen.seen} == {homes[nat.name].router.ip}
        if seen.mapping.value is not Dependence.ENDPOINT_INDEPENDENT:
            assert seen.ports.value.step == (1 if nat is PREDICTABLE else 0), seen.ports.why
        elif seen.filtering.value is not Dependence.ENDPOINT_INDEPENDENT:
            assert seen.spoilt.value is (nat is UNGUARDED), (nat.name, seen.spoilt.why)
    assert told[BLOCKED.name].blocked.value is True
    assert told["open"].translated.value is False
    assert (told["mobile"].scope.value, told["mobile"].seen_scope.value) == (Scope.CARRIER, Scope.PUBLIC)
    assert told["mobile"].ports.value.step == 0

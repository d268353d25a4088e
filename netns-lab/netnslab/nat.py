"""NAT behaviours as values: what a router is, in RFC 4787's words, and the nft rules that make a kernel behave so.

Mapping says when a new external port appears: EIM never, ADM for another destination address, APDM for another address
or port.  Filtering says who may answer: EIF anybody, ADF addresses we wrote to, APDF exactly (address, port) pairs we
wrote to.  Every value states its behaviour, and a scenario measures that the rules keep the promise.

Rules know the interfaces ``wan`` and ``lan`` and the words WANIP and LANIP (the router's address outside, and the first
host's inside).  Things the kernel taught: the empty prerouting chain is needed, else replies are not translated back;
without a guard an unsolicited packet occupies a port in conntrack and turns a home router into a symmetric one, and the
router refuses a SYN that comes too early, which RFC 5382 forbids;
``update`` must stand before ``snat``.  IPv6 is routed, never translated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "FIREWALL6",
    "FULL_CONE",
    "HAIRPIN",
    "HOME",
    "NO_UDP",
    "ONE_TO_ONE",
    "PER_ADDRESS",
    "POOL",
    "PORT_RESTRICTED",
    "PREDICTABLE",
    "RESTRICTED",
    "SYMMETRIC",
    "TOUCHY",
    "WEB_ONLY",
    "Nat",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """One kind of router."""

    name: str
    mapping: Literal["EIM", "ADM", "APDM"]
    filtering: Literal["EIF", "ADF", "APDF"]
    port_kept: bool
    """The external port equals the internal one while it is free."""
    hairpin: bool = False
    """Two hosts inside can meet on their external addresses."""
    rules: str = field(repr=False)

    def ruleset(self, wan_ip: str, lan_ip: str) -> str:
        """Text for ``nft -f``; ``lan_ip`` matters to one-to-one NAT alone."""
        return self.rules.replace("WANIP", wan_ip).replace("LANIP", lan_ip)


def _nat(pre: str, post: str, extra: str = "", before: str = "") -> str:
    return f"""{before}
table ip nat {{
    {extra}
    chain pre {{ type nat hook prerouting priority dstnat; policy accept; {pre}
    }}
    chain post {{ type nat hook postrouting priority srcnat; policy accept; {post}
    }}
}}"""


def _forward(rules: str, sets: str = "") -> str:
    return f"""table ip filter {{
    {sets}
    chain forward {{ type filter hook forward priority filter; policy accept; {rules}
    }}
}}"""


_GUARD = """table ip guard {
    chain input { type filter hook input priority -10; iif "wan" ct state new drop;
    }
}"""

_CONE_MAP = (
    "map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }"
)
_CONE_IN = 'iif "wan" meta l4proto udp dnat ip to udp dport map @cone;'
_CONE_OUT = """
        oif "wan" meta l4proto udp update @cone { udp sport timeout 300s : ip saddr . udp sport }
        oif "wan" snat to WANIP;"""
_ANSWERS = 'iif "wan" ct state established,related accept; iif "wan" drop;'
_SEEN = "set seen { type ipv4_addr . ipv4_addr; flags dynamic,timeout; timeout 300s; size 65536; }"
_SEEN_RULES = 'oif "wan" update @seen { ip saddr . ip daddr }; iif "wan" ip daddr . ip saddr @seen accept; ' + _ANSWERS
_PORTS = 1000


def _ports_from_20000(key: str) -> str:
    choices = ", ".join(f"{n} : WANIP . {20000 + n}" for n in range(_PORTS))
    return f'oif "wan" meta l4proto udp snat ip to {key} mod {_PORTS} map {{ {choices} }}; oif "wan" masquerade;'


HOME = Nat(
    name="home",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules=_nat("", 'oif "wan" masquerade;', before=_GUARD),
)
"""The ordinary Linux home router."""

FULL_CONE = Nat(
    name="full-cone",
    mapping="EIM",
    filtering="EIF",
    port_kept=True,
    rules=_nat(_CONE_IN, _CONE_OUT, _CONE_MAP, before=_GUARD),
)

RESTRICTED = Nat(
    name="restricted",
    mapping="EIM",
    filtering="ADF",
    port_kept=True,
    rules=_nat(_CONE_IN, _CONE_OUT, _CONE_MAP, before=_GUARD + "\n" + _forward(_SEEN_RULES, _SEEN)),
)

PORT_RESTRICTED = Nat(
    name="port-restricted",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules=_nat(_CONE_IN, _CONE_OUT, _CONE_MAP, before=_GUARD + "\n" + _forward(_ANSWERS)),
)
"""As HOME, but by an explicit map: unsolicited packets never disturb it."""

TOUCHY = Nat(name="touchy", mapping="EIM", filtering="APDF", port_kept=True, rules=_nat("", 'oif "wan" masquerade;'))
"""As HOME, but unguarded: a packet that comes in unasked takes its port, the answer to it leaves from another one."""

SYMMETRIC = Nat(
    name="symmetric",
    mapping="APDM",
    filtering="APDF",
    port_kept=False,
    rules=_nat("", 'oif "wan" masquerade random;', before=_GUARD),
)
"""A new random port for every destination: the hard one."""

PREDICTABLE = Nat(
    name="predictable",
    mapping="APDM",
    filtering="APDF",
    port_kept=False,
    rules=_nat("", _ports_from_20000("numgen inc"), before=_GUARD),
)
"""A new port for every destination, each one above the last."""

PER_ADDRESS = Nat(
    name="per-address",
    mapping="ADM",
    filtering="APDF",
    port_kept=False,
    rules=_nat("", _ports_from_20000("jhash ip saddr . udp sport . ip daddr"), before=_GUARD),
)

POOL = Nat(
    name="pool",
    mapping="EIM",
    filtering="APDF",
    port_kept=False,
    rules=_nat(
        "", 'oif "wan" meta l4proto { tcp, udp } snat to WANIP:20000-20999; oif "wan" masquerade;', before=_GUARD
    ),
)
"""Ports come from a small pool, as with a carrier that gives each subscriber a block."""

HAIRPIN = Nat(
    name="hairpin",
    mapping="EIM",
    filtering="EIF",
    port_kept=True,
    hairpin=True,
    rules=_nat(
        f'{_CONE_IN} iif "lan" ip daddr WANIP meta mark set 1 meta l4proto udp dnat ip to udp dport map @cone;',
        f'{_CONE_OUT} oif "lan" meta mark 1 snat to WANIP;',
        _CONE_MAP,
    ),
)

FIREWALL6 = Nat(
    name="firewall6",
    mapping="APDM",
    filtering="APDF",
    port_kept=False,
    rules=_nat("", 'oif "wan" masquerade random;', before=_GUARD)
    + """
table ip6 filter {
    chain forward { type filter hook forward priority filter; iif "wan" ct state established,related accept;
        iif "wan" meta l4proto != icmpv6 drop;
    }
}""",
)
"""IPv4 as SYMMETRIC; IPv6 is routed, but only answers come in."""

NO_UDP = Nat(
    name="no-udp",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules=_nat(
        "", 'oif "wan" masquerade;', before=_GUARD + "\n" + _forward(_ANSWERS + ' oif "wan" meta l4proto udp drop;')
    ),
)
"""A network that lets TCP out and nothing else."""

WEB_ONLY = Nat(
    name="web-only",
    mapping="EIM",
    filtering="APDF",
    port_kept=True,
    rules=_nat(
        "",
        'oif "wan" masquerade;',
        before=_GUARD + "\n" + _forward(_ANSWERS + ' oif "wan" tcp dport { 80, 443 } accept; oif "wan" drop;'),
    ),
)
"""A company's network: TCP to ports 80 and 443, and nothing else."""

ONE_TO_ONE = Nat(
    name="one-to-one",
    mapping="EIM",
    filtering="EIF",
    port_kept=True,
    rules=_nat('iif "wan" dnat to LANIP;', 'oif "wan" snat to WANIP;'),
)
"""A cloud machine's public address."""

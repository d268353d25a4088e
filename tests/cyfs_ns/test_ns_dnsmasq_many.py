"""Assorted questions to the real dnsmasq and to us, about one large configuration: a rule says why we may differ.

Compared are the return code and the answer section, TTLs included as far as they are the house's.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import dns.reversename
import pytest
from dnsmasqpair import Client, Upstream, shown, told_by_both
from nsprogram import upstream

from tests.freeport import free_port

pytestmark = pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq")

COUNT = 1_500
SEED = 5
UPSTREAM_TTL = 300
WORLD = [f"* {UPSTREAM_TTL} {data}" for data in ("A 9.8.7.6", 'TXT "text"', "MX 5 mail.example.", "AAAA 2620:fe::9")]
OTHER = [f"* {UPSTREAM_TTL} A 203.0.113.2", f"* {UPSTREAM_TTL} AAAA 2001:db8::2"]
LABELS = ["nas", "www", "pbx", "tv", "a", "b", "x-ray", "n0", "deep", "x", "ax", "bax"]
ENDS = ["lan", "home.example", "corp.example", "ads.example", "pool.example", "sub.lan", "guest.lan", "example"]
TYPES = ["A"] * 3 + ["AAAA"] * 2 + ["TXT", "MX", "SRV", "CNAME", "PTR", "CAA", "NAPTR", "NS", "HTTPS", "TYPE65280"]
PATTERNS = re.compile(r"(^|\.)(pool|null\.ads)\.example$|x\.ads\.example$|\.below\.ads\.example$")
PRIVATE = re.compile(r"(168\.192|\.10)\.in-addr\.arpa$|d\.f\.ip6\.arpa$")
FIXED = """\
domain=lan
expand-hosts
local=/lan/
bogus-priv
domain-needed
addn-hosts={tmp}/hosts
address=/pool.example/10.9.9.9
address=/deep.pool.example/10.9.9.8
address=/*x.ads.example/10.9.9.7
address=/null.ads.example/#
address=/gone.ads.example/
address=/*.below.ads.example/10.9.9.6
server=/corp.example/127.0.0.1#{other}
server=/deep.corp.example/#
server=/*tv.home.example/127.0.0.1#{other}
server=/sub.lan/127.0.0.1#{other}
local=/nobody.home.example/
synth-domain=lan,192.168.3.0/24,dhcp-
synth-domain=guest.lan,192.168.4.50,192.168.4.70,seq-*
"""
USUAL = (
    "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nlocal-ttl=60\nserver=127.0.0.1#{up}\n"
)

Told = tuple[str, list[str]]


class Written(NamedTuple):
    """A configuration, and what is known of it."""

    lines: list[str]
    hosts: list[str]
    owners: list[str]
    """Every name that something is written of."""
    addressed: set[str]
    aliases: dict[str, str]

    def last(self, name: str) -> str:
        """Where the aliases of ``name`` lead in the house."""
        for _ in self.aliases:
            name = self.aliases.get(name, name)
        return name


def ip4(dice: random.Random) -> str:
    return f"192.168.{dice.randint(1, 4)}.{dice.randint(1, 254)}"


def ip6(dice: random.Random) -> str:
    return f"fd00::{dice.randint(1, 0xFFF):x}"


def some_name(dice: random.Random) -> str:
    return ".".join([*dice.choices(LABELS, k=dice.randint(1, 2)), dice.choice(ENDS)])


def written(dice: random.Random) -> Written:
    found = Written([], [], [], set(), {})
    for _ in range(40):
        name = some_name(dice)
        addresses = dice.choice([ip4(dice), ip6(dice), f"{ip4(dice)},{ip6(dice)}"])
        found.lines.append(f"host-record={name},{addresses}{dice.choice(['', '', ',100'])}")
        found.addressed.add(name)
    for _ in range(40):
        plain = f"{dice.choice(LABELS)}{dice.randint(1, 9)}"
        found.hosts.append(f"{ip4(dice) if dice.random() < 0.7 else ip6(dice)} {plain} {plain}-alias")
        found.addressed.update((plain, f"{plain}.lan", f"{plain}-alias", f"{plain}-alias.lan"))
    targets = sorted(name for name in found.addressed if name.endswith(".example"))
    for number in range(20):
        alias, target = f"c{number}.{dice.choice(ENDS)}", dice.choice(targets)
        found.lines.append(f"cname={alias},{target}{dice.choice(['', ',77'])}")
        found.aliases[alias] = target
        targets.append(alias)
    others = [
        *(f'txt-record={some_name(dice)},"v=spf1 a..b, -all", x {number}' for number in range(15)),
        *(f"srv-host=_s{number}._tcp.{dice.choice(ENDS)},{some_name(dice)},{number + 1},2,3" for number in range(8)),
        *(f"mx-host={some_name(dice)},{some_name(dice)},{number}" for number in range(8)),
        *(f"caa-record={some_name(dice)},0,issue,ca.example" for _ in range(4)),
        *(f"dns-rr={some_name(dice)},65280,01:02:03" for _ in range(4)),
        *(f"naptr-record={some_name(dice)},1,2,u,E2U+sip,!^..*$!sip:a@b!" for _ in range(4)),
    ]
    found.lines.extend(others)
    found.owners.extend(
        sorted({*found.addressed, *found.aliases, *(line[line.index("=") + 1 :].split(",")[0] for line in others)})
    )
    return found


def questions(dice: random.Random, house: Written) -> Iterator[str]:
    while True:
        below = dice.choice(["null.ads.example", "gone.ads.example", "below.ads.example", "nobody.home.example", *ENDS])
        name = dice.choice([
            dice.choice(house.owners),
            dice.choice(house.owners),
            f"{dice.choice(LABELS)}.{dice.choice(house.owners)}",
            dice.choice(house.owners).partition(".")[2] or dice.choice(LABELS),
            f"{'.'.join(dice.choices(LABELS, k=dice.randint(1, 3)))}.{below}",
            dns.reversename.from_address(dice.choice([ip4, ip6])(dice)).to_text(omit_final_dot=True),
            f"dhcp-192-168-3-{dice.randint(0, 300)}.lan",
            f"seq-{dice.randint(0, 25)}.guest.lan",
        ])  # fmt: skip
        rtype = "PTR" if name.endswith(".arpa") and dice.random() < 0.8 else dice.choice(TYPES)
        yield f"{name} {rtype}"


# The rules: what we say otherwise than dnsmasq, and why.

Rule = Callable[[Written, str, str, Told, Told], bool]


def other_family(house: Written, name: str, rtype: str, theirs: Told, ours: Told) -> bool:
    """What is written of a name's addresses is all there is; dnsmasq asks upstream for the other family."""
    told = house.last(name)
    fixed = told in house.addressed or PATTERNS.search(told) is not None
    return fixed and rtype in ("A", "AAAA") and ours[0] == "NOERROR" and not any(f" {rtype} " in one for one in ours[1])


def private_reverse(house: Written, name: str, rtype: str, theirs: Told, ours: Told) -> bool:
    """Whatever is asked of the names of private addresses stays here, with dnsmasq PTR alone."""
    return PRIVATE.search(name) is not None and rtype != "PTR" and theirs[0] == "NOERROR" and not ours[1]


def known_otherwise(house: Written, name: str, rtype: str, theirs: Told, ours: Told) -> bool:
    """A name that something is written of, or of a name below it, exists."""
    below = any(f".{owner}".endswith(f".{name}") for owner in house.owners)
    return below and (theirs, ours) == (("NXDOMAIN", []), ("NOERROR", []))


def led_on(house: Written, name: str, rtype: str, theirs: Told, ours: Told) -> bool:
    """Aliases are followed out of the house, too."""
    return name in house.aliases and theirs[0] == ours[0] and set(theirs[1]) < set(ours[1])


def by_its_cache(house: Written, name: str, rtype: str, theirs: Told, ours: Told) -> bool:
    """That a plain name exists dnsmasq also concludes from what happens to be in its cache."""
    return "." not in name and (theirs, ours) == (("NOERROR", []), ("NXDOMAIN", []))


RULES: dict[str, Rule] = {
    "the other family": other_family,
    "private addresses": private_reverse,
    "known otherwise": known_otherwise,
    "led on": led_on,
    "by its cache": by_its_cache,
}


def aged(told: Told) -> Told:
    """Without the TTLs of what came from upstream, which has aged."""
    return told[0], sorted(re.sub(r" (2[0-9][0-9]|300) ", " upstream ", record, count=1) for record in told[1])


def test_assorted_questions_about_a_large_configuration(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    house = written(dice)
    source = questions(dice, house)
    asked = [next(source) for _ in range(COUNT)]
    (tmp_path / "hosts").write_text("\n".join(house.hosts))
    config, port = tmp_path / "same.conf", free_port()
    with upstream(Upstream(WORLD)) as up, upstream(Upstream(OTHER)) as other:
        lines = USUAL + FIXED + "\n".join(house.lines) + "\n"
        for name, value in {"tmp": tmp_path, "port": port, "up": up, "other": other}.items():
            lines = lines.replace(f"{{{name}}}", str(value))
        config.write_text(lines)

        def listen(client: Client) -> list[Told]:
            return [aged(shown(client.ask(question, 10))) for question in asked]

        theirs, ours = told_by_both(config, port, listen)
    used: Counter[str] = Counter()
    unexplained = []
    for question, their, our in zip(asked, theirs, ours, strict=True):
        name, rtype = question.split()
        if their != our:
            rule = next((rule for rule, holds in RULES.items() if holds(house, name, rtype, their, our)), "")
            used[rule] += 1
            unexplained += [] if rule else [f"{question}: {their} {our}"]
    assert unexplained == [], used
    assert set(RULES) - set(used) <= {"by its cache"}, "a rule that excuses nothing"

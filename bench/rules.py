"""How long rules take: compiling and asking 100,000 mixed rules, ten rules, and loading a set of a million domains.

Run ``.venv/bin/python bench/rules.py [--json]``.  The domain sets load in a process of their own, whose whole resident
memory is given: after loading, and at its highest.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cyfs_gateway.flow import Flow
from cyfs_gateway.rules.formats import parse_rule_set
from cyfs_gateway.rules.model import Need
from cyfs_gateway.rules.parse import parse_rule
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.sets import CidrSet, DomainSet
from tests.cyfs_gateway.rules.mrs_writer import domain_mrs

MIX = {
    "DOMAIN-SUFFIX": 40_000,
    "DOMAIN": 25_000,
    "IP-CIDR": 20_000,
    "IP-CIDR6": 3_000,
    "DOMAIN-KEYWORD": 3_000,
    "AND": 3_000,
    "DST-PORT": 1_500,
    "SRC-IP-CIDR": 1_500,
    "PROCESS-NAME": 1_000,
    "DOMAIN-WILDCARD": 900,
    "GEOIP": 100,
    "IP-ASN": 500,
    "DOMAIN-REGEX": 300,
    "OR": 180,
    "NOT": 20,
}
FLOWS = 20_000
DOMAINS = 1_000_000


class NoGeo:
    """A geo database that knows nothing."""

    def country(self, ip: str) -> Sequence[str]:
        return ("zz",)

    def country_set(self, code: str) -> CidrSet | None:
        return None

    def asn(self, ip: str) -> str:
        return "64496"

    def site(self, category: str) -> DomainSet:
        return DomainSet(())


def names(dice: random.Random, count: int) -> list[str]:
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(4, 12))) for _ in range(60_000)]
    tops = ("com", "net", "org", "cn", "io", "co.uk", "de")
    pick = dice.choice
    return [f"{pick(words)}{pick(words)[:4]}.{pick(words)}.{pick(tops)}" for _ in range(count)]


def rule_lines(dice: random.Random) -> list[str]:
    hosts = iter(names(dice, 100_000))
    lines = []
    for word, count in MIX.items():
        for _ in range(count):
            host, port = next(hosts), dice.randrange(1, 60_000)
            v4 = f"{dice.randrange(1, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.0/{dice.randrange(12, 30)}"
            payload = {
                "DOMAIN": host,
                "DOMAIN-SUFFIX": host.partition(".")[2],
                "DOMAIN-KEYWORD": host.partition(".")[0] + str(port),
                "DOMAIN-WILDCARD": f"*-{port}.{host}",
                "DOMAIN-REGEX": rf"^(ad|ads|track)[0-9]*\.{host}$",
                "IP-CIDR": v4,
                "IP-CIDR6": f"2001:{dice.randrange(1 << 16):x}:{dice.randrange(1 << 16):x}::/{dice.randrange(40, 64)}",
                "SRC-IP-CIDR": v4,
                "DST-PORT": f"{port}/{port}-{port + dice.randrange(3)}",
                "PROCESS-NAME": host.partition(".")[0],
                "GEOIP": host[:2].upper(),
                "IP-ASN": str(port),
                "AND": f"((NETWORK,UDP),(DOMAIN-SUFFIX,{host}))",
                "OR": f"((DOMAIN,{host}),(DOMAIN-KEYWORD,{host[:9]}{port}))",
                "NOT": "((SRC-PORT,1-65535))",
            }[word]
            lines.append(f"{word},{payload},proxy-{port % 20}")
    dice.shuffle(lines)
    return [*lines, "MATCH,proxy-0"]


def flows(dice: random.Random, lines: list[str]) -> list[Flow]:
    known = [line.split(",")[1] for line in lines if line.startswith(("DOMAIN,", "DOMAIN-SUFFIX,"))]
    out = []
    for at, host in enumerate(names(dice, FLOWS)):
        ip = f"{dice.randrange(1, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"
        out.append(
            Flow(
                network=dice.choice(("tcp", "tcp", "udp")),
                kind="Socks5",
                src_ip="192.168.1.20",
                src_port=dice.randrange(1024, 65536),
                host=("" if at % 5 == 0 else "www." + dice.choice(known) if at % 2 else "cdn.static." + host),
                dst_ip=ip,
                dst_port=dice.choice((80, 443, 443, 53, 22)),
            )
        )
    return out


def ask(table: RuleTable, asked: list[Flow]) -> dict[str, float]:
    """Microseconds for a whole verdict, questions answered with "unknown" included."""
    took = []
    for flow in asked:
        start = time.perf_counter_ns()
        verdict = table.match(flow)
        while type(verdict) is Need:
            verdict = table.match(flow, verdict.at, True, True)
        took.append((time.perf_counter_ns() - start) / 1000)
    took.sort()
    return {"p50_us": statistics.median(took), "p99_us": took[len(took) * 99 // 100], "max_us": took[-1]}


def compiled(lines: list[str]) -> tuple[RuleTable, float]:
    start = time.perf_counter()
    table = RuleTable.compile([parse_rule(line) for line in lines], sub_rules={}, sets={}, geo=NoGeo())
    return table, time.perf_counter() - start


def load(path: str, format: str, probes: list[str], answer: Any) -> None:
    """Load a set in this process and tell what it cost."""
    start = time.perf_counter()
    found = parse_rule_set(Path(path).read_bytes(), "domain", format)  # type: ignore[arg-type]
    took = time.perf_counter() - start
    assert found.domains is not None
    start = time.perf_counter()
    for host in probes:
        found.domains.match(host)
    each = (time.perf_counter() - start) / len(probes) * 1e6
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rss, peak = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    answer.send({"load_s": took, "rss_mb": rss, "peak_rss_mb": peak, "lookup_us": each, "entries": found.count})


def loaded(path: Path, format: str, probes: list[str]) -> dict[str, float]:
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=load, args=(str(path), format, probes, sender))
    child.start()
    sender.close()
    answer: dict[str, float] = receiver.recv()
    child.join()
    return answer


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json = arguments.parse_args().json
    dice = random.Random(1)
    lines = rule_lines(dice)
    table, took = compiled(lines)
    asked = flows(dice, lines)
    gc.freeze()
    result: dict[str, dict[str, float]] = {f"{len(lines):,} mixed rules": {"compile_s": took, **ask(table, asked)}}
    small = [*(lines[at] for at in range(9)), "MATCH,DIRECT"]
    result["10 rules"] = dict(ask(compiled(small)[0], asked))
    million = names(dice, DOMAINS)
    probes = [*million[:: DOMAINS // 5000], *names(dice, 5000)]
    with tempfile.TemporaryDirectory() as folder:
        for format, content in (
            ("text", "\n".join(million).encode()),
            ("yaml", ("payload:\n" + "".join(f"  - '+.{name}'\n" for name in million)).encode()),
            ("mrs", domain_mrs(million)),
        ):
            path = Path(folder, format)
            path.write_bytes(content)
            result[f"{DOMAINS:,} domains, {format}"] = loaded(path, format, probes)
    if as_json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(f"{name:28}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()

"""What it costs to know who somebody is: signatures, documents, normal forms of names, and libraries loaded for them.

Run ``.venv/bin/python bench/names.py [--json]``.  Memory and imports are measured in processes of their own, so that
nothing is there already; times are the medians of batches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.token import Token
from cyfs_ns.io.trusted.providers import TheName, ThisMachine, WhatWasKept
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Found
from cyfs_ns.trust.plan import Ask
from cyfs_ns.trust.weigh import weigh
from tests.cyfs_ns.identity.identities import ALICE, HOME, NAS, NOW, boot, device, mini, secret

BATCHES, OWNERS = 9, 100
ASCII = ("alice.eth", "sub.some-longer-name.eth", "vitalik.eth", "0xdeadbeef.cb.id")
FOREIGN = (
    "Füße.eth",
    "παράδειγμα.eth",
    "пример.eth",
    "日本語.eth",
    "مثال.eth",
    "👩‍👩‍👧‍👦.eth",
    "한국어.eth",
    "नमस्ते.eth",
)
HEAVY = frozenset({"web3", "eth_utils", "eth_abi", "eth_hash", "eth_typing", "requests", "aiohttp", "pydantic"})
PIN = Pin(about=HOME, key=ALICE.public, source="bench", at=0)


def each(work: Callable[[], int]) -> float:
    """Seconds for one of as many pieces as ``work`` says it has done."""
    took = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        done = work()
        took.append((time.perf_counter() - began) / done)
    return statistics.median(took)


def through(calls: Iterable[Callable[[], object]], times: int = 1) -> Callable[[], int]:
    """Work that makes all of ``calls``, so many times."""
    listed = list(calls) * times

    def work() -> int:
        for call in listed:
            call()
        return len(listed)

    return work


def documents() -> dict[str, dict[str, float]]:
    """Signatures of many owners, one document checked as a whole, and all that a device has, weighed."""
    signed = [(key, boot(key, "ood1")) for key in map(secret, range(10, 10 + OWNERS))]
    assert all(token.verify(key.public) for key, token in signed)
    bare = each(through((lambda key=key, token=token: token.verify(key.public)) for key, token in signed))
    one = device("ood1", NAS, ALICE)
    whole = each(through([lambda: verify(one, DeviceDoc.kind, ALICE.public, NOW)], OWNERS))
    tokens = [boot(ALICE, "ood1:192.0.2.7@wan"), mini("ood1", NAS, ALICE), one]
    claims, anchors = [_found(token) for token in tokens], Anchors([PIN])
    assert len(weigh(claims, anchors, NOW).accepted) == len(tokens)
    weighing = each(through([lambda: weigh(claims, anchors, NOW)], OWNERS // 4))
    return {
        "signature": {"check_us": bare * 1e6},
        "device document": {"signature, reading and rules_us": whole * 1e6},
        "three documents of a device": {"weigh_ms": weighing * 1e3},
    }


def _found(token: Token, about: Did = HOME) -> Claim:
    fact = Evidence(trust=Trust.PLAIN_DNS, what="published", source="dns", at=NOW, until=NOW + 600)
    return Claim(about=about, kind="token", value=token, evidence=fact)


def memory() -> dict[str, dict[str, float]]:
    """A resolution that is remembered, asked for again."""

    async def ask(home: Path) -> float:
        store = TrustStore(home)
        store.pin(PIN)
        names = TrustedNames(
            [TheName(lambda: NOW), ThisMachine(store), WhatWasKept(store, lambda: float(NOW))],
            store,
            wall=lambda: float(NOW),
        )
        question, took = Ask(subject=HOME), []
        assert isinstance(await names.resolve(question), Found)
        for _ in range(BATCHES):
            began = time.perf_counter()
            for _ in range(2000):
                await names.resolve(question)
            took.append((time.perf_counter() - began) / 2000)
        return statistics.median(took)

    with tempfile.TemporaryDirectory() as home:
        return {"known identity": {"resolve from memory_us": trio.run(ask, Path(home)) * 1e6}}


def _rss_mb() -> tuple[float, float]:
    """Resident now, and at its highest, in MB (10^6 bytes)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, highest = (int(status[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
    return now, highest


def normalisation(answer: Any) -> None:
    """Code and tables for the normal forms of names, in this process."""
    before, _ = _rss_mb()
    normalise = importlib.import_module("cyfs_ns.ens.normalise").normalise
    for name in FOREIGN:
        normalise(name)
    after, highest = _rss_mb()
    plain = each(through([lambda name=name: normalise(name) for name in ASCII], 2000))
    foreign = each(through([lambda name=name: normalise(name) for name in FOREIGN], 20))
    answer.send(
        {
            "normal forms": {"memory_mb": after - before, "memory at its highest_mb": highest - before},
            "ASCII name": {"normalise_us": plain * 1e6},
            "name beyond ASCII": {"normalise_us": foreign * 1e6},
        }
    )


def chain(answer: Any) -> None:
    """What a process has loaded before anybody asked for a chain name, and what the first one costs."""
    for module in ("cyfs_ns.io.cli", "cyfs_gateway.io.cli"):
        importlib.import_module(module)
    provider = importlib.import_module("cyfs_ns.io.trusted.ensprovider")
    nodes = importlib.import_module("cyfs_ns.io.trusted.chain")
    config = nodes.ChainConfig(endpoints=("https://rpc.example",))
    provider.EnsProvider(provider.EnsConfig(nodes=config))
    at_start = sum(name.partition(".")[0] in HEAVY for name in sys.modules)
    before, _ = _rss_mb()
    began = time.perf_counter()
    nodes._provider("https://rpc.example", config)
    took = time.perf_counter() - began
    after, _ = _rss_mb()
    loaded = {"loaded at start_modules": at_start, "first chain name_ms": took * 1e3, "memory then_mb": after - before}
    answer.send({"web3": loaded})


def apart(work: Callable[[Any], None]) -> dict[str, dict[str, float]]:
    """What ``work`` tells, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=work, args=(sender,))
    child.start()
    sender.close()
    told: dict[str, dict[str, float]] = receiver.recv()
    child.join()
    return told


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    as_json = arguments.parse_args().json
    result = documents() | memory() | apart(normalisation) | apart(chain)
    if as_json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(f"{name:28}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()

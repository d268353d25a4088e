"""Race the gateway against the programs people use today, on this machine, now.

    .venv/bin/python bench/run.py                                   everything, about twenty minutes
    .venv/bin/python bench/run.py --quick                           everything, shorter and noisier
    .venv/bin/python bench/run.py --only connrate --rivals ours,haproxy --seconds 2 --rounds 1
    .venv/bin/python bench/run.py --write-docs                      and keep the result in docs/benchmarks.md

Figures and ratios are printed beside their targets and nothing is asserted: a busy machine proves nothing.  Absent
rivals are left out, with a word on how to install them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import dns
import ingress
import measures
import report
import sncrowd
import snrace
import snstreams
import stage
import tunnelrace
import tunnelrivals
from dns import DnsPlan
from dnsrivals import NAME_SERVERS, NameServer
from measures import RACES, Plan
from rivals import HELPERS, OURS, RIVALS, Rival
from rounds import MOST, Allowance

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
NAMES = [*RACES, "crowd", "start", "rules", "names", "zone-plan", *tunnelrace.MEASURES]
NAMES += [*snrace.MEASURES, *snstreams.MEASURES, *ingress.MEASURES, *sncrowd.MEASURES, *dns.MEASURES]
_EVERYBODY = (*(r.name for r in RIVALS), *(s.name for s in NAME_SERVERS), *tunnelrivals.NAMES, "coturn", "direct")
WHO = list(dict.fromkeys(_EVERYBODY))

NOTES = """
* *CPU* is the time (user and system) that the contestant itself spent on one GB, connection or request, and *of its
  CPU* the share of its processor it kept busy.  Well below 100 %, the load or the upstream was the limit, and the
  rates of two such contestants say little about which is faster; compare their CPU then.
* *by CPU time* is the ratio of the work done in a second of the contestants' own CPU time.  A target above what
  *direct* reaches cannot show in the rate, whoever races; then this is the column to read.
* A round is disturbed when others, that is processes outside the race and the hypervisor (steal), took more than a
  tenth of a CPU meanwhile.  Everybody then goes round once more, up to twice the turns that were planned and as long as
  all this takes no more than half the time of the planned turns; the calm rounds count.  Where those are too few, the
  calmest rounds count, as many as were planned, and *disturbed* marks the row.  What a round reached takes no part in
  this.  Measures that are not taken in rounds against others (memory, starts, crowds, floods) are as they came.
* *direct* is the load talking to the upstream with nobody between: the ceiling of this machine for that measure.  Both
  ends share one CPU then as in every race.
* The load and the upstream of all races but `requests-http` are `bench/load.c`.  A connection of `connrate` is:
  connect, (SOCKS5 handshake,) 64 bytes there, 64 bytes back, end of stream from the upstream, close.  The upstream
  closes first, so that TIME_WAIT stays on listening ports and nobody runs out of ephemeral ports; only orderly closes,
  no resets.  The sink of `bulk` throws bytes away in the kernel; relay and source pay their copies.
* HAProxy runs in TCP mode with `nbthread 1` and `splice-auto`, sing-box as packaged with its `direct` inbound for
  forwards, microsocks as packaged (a thread for each connection), nginx with one worker.
* Programs with rules have 100 foreign suffixes, then `localhost` and 127.0.0.0/8 direct, then a refusal.
* Name servers (`dns-...`) have one upstream, `bench/dnsload.c`, whose answer tells the name, so that a wrong answer is
  seen; each is filled and checked before its first round.  *direct* is that upstream in the place of a name server: a
  loop in C that keeps nothing and ages nothing, the ceiling of dnsperf.  *ours-worker* has `workers: 1`.
* Latencies are those of `bench/dnsload.c`: questions go out at a steady rate, whether or not others are answered, and
  a latency ends when the kernel has the answer for the client, so the client's own waiting for its CPU is not in it.
  Steady rates are a little off the round numbers, which would meet the kernel's 250 Hz tick with every nth question for
  a whole round, or never; their rounds are many, short, and each time in another order.
* `dns-miss` names are asked once and never again.  *CPU* there is all the time a name server spends on a miss,
  receiving and sending included.  dnsdist keeps one socket to its upstream; the others take a port for each question.
* dnsmasq over TCP is not raced: it forks a process for each connection.  DoH by GET is loaded by h2load, because
  dnsperf loses most answers of dnsdist as soon as a connection has two questions under way.
* The child that builds a list shares the CPU of the server it works for, and *peak with the child* is the memory of
  both, pages they share counted twice.
* `dns-restart` counts from the creation of the process until 100 names from the cache and 100 fake addresses, drawn by
  chance, all had the right answer.  The upstream is gone by then, and 1,000 of the fake addresses are handed out right
  before the `kill -9`.
* `dns-trusted` asks one server for names of zones pinned there, whose addresses stand in documents their owner signed,
  and for names of the upstream that it has cached; names are as long and as many.  The two take turns in going first.
* `names` takes memory and imports in fresh processes; *web3* there is with the libraries it brings along, and its first
  chain name is the import and the making of one node's client, without asking it.
* `zone-plan` is CPU time: *planned* with the transaction's text, *read* from the text of every key.  A tenth of the
  nodes is gone for longer than the grace time of their services.
* `rtcp-...` runs between two network namespaces with a veth pair: everybody's near end and the client of the load on
  one CPU, everybody's far end and the upstream on the other, so *of its CPU* goes up to 200 %.  *plain* is the same two
  gateways, with SOCKS5 instead of a tunnel between them.  wireguard-go and *sing-box-tun* have a TUN device at each end
  and no relay: the load's own TCP goes through.  *sing-box* has the TCP/IP stack that is its default, behind SOCKS5.
* `rtcp-open` counts from when a stream was due until the SOCKS5 server said yes, so for *ours* the peer has reached its
  target by then; each then carries 64 bytes both ways and ends.  `rtcp-echo` counts from when a question was due.  The
  client of both runs before everybody else on its CPU.  The round trip of the veth pair is in both, and is *direct*.
* `rtcp-open-rate` is of 1,000 streams that were due in each second; below that some did not come to stand.
* `rtcp-handshakes`: dialling takes the other CPU as much time; *of one whole CPU* is what the gateway's own CPU time
  allows.  Each device has an address of its own.  Of those with *names* the gateway asks for each name, in DNS and on
  the web, before it believes the document that the device brought along, and nobody answers.  *each tunnel* is memory
  of the accepting process alone (PSS), and its CPU time over 30 s, in which each tunnel gives its signs of life.
* `rtcp-flood` has 1,000 connections a second, each from an address of its own: bytes without meaning, a first message
  that was used before, silence, and first messages that are right of callers that never prove themselves.  Rounds
  without a flood are in between.
* `sn-packets`, `sn-bulk...`: a relay between two sockets each, with the load's client and upstream in one C program.
  coturn is given channels beforehand and no credentials to check; ours has bound sides, rate limits and grants on.
* `sn-tcp-relay`: HAProxy (`nbthread 1`, `splice-auto`) joins two connections and looks at nothing; the SN
  carries what is sealed between two devices as it is, by bare legs.  The load is both ends.
* `sn-ingress-...`: TLS that is passed on by server name to nginx, by two processes: the SN and, through a tunnel of
  version 5, a gateway at home; or two HAProxies (`nbthread 1`), which is the same way without tunnel and encryption
  (of which bulk by TLS has none either: it goes by bare legs).
  *haproxy alone* knows no home, and connects to nginx itself.  The SN, or the HAProxy in its place, has one CPU; the
  load, nginx and what is at home share the other.
* `sn-reconnect`: 10,000 registered devices, each with a key, an account and an address of its own, dial an SN that has
  just been started, all at the same moment, and try again as devices do.  They are one process, and the work of their
  side of the handshakes has the other CPU.
* `rtcp-10gib` counts a change of the key when the receiver has opened a record under the next one.
* `start` counts from the creation of the process until an answer came back through SOCKS5, with warm file caches.
* `crowd` holds as many connections as the limit of open files allows, at most 10,000; the growth is scaled up to
  10,000 where fewer were held, and each must still answer at the end.
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Race the gateway against its rivals.", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="three rounds of one second instead of five of three")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"measures, or beginnings of: {' '.join(NAMES)}")
    parser.add_argument("--rivals", default="", metavar="NAME,...", help=f"of: {', '.join(WHO)}")
    parser.add_argument("--seconds", type=float, help="length of one round")
    parser.add_argument("--rounds", type=int, help="rounds of each contestant")
    parser.add_argument("--program", metavar="PATH", help="the cyfs-gateway to race, instead of the one of this venv")
    parser.add_argument("--json", metavar="FILE", help="write every figure to FILE as well")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md (needs a whole run)")
    given = parser.parse_args()
    if given.write_docs and (given.only or given.rivals):
        parser.error("--write-docs needs every measure and every rival")
    chosen = [name for name in given.only.split(",") if name]
    given.measures = [n for n in NAMES if not chosen or any(n == c or n.startswith(c + "-") for c in chosen)]
    given.who = [name for name in given.rivals.split(",") if name]
    unknown = [c for c in chosen if not any(n == c or n.startswith(c + "-") for n in NAMES)]
    unknown += [w for w in given.who if w not in WHO]
    if unknown:
        parser.error(f"no such name: {', '.join(unknown)}")
    return given


Contestant = TypeVar("Contestant", Rival, NameServer)


def _present(all_: Sequence[Contestant], who: list[str], program: str | None) -> list[tuple[Contestant, str]]:
    found = []
    for rival in all_:
        if who and rival.name not in who:
            continue
        path = program if program and rival is OURS else rival.find()
        if path and shutil.which(path):
            found.append((rival, path))
        else:
            print(f"{rival.name} is absent and left out; to have it: {rival.install}")
    return found


def main() -> int:
    """Run the chosen measures; 1 when there was nothing to run."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    about = stage.machine()
    contestants = _present(RIVALS, given.who, given.program)
    name_servers = _present(NAME_SERVERS, given.who, None)
    versions = {rival.name: rival.version(path) for rival, path in contestants}
    versions |= {
        server.name: server.version(path) for server, path in name_servers if not server.name.startswith("ours")
    }
    versions |= {name: helper.version(path) for name, helper in HELPERS.items() if (path := helper.find())}
    versions |= tunnelrivals.versions() | snrace.versions()
    about["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if not contestants and not name_servers:
        return 1
    if shutil.which("cc") is None:
        print("a C compiler is needed for the load tool: apt install gcc libc6-dev")
        return 1
    for name, value in about.items():
        print(f"{name}: {value}")
    os.sched_setaffinity(0, {stage.LOAD_CPU})
    plan = Plan(
        contestants=contestants,
        seconds=given.seconds or (1 if given.quick else 3),
        rounds=given.rounds or (3 if given.quick else 5),
        direct=not given.who or "direct" in given.who,
        allowance=Allowance(time.monotonic),
        who=given.who,
    )
    dns_plan = DnsPlan(name_servers, plan.seconds, plan.rounds, plan.allowance, plan.direct)
    print(f"rounds: {plan.rounds} of {plan.seconds:g} s, interleaved\n", flush=True)
    about["rounds"] = (
        f"{plan.rounds} of {plan.seconds:g} s each, interleaved, and up to {MOST} times as many until enough are calm; "
        "the figure is the median of those that count"
    )
    figures: list[report.Figure] = []
    for name in given.measures:
        try:
            if name in dns.MEASURES:
                taken = dns.MEASURES[name](dns_plan)
            elif name in tunnelrace.MEASURES:
                taken = tunnelrace.MEASURES[name](plan)
            elif name in snrace.MEASURES:
                taken = snrace.race(name, plan)
            elif name in snstreams.MEASURES:
                taken = snstreams.race(name, plan)
            elif name in ingress.MEASURES:
                taken = ingress.race(name, plan)
            elif name in sncrowd.MEASURES:
                taken = sncrowd.reconnect(plan)
            else:
                taken = measures.take(name, plan)
        except stage.Failed as failure:
            print(f"{name}: left out: {failure}\n")
            continue
        figures += taken
        for part in dict.fromkeys(f.measure for f in taken):
            print(report.as_text([f for f in taken if f.measure == part]), flush=True)
    verdicts = list(report.verdicts(figures))
    held = [v for v in verdicts if v.target]
    if held:
        print(f"{sum(v.ok for v in held)} of {len(held)} targets reached", end="")
        print(
            "".join(
                f"\n  missed: {v.measure}, {v.what} {report.number(v.reached)} ({v.target})" for v in held if not v.ok
            )
        )
    if given.json:
        whole = {"about": about, "figures": figures, "verdicts": verdicts}
        Path(given.json).write_text(json.dumps(whole, default=dataclasses.asdict, indent=1) + "\n")
    if given.write_docs:
        # Where somebody keeps their figures is nobody else's.
        kept = {"--json", str(given.json), f"--json={given.json}"}
        command = shlex.join([".venv/bin/python", "bench/run.py", *(word for word in sys.argv[1:] if word not in kept)])
        DOCS.write_text(report.as_markdown(figures, about, command, NOTES))
        print(f"written: {DOCS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

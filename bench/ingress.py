"""The public ingress of an SN against HAProxy doing the same: TLS passed through by server name, unopened, to nginx.

All begin at the SN's port and end in nginx at home; they differ in how they get there.

* *ours*: the SN reads the name, and asks for a stream on the tunnel that the box at home keeps.  It seals what visitors
  say, until there is so much that a bare leg carries it; the box at home opens that, finds the service by its rules
  and connects to nginx.
* *haproxy*: one HAProxy for the SN, which reads the name and connects to another at home, which connects to nginx.
  That is the same way: two processes, and each visitor connected once more at each.  But it does less: nobody is asked,
  nothing is sealed, and the SN can dial the home, which no SN can whose members are behind NATs.
* *haproxy alone*: HAProxy for the SN, which connects to nginx itself.  There is no home to pass, so this is the cost of
  the first half.
* *direct*: the load talks to nginx.

Who is in the place of the SN has one CPU.  The other is everybody else's: the load, nginx, and the box at home, which
would be another machine.  So *of its CPU* is the SN's alone, and home's is told beside it.

* *sn-ingress-bulk*: one download after another of a file of 64 MB, by curl;
* *sn-ingress-requests*: small pages over 32 connections that are kept, by wrk;
* *sn-ingress-connections*: a TLS connection for each page, 32 at a time, by wrk.

Names are pointed here in a mount namespace of the load's own, so it takes root.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import stage
import trio
import trustme
from measures import Plan, Sample, one_round
from report import Figure, number
from rivals import HELPERS, find_system
from stage import Failed

from cyfs_gateway.io.gateway import RunningGateway
from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.state import Home
from cyfs_gateway.sn.accounts import Device
from cyfs_gateway.sn.ingress import IngressSettings
from cyfs_gateway.sn.registry import Host, NameEntry
from cyfs_ns.identity.did import dev_did, host_of_did, parse_did
from cyfs_ns.identity.revision import Revision
from cyfs_ns.io.process import keep_spare_memory, settle_in
from cyfs_ns.io.trusted.keystore import KeyStore
from tunnels.io.reactor import Reactor

NAME = "photos.alice.sn.example"
SIZE = 64 << 20
CONNECTIONS = 32
_ALONE = "haproxy alone"
_FILES = 5
"""Downloads of each curl: one connection."""
_NGINX = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000000; ssl_session_cache off; ssl_session_tickets off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096; server_name _; root {folder}/www;
    ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
    location = /small {{ return 200 "hello\\n"; }}
  }}
}}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
_BY_NAME = """
frontend visitors
  bind 127.0.0.1:{here}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend home if {{ req_ssl_sni -i {name} }}
backend home
  server home 127.0.0.1:{there}
"""
_PASSED_ON = """
frontend sn
  bind 127.0.0.1:{here}
  default_backend nginx
backend nginx
  server nginx 127.0.0.1:{there}
"""


def serve_sn(home: Path, config: Path, tls: int, device: str) -> None:
    """The process of the SN: a gateway with an ingress that knows one name."""
    nas = parse_did(device).canonical
    assert nas.key is not None
    machine = Device(did=nas, owner=nas, name="nas", since=0, mark=Revision(0, ""), expires=1 << 40)
    entry = NameEntry(
        name="alice",
        owner=nas,
        hosts={"nas": Host(machine, None)},
        devices={"nas": nas.key},
        chosen="nas",
        texts=(),
        issuers=(),
    )

    async def run() -> None:
        reactor = Reactor()
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            gateway = RunningGateway(Home(home), nursery, reactor)
            loaded = await gateway.read(str(config))
            await gateway.begin(loaded, str(config))

            class Seat:
                reactor, home = gateway.reactor, gateway.home
                open_to_peer = staticmethod(gateway.peer_desk.open_standing)
                ask_peer = staticmethod(gateway.peer_desk.ask_standing)
                open_datagrams_to_peer = staticmethod(gateway.peer_desk.open_standing_datagrams)

                def standing(self, device: object) -> bool:
                    return gateway.peer_desk.standing(nas) is not None

                def take_peer(self, sock: object, source: object) -> None:
                    raise AssertionError("no peer comes to the SN by its ingress in this race")

            settings = IngressSettings(
                domain="sn.example", tls=(("127.0.0.1", tls),), http=(), of_source=8192, rate=1 << 20
            )
            keep_spare_memory()
            while gateway.peer_desk.standing(nas) is None:  # noqa: ASYNC110 - it has no event to give
                await trio.sleep(0.02)
            await Ingress(Seat(), lambda host: entry, settings, lambda owner, octets: None).run()

    settle_in()
    trio.run(run)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A started contestant; without ``pids`` it is nginx itself.  ``home`` works for it on the CPU of the load."""

    port: int
    pids: tuple[int, ...] = ()
    home: int = 0


@contextmanager
def _staged(folder: Path, program: str) -> Iterator[tuple[int, dict[str, _Entry]]]:
    """The process of nginx, and everybody who takes part."""
    ca = trustme.CA()
    issued = ca.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
    (folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "www").mkdir()
    with (folder / "www" / "large").open("wb") as file:
        file.truncate(SIZE)
    (folder / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    nginx, rtcp, sn_tls, ha_tls, ha_home, ha_alone = (stage.free_port() for _ in range(6))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=nginx))
    for name, what, here, there in (
        ("haproxy", _BY_NAME, ha_tls, ha_home),
        ("haproxy-home", _PASSED_ON, ha_home, nginx),
        ("haproxy-alone", _BY_NAME, ha_alone, nginx),
    ):
        (folder / f"{name}.conf").write_text(_HAPROXY + what.format(here=here, there=there, name=NAME))
    keys = {who: dev_did(KeyStore(folder / who).make_device(who).public) for who in ("sn", "home")}
    host = host_of_did(keys["sn"], case_safe=True).lower()
    quiet = "log-level: warning\ndns: {enable: false}\nmixed-port: 0\nrules: ['MATCH,REJECT']\n"
    (folder / "sn.yaml").write_text(
        f"{quiet}rtcp: {{listen: '127.0.0.1:{rtcp}', admission: ['MATCH,ACCEPT'], versions: [5]}}\n"
    )
    (folder / "home.yaml").write_text(f"""{quiet}
rtcp:
  versions: [5]
  keep-tunnel: ['rtcp://tcp%3A%2F%2F%2F127.0.0.1%3A{rtcp}@{host}']
  services:
    - {{name: tls, port: 443, target: 'tcp://127.0.0.1:{nginx}', hosts: [{NAME}], allow: ['{keys["sn"]}']}}
""")
    sn = [sys.executable, __file__, str(folder / "sn"), str(folder / "sn.yaml"), str(sn_tls), str(keys["home"])]
    commands = {
        "nginx": (["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/log"], stage.LOAD_CPU, nginx),
        "home": ([program, "run", "-c", f"{folder}/home.yaml", "--home", f"{folder}/home"], stage.LOAD_CPU, 0),
        "sn": (sn, stage.PROXY_CPU, sn_tls),
        "haproxy-home": (["haproxy", "-f", f"{folder}/haproxy-home.conf"], stage.LOAD_CPU, ha_home),
        "haproxy": (["haproxy", "-f", f"{folder}/haproxy.conf"], stage.PROXY_CPU, ha_tls),
        "haproxy-alone": (["haproxy", "-f", f"{folder}/haproxy-alone.conf"], stage.PROXY_CPU, ha_alone),
    }
    with ExitStack() as running:
        pids = {}
        for name, (command, cpu, port) in commands.items():
            log = folder / f"{name}.log"
            child = running.enter_context(stage.process(command, cpu, log, cwd=Path(__file__).resolve().parent.parent))
            if port:
                stage.wait_for_port(port, child, log)
            pids[name] = child.pid
        entries = {
            "ours": _Entry(sn_tls, (pids["sn"],), pids["home"]),
            "haproxy": _Entry(ha_tls, (pids["haproxy"],), pids["haproxy-home"]),
            _ALONE: _Entry(ha_alone, (pids["haproxy-alone"],)),
            "direct": _Entry(nginx),
        }
        yield pids["nginx"], entries


def _run(folder: Path, seconds: float, *command: str) -> str:
    inside = f'mount --bind {folder}/hosts /etc/hosts && exec taskset -c {stage.LOAD_CPU} "$@"'
    whole = ["unshare", "-m", "sh", "-c", inside, "sh", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=seconds + 40)
    if done.returncode:
        raise Failed(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def _bulk(folder: Path, to: _Entry, seconds: float) -> Sample:
    """Octets."""
    count, began = 0, time.monotonic()
    url = [f"https://{NAME}:{to.port}/large", "-o", "/dev/null"]
    while (passed := time.monotonic() - began) < seconds:
        _run(folder, seconds, "curl", "-sSf", "--cacert", f"{folder}/ca.pem", *url * _FILES)
        count += _FILES * SIZE
    return Sample(count, passed)


def _wrk(folder: Path, to: _Entry, seconds: float, *more: str) -> Sample:
    url = f"https://{NAME}:{to.port}/small"
    told = _run(folder, seconds, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", *more, url)
    found = re.search(r"(\d+) requests in ([\d.]+)s", told)
    if "Non-2xx" in told or not found:
        raise Failed(f"wrk said: {told[-300:]}")
    return Sample(int(found[1]), float(found[2]))


MEASURES: dict[str, Callable[[Path, _Entry, float], Sample]] = {
    "sn-ingress-bulk": _bulk,
    "sn-ingress-requests": _wrk,
    "sn-ingress-connections": lambda folder, to, seconds: _wrk(folder, to, seconds, "-H", "Connection: close"),
}


def race(name: str, plan: Plan) -> list[Figure]:
    """One race; a contestant that fails keeps its reason instead of a figure."""
    program = next((program for rival, program in plan.contestants if rival.name == "ours"), None)
    for needed in ("haproxy", "curl"):
        if find_system(needed) is None:
            raise Failed(f"{needed} is absent: apt install {needed}")
    for needed in ("nginx", "wrk"):
        if HELPERS[needed].find() is None:
            raise Failed(f"{needed} is absent: {HELPERS[needed].install}")
    if program is None:
        raise Failed("ours is absent")
    is_bulk = name == "sn-ingress-bulk"
    unit, cost, scale, cost_scale = ("Gb/s", "s/GB", 8e-9, 1e9) if is_bulk else ("/s", "µs each", 1, 1e6)
    with tempfile.TemporaryDirectory(prefix="bench-") as home, _staged(Path(home), program) as (nginx, entries):
        wanted = {*(plan.who or entries), "direct"} - (set() if plan.direct else {"direct"})
        who = [each for each in entries if each in wanted or (each == _ALONE and "haproxy" in wanted)]
        figures = {each: Figure(name, each, unit, cost_unit=cost, planned=plan.rounds) for each in who}
        at_home: dict[str, list[float]] = {each: [] for each in who}
        for turn in plan.allowance.turns(plan.rounds, lambda: [*figures.values()]):
            for each, figure in figures.items():
                if figure.failed:
                    continue
                to = entries[each]
                take = partial(MEASURES[name], Path(home), to, plan.seconds if turn else 1)
                try:
                    if not turn:
                        take()
                        continue
                    helpers = [nginx, to.home] if to.home else [nginx]
                    spent = stage.cpu_seconds(to.home) if to.home else 0.0
                    sample = one_round(figure, take, to.pids, helpers, scale, cost_scale)
                    if to.home:
                        at_home[each].append((stage.cpu_seconds(to.home) - spent) / sample.count * cost_scale)
                except (Failed, OSError, subprocess.TimeoutExpired) as failure:
                    figure.failed = str(failure)
        for each, spent_there in at_home.items():
            if spent_there:
                figures[each].note = f"the box at home: {number(median(spent_there))} {cost}"
    return list(figures.values())


if __name__ == "__main__":
    serve_sn(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

"""The public ingress of an SN against HAProxy doing the same: TLS passed through by server name to nginx.

The load and nginx share one CPU, the contestant has the other.  Ours is two processes there, the SN and the box at
home, with their tunnel between them.  The backend of HAProxy is nginx itself: it neither encrypts nor asks anybody.
What the load and nginx do with TLS is the same for both.

* *bulk*: one download after another of a file of 64 MB, by curl;
* *requests*: small pages over 32 connections that are kept, by wrk;
* *connections*: a TLS connection for each page, 32 at a time, by wrk.

Run as ``python bench/ingress.py [--seconds 3] [--rounds 3]``, as root (names are pointed here in a mount namespace of
the load's own).  Printed are medians of the rounds, and the CPU time of the contestant (of ours: the SN) and of home.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import stage
import trio
import trustme

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
frontend visitors
  bind 127.0.0.1:{tls}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend home if {{ req_ssl_sni -i {name} }}
backend home
  server nginx 127.0.0.1:{port}
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
                open_datagrams_to_peer = staticmethod(gateway.peer_desk.open_standing_datagrams)

                def standing(self, device: object) -> bool:
                    return gateway.peer_desk.standing(nas) is not None

                def take_peer(self, sock: object, source: object) -> None:
                    raise NotImplementedError

            settings = IngressSettings(domain="sn.example", tls=(("127.0.0.1", tls),), http=(), of_source=8192)
            keep_spare_memory()
            while gateway.peer_desk.standing(nas) is None:  # noqa: ASYNC110 - it has no event to give
                await trio.sleep(0.02)
            await Ingress(Seat(), lambda host: entry, settings, lambda owner, octets: None).run()

    settle_in()
    trio.run(run)


@dataclass(frozen=True)
class Contestant:
    name: str
    port: int
    pid: int
    home: int = 0
    """Process of the box at home; 0: it has none."""


@contextmanager
def staged(folder: Path) -> Iterator[list[Contestant]]:
    ca = trustme.CA()
    issued = ca.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
    (folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "www").mkdir()
    with (folder / "www" / "large").open("wb") as file:
        file.truncate(SIZE)
    (folder / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    nginx, rtcp, sn_tls, ha_tls = (stage.free_port() for _ in range(4))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=nginx))
    (folder / "haproxy.conf").write_text(_HAPROXY.format(tls=ha_tls, port=nginx, name=NAME))
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
    python = [sys.executable, "-c", "import sys; from cyfs_gateway.io.cli import main; sys.exit(main())"]
    sn = [sys.executable, __file__, "sn", str(folder / "sn"), str(folder / "sn.yaml"), str(sn_tls), str(keys["home"])]
    commands = {
        "nginx": (["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/log"], stage.LOAD_CPU, nginx),
        "home": (
            [*python, "run", "-c", f"{folder}/home.yaml", "--home", f"{folder}/home"],
            stage.PROXY_CPU,
            0,
        ),
        "sn": (sn, stage.PROXY_CPU, sn_tls),
        "haproxy": (["haproxy", "-f", f"{folder}/haproxy.conf"], stage.PROXY_CPU, ha_tls),
    }
    with ExitStack() as running:
        pids = {}
        for name, (command, cpu, port) in commands.items():
            log = folder / f"{name}.log"
            child = running.enter_context(stage.process(command, cpu, log, cwd=Path(__file__).resolve().parent.parent))
            if port:
                stage.wait_for_port(port, child, log)
            pids[name] = child.pid
        yield [
            Contestant("ours", sn_tls, pids["sn"], pids["home"]),
            Contestant("haproxy", ha_tls, pids["haproxy"]),
            Contestant("direct", nginx, pids["nginx"]),
        ]


def _run(folder: Path, *command: str) -> str:
    inside = f'mount --bind {folder}/hosts /etc/hosts && exec taskset -c {stage.LOAD_CPU} "$@"'
    whole = ["unshare", "-m", "sh", "-c", inside, "sh", *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise stage.Failed(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def bulk(folder: Path, who: Contestant, seconds: float) -> float:
    """Gb/s."""
    count = 0
    began = time.monotonic()
    url = f"https://{NAME}:{who.port}/large"
    while (passed := time.monotonic() - began) < seconds:
        _run(
            folder,
            "curl",
            "-sSf",
            "--cacert",
            f"{folder}/ca.pem",
            "-o",
            "/dev/null",
            *[url, "-o", "/dev/null"] * 4,
            url,
        )
        count += 5
    return count * SIZE * 8 / passed / 1e9 if count else 0.0


def _wrk(folder: Path, who: Contestant, seconds: float, *more: str) -> float:
    url = f"https://{NAME}:{who.port}/small"
    told = _run(folder, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", *more, url)
    if "Non-2xx" in told:
        raise stage.Failed(told)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", told)
    assert found is not None
    return float(found[1])


def requests(folder: Path, who: Contestant, seconds: float) -> float:
    """Each second."""
    return _wrk(folder, who, seconds)


def connections(folder: Path, who: Contestant, seconds: float) -> float:
    """Each second."""
    return _wrk(folder, who, seconds, "-H", "Connection: close")


RACES = {"bulk": (bulk, "Gb/s"), "requests": (requests, "/s"), "connections": (connections, "/s")}


def main() -> None:
    parser = argparse.ArgumentParser(description="the public ingress against HAProxy")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("races", nargs="*", default=list(RACES))
    told = parser.parse_args()
    for needed in ("nginx", "haproxy", "wrk", "curl"):
        if shutil.which(needed) is None:
            raise SystemExit(f"{needed} is absent")
    with tempfile.TemporaryDirectory(prefix="bench-") as home, staged(Path(home)) as contestants:
        for race in told.races:
            run, unit = RACES[race]
            rates: dict[str, list[float]] = {who.name: [] for who in contestants}
            cpu: dict[str, list[tuple[float, float]]] = {who.name: [] for who in contestants}
            for _ in range(told.rounds):
                for who in contestants:
                    before = [stage.cpu_seconds(pid) for pid in (who.pid, who.home) if pid]
                    began = time.monotonic()
                    rates[who.name].append(run(Path(home), who, told.seconds))
                    passed = time.monotonic() - began
                    spent = [stage.cpu_seconds(pid) for pid in (who.pid, who.home) if pid]
                    shares = [(after - first) / passed for first, after in zip(before, spent, strict=True)]
                    cpu[who.name].append((shares[0], shares[1] if who.home else 0.0))
            base = statistics.median(rates["haproxy"])
            for who in contestants:
                rate = statistics.median(rates[who.name])
                busy = [statistics.median(each) * 100 for each in zip(*cpu[who.name], strict=True)]
                share = f"{busy[0]:3.0f} % of a CPU" + (f", home {busy[1]:.0f} %" if who.home else "")
                print(
                    f"{race:12} {who.name:8} {rate:10.1f} {unit:5} {rate / base:5.2f} x haproxy   {share}", flush=True
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["sn"]:
        serve_sn(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()

"""Two nodes of a zone share work: what runs on one is met by name from both, and called from either.

``ood1`` carries the zone; ``barn`` is a plain node at the end of a long link, 25 ms each way.  ``phone`` is nothing of
the zone; one of the two is its name server.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import timeservice
import yaml
from devices import PROGRAM
from netnslab import Host, Lab, Link, need
from netnslab.nameserver import dnsmasq
from netnslab.process import CommandFailed, until
from zone_world import PROXY, ZONE, Ood

NAMES = ("ood1", "barn")
ONE_WAY = 0.025
DOOR = 2980
ROOT = Path(__file__).parents[2]
CLOCK = Path(timeservice.__file__).read_text()
WEB = """#!/usr/bin/env python3
import http.server, json, os

NODE = json.loads(os.environ["app_instance_config"])["node"].encode()

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(NODE)))
        self.end_headers()
        self.wfile.write(NODE)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT_HTTP"])), Answer).serve_forever()
"""


def python_for_all() -> str:
    """A Python of our version that users of services may run."""
    own = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in (own, *own.parents)):
        return str(own)
    need(debian := f"/usr/bin/python3.{sys.version_info.minor}")
    return debian


def round_trip(address: str) -> float:
    """Milliseconds of a TCP handshake."""
    taken = []
    for _ in range(9):
        began = time.perf_counter()
        socket.create_connection((address, DOOR), timeout=10).close()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


class World:
    """Both machines, and where their owner's key is."""

    def __init__(self, lab: Lab) -> None:
        need("curl", "dnsmasq")
        self.lab = lab
        internet = lab.network("5.1.1.0/24", name="internet")
        self.names, self.laptop, self.phone = (lab.host(internet, name=name) for name in ("names", "laptop", "phone"))
        self._hosts: dict[str, Host] = {
            "ood1": lab.host(internet, name="ood1"),
            "barn": lab.host(internet, name="barn", link=Link(delay=ONE_WAY)),
        }
        self.machines: dict[str, Ood] = {}

    def __getitem__(self, name: str) -> Ood:
        return self.machines[name]

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Both in their zone."""
        async with self.lab.up(timeout=270):
            # Services have users of their own, who go through here.
            self.lab.directory.chmod(0o711)
            self.machines = {name: Ood(host, self.lab.directory / name) for name, host in self._hosts.items()}
            await self._owner("id", "owner", "new", "--name", "alice", "--words-to", str(self.lab.directory / "words"))
            for name, machine in self.machines.items():
                machine.folder.mkdir(mode=0o711)
                where = ("--ip", machine.host.ip, "--rtcp-port", str(DOOR))
                await machine.program("id", "new", "--name", name)
                await machine.program("id", "request", "--zone", ZONE, *where, "-o", str(machine.folder / "request"))
                more = ("--zone", ZONE) if name == "ood1" else ()
                await self._sign(machine, *more)
            # What was signed for it first does not name the other.
            await self._sign(self["ood1"], "--ood")
            for machine in self.machines.values():
                await machine.program("node", "activate", "--bundle", str(machine.folder / "membership"), "--yes")
            said = (await self._owner("id", "txt", "--format", "dnsmasq")).splitlines()
            records = [f"--{line}" for line in said if line.startswith("txt-record=")]
            hosts = [f"--host-record={name}.{ZONE},{self[name].host.ip}" for name in NAMES]
            dnsmasq(self.names, "--cache-size=0", f"--local=/{ZONE}/", *hosts, *records)
            await self.names.wait_for_port(53)
            config = {
                "mixed-port": PROXY,
                "dns": {
                    "enable": True,
                    "listen": "0.0.0.0:53",
                    "use-system-hosts": False,
                    "nameserver": [self.names.ip],
                },
                "rtcp": {"listen": DOOR},
                "rules": ["MATCH,REJECT"],
            }
            for machine in self.machines.values():
                more = {"zone": {"web": [f"{machine.host.ip}:80"]}}
                (machine.folder / "config.yaml").write_text(json.dumps(config | more))
                machine.start()
            for machine in self.machines.values():
                await self._booted(machine)
            yield

    async def _sign(self, machine: Ood, *more: str) -> None:
        request, bundle = str(machine.folder / "request"), str(machine.folder / "membership")
        await self._owner("node", "sign", request, *more, "--yes", "-o", bundle)

    async def _owner(self, *words: str) -> str:
        home = str(self.lab.directory / "owner")
        return (await self.laptop.run(PROGRAM, "--home", home, *words, timeout=60)).out

    async def _booted(self, machine: Ood) -> None:
        async def is_booted() -> bool:
            return bool((await machine.status()).get("step") == "booted")

        try:
            await until(f"{machine.name} is in its zone", is_booted)
        except CommandFailed as late:
            raise AssertionError(f"{late}: {await machine.status()}\n{machine.said}") from late

    def package(self, name: str, program: str) -> None:
        """The program of a service, on both machines."""
        for machine in self.machines.values():
            folder = machine.node / f"packages/{name}/1"
            folder.mkdir(parents=True)
            (folder / "serve").write_text(program)
            (folder / "serve").chmod(0o755)

    async def deploy(self, **page: object) -> None:
        """Until it serves."""
        file = self.lab.directory / "page.yaml"
        file.write_text(yaml.safe_dump({"kind": "process", "upgrade": {"settle": "0s"}, **page}))
        done = await self["ood1"].program("zone", "deploy", str(file), check=False)
        assert done.code == 0, done.out + done.err

    async def drain(self, name: str, *, undo: bool = False) -> None:
        await self["ood1"].program("zone", "drain", name, *(["--undo"] if undo else []))

    async def page(self, name: str) -> str:
        """Who answers at ``web.ZONE``, seen from the machine ``name``; empty: nobody."""
        proxy = ("-x", f"http://127.0.0.1:{PROXY}", "-sf", "-m", "10")
        return (await self[name].host.run("curl", *proxy, f"http://web.{ZONE}/", check=False)).out

    async def leads_to(self, name: str, node: str) -> float:
        """Until that page is of ``node``; seconds."""
        began = time.monotonic()

        async def does() -> bool:
            return await self.page(name) == node

        try:
            await until(f"web leads {name} to {node}", does)
        except CommandFailed as late:
            why = (await self["ood1"].program("zone", "why", "web", check=False)).out
            logs = "\n".join(f"--- {each.name}\n{each.said}" for each in self.machines.values())
            raise AssertionError(f"{late}: {why}\n{logs}") from late
        return time.monotonic() - began

    async def ask(self, name: str, rounds: int = 9) -> dict[str, Any]:
        """What ``timeservice.py`` says there."""
        words = (sys.executable, timeservice.__file__, "ask", str(self[name].home / "kapi.sock"), str(rounds))
        said: dict[str, Any] = json.loads((await self[name].host.run(*words, timeout=60)).out)
        return said

    async def answers(self, name: str, node: str) -> None:
        """Until whoever asks on the machine ``name`` is answered by ``node``."""

        async def does() -> bool:
            return (await self.ask(name, 1))["where"] == node

        await until(f"{node} answers {name}", does)


@pytest.mark.timeout(280)
async def test_two_nodes_share_work(lab: Lab) -> None:
    world = World(lab)
    async with world.up():
        world.package("web", WEB)
        await world.deploy(
            service="web",
            image="web:1",
            command=["serve"],
            ports={"http": "auto"},
            health={"port": "http", "every": "0.1s"},
        )
        standing = (await world["ood1"].told("zone", "why", "web"))["standing"]
        ((home, *_),) = standing
        other = next(name for name in NAMES if name != home)
        for name in NAMES:
            await world.leads_to(name, home)
        # Who knows nothing of the zone but a name server gets there, too, whichever machine that is.
        for name in NAMES:
            world.phone.resolve_with(world[name].host.ip)
            assert (await world.phone.run("curl", "-sSf", "-m", "10", f"http://web.{ZONE}/")).out == home
        began = time.monotonic()
        await world.drain(home)
        await world.leads_to(other, other)
        await world.leads_to(home, other)
        moved = time.monotonic() - began
        await world.drain(home, undo=True)

        # Both nodes have one, and whoever is on a node is answered there.
        site = next(path for path in sys.path if path.endswith("site-packages"))
        world.package("time", f"#!{python_for_all()}\n{CLOCK}")
        await world.deploy(
            service="time",
            image="time:1",
            command=["serve", "serve"],
            env={"PYTHONPATH": os.pathsep.join([str(ROOT), site]), "PYTHONDONTWRITEBYTECODE": "1"},
            ports={"kapi": "auto"},
            health={"port": "kapi", "every": "0.1s"},
            replicas=2,
        )
        for name in NAMES:
            assert (await world.ask(name, 1))["where"] == name
        # With one on the other node only, ten calls that need each other cost little more than one.
        await world.drain("ood1")
        await world.answers("ood1", "barn")
        trip = await world["ood1"].host.call(lambda: round_trip(world["barn"].host.ip))
        said = await world.ask("ood1")
        assert said["where"] == "barn"
        batch, singly, call = (1000 * said[what] for what in ("batch", "one_by_one", "call"))
        print(
            f"\n  web led elsewhere {moved:.2f} s after its node was drained; round trip {trip:.1f} ms,"
            f" a call {call:.1f} ms;\n  ten calls that need each other {singly:.1f} ms, in a batch {batch:.1f} ms:"
            f" {batch / trip:.2f} round trips"
        )

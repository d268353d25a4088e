"""A zone of one machine: activated, booted, with a service that keeps a count; and the daemon killed in the middle.

Everything is done by the installed program's commands, as its owner does it.  The machine has no network but its LAN,
and nobody there; for the last boot it has none at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from devices import PROGRAM
from netnslab import Gateway, Host, Lab
from netnslab.process import until

PORT = 7890
COUNTER = """#!/usr/bin/env python3
import http.server, os, pathlib

COUNT = pathlib.Path(os.environ["VOLUME_DATA"], "count")

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/count":
            COUNT.write_text(str(int(COUNT.read_text() if COUNT.exists() else 0) + 1))
        said = f"{os.environ['WORD']} {COUNT.read_text() if COUNT.exists() else 0} {os.getpid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT_HTTP"])), Answer).serve_forever()
"""
PAGE = {
    "service": "web",
    "kind": "process",
    "image": "web:1",
    "command": ["counter"],
    "env": {"WORD": "hello"},
    "ports": {"http": "auto"},
    "volumes": {"data": "/data"},
    "health": {"port": "http", "path": "/", "every": "0.1s"},
    "upgrade": {"settle": "0s"},
}
CONFIG = {"mixed-port": PORT, "rules": ["MATCH,REJECT"]}


@dataclass
class Box:
    """The machine, and the home of its owner on it, whom nothing but these files leads to."""

    host: Host
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "box"

    async def program(self, *words: str, whose: str = "box", check: bool = True) -> Any:
        return await self.host.run(PROGRAM, "--home", str(self.folder / whose), *words, timeout=60, check=check)

    async def told(self, *words: str) -> Any:
        return json.loads((await self.program(*words, "--json")).out)

    async def activate(self) -> None:
        """As ``ood1`` of the zone of its owner."""
        request, bundle = str(self.folder / "request"), str(self.folder / "bundle")
        words = ("--words-to", str(self.folder / "words"))
        await self.program("id", "owner", "new", "--name", "alice", *words, whose="alice")
        await self.program("id", "new", "--name", "ood1")
        await self.program("id", "request", "--name", "ood1", "--zone", "home.example", "-o", request)
        await self.program("node", "sign", request, "--zone", "home.example", "--yes", "-o", bundle, whose="alice")
        await self.program("node", "activate", "--bundle", bundle, "--yes")

    def package(self) -> None:
        folder = self.folder / "box-node/packages/web/1"
        folder.mkdir(parents=True)
        (folder / "counter").write_text(COUNTER)
        (folder / "counter").chmod(0o755)

    def page(self, **more: Any) -> str:
        """The file of a page."""
        file = self.folder / "web.yaml"
        file.write_text(_page(**more))
        return str(file)

    async def says(self, port: int, path: str = "/") -> tuple[str, int, int]:
        """The word, the count and the process."""
        words = ("-sSf", "-m", "10", f"http://127.0.0.1:{port}{path}")
        word, count, pid = (await self.host.run("curl", *words)).out.split()
        return word, int(count), int(pid)

    async def port(self) -> int:
        return int((await self.told("zone", "why", "web"))["ports"]["ood1"]["http"])


async def booted(gateway: Gateway) -> dict[str, Any]:
    """What it says of the zone as soon as it is up."""
    seen: dict[str, Any] = {}

    async def is_up() -> bool:
        seen.update((await gateway.api("/cyfs/status"))["modules"]["zone"])
        return seen.get("step") == "booted"

    try:
        await until("the zone is up", is_up)
    except Exception as late:
        raise AssertionError(f"{late}: {seen}\n{gateway.process.text()[-4000:]}") from late
    return seen


async def holds(what: str, ask: Callable[[], Awaitable[bool]]) -> None:
    """Until it is so; what cannot be asked yet is not so."""

    async def asked() -> bool:
        try:
            return await ask()
        except Exception:
            return False

    await until(what, asked)


@pytest.mark.timeout(280)
async def test_a_machine_of_its_own_keeps_its_service_running(lab: Lab) -> None:
    lan = lab.network("192.168.1.0/24", name="lan")
    host = lab.host(lan, name="box")
    async with lab.up():
        # Services have users of their own, who go through here.
        lab.directory.chmod(0o711)
        box = Box(host, lab.directory)
        await box.activate()
        box.package()
        began = time.monotonic()
        async with host.gateway(CONFIG, home=box.home) as gateway:
            said = await booted(gateway)
            first_boot = time.monotonic() - began
            assert (said["name"], said["role"], said["zone"]) == ("ood1", "ood", "did:web:home.example")
            text = (await box.program("zone", "status")).out
            assert "booted" in text and "ood1, ood" in text

            done = await box.told("zone", "deploy", box.page())
            assert done["serves"], done
            port = await box.port()
            assert (await box.says(port, "/count"))[:2] == ("hello", 1)
            by_name = ("-x", f"http://127.0.0.1:{PORT}", "-sSf", "-m", "10", "http://web.home.example/count")

            async def is_led_to() -> bool:
                return (await host.run("curl", *by_name)).out.startswith("hello ")

            await holds("the service is found by name", is_led_to)
            assert "ood1: ready" in (await box.program("zone", "why", "web")).out.replace(f" http:{port}", "")

            # Another page is another version, and takes the place of the first.
            began = time.monotonic()
            changed = {"page": _page(env={"WORD": "goodbye"})}
            await gateway.api("/cyfs/modules/zone/deploy", method="POST", body=changed)

            async def is_another() -> bool:
                return (await box.says(port))[0] == "goodbye"

            await holds("the change has come about", is_another)
            effect = time.monotonic() - began
            count, pid = (await box.says(port, "/count"))[1:]
            assert count == 3, "the volume stayed"

            # What cannot be says why, and stops nobody else.
            other = box.page(service="giant", cpu="900")
            done = await box.program("zone", "deploy", other, "--wait", "20", check=False)
            assert (done.code, "giant: 0 of 1 ready" in done.out, "not on ood1 (cpu)" in done.out) == (1, True, True)
            await box.program("zone", "rm", "giant")
            resident = _resident(gateway.process.pid)
            await gateway.kill()
        assert await box.says(port, "/count") == ("goodbye", count + 1, pid)

        for name in (await host.run("ls", "/sys/class/net")).out.split():
            if name != "lo":
                await host.run("ip", "link", "set", name, "down")
        began = time.monotonic()
        async with host.gateway(CONFIG, home=box.home) as gateway:
            await booted(gateway)
            next_boot = time.monotonic() - began

            async def is_ready() -> bool:
                standing = (await box.told("zone", "why", "web"))["standing"]
                return [state for _, state, _ in standing] == ["ready"]

            await holds("the service is looked after again", is_ready)
            assert await box.says(port, "/count") == ("goodbye", count + 2, pid), "it is the same process still"
            await box.program("zone", "rm", "web")

            async def is_gone() -> bool:
                return (await host.run("kill", "-0", str(pid), check=False)).code != 0

            await holds("the service has ended", is_gone)
        print(
            f"\n  boot of a new zone {first_boot:.2f} s, of one that was up, without a network {next_boot:.2f} s;"
            f" change to effect {effect:.2f} s; resident {resident:.0f} MiB"
        )


def _page(**more: Any) -> str:
    return yaml.safe_dump(PAGE | more)


def _resident(pid: int) -> float:
    """MiB of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024

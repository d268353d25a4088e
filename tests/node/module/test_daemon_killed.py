"""The program is killed outright while all kinds of services run: they go on, and the next one looks after the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from commands import PROGRAM
from test_zone_module import activated

from cyfs_gateway.config.control import CONTROL_SOCKET
from cyfs_ns.errors import Unreachable
from cyfs_ns.io.client import ApiFault, Client
from node.io.run.cgroups import ControlGroups
from node.io.run.runs import Runs
from tests.freeport import free_port
from tests.node.image.imagery import file
from tests.node.run.containerhelp import image
from tests.node.run.runhelp import alive, keeper_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers have users of their own"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed"),
]
CONFIG = """
dns: {{enable: false}}
listeners: []
rules: ['MATCH,REJECT']
log-level: warning
zone: {{port: 0}}
node: {{home: {services}}}
"""
SERVE = "#!/bin/sh\ncd /srv\nexec python3 -m http.server --bind 127.0.0.1 $PORT_HTTP"
STARTS = '#!/bin/sh\nsetsid "$PWD/serve" &\n'


@pytest.fixture(params=["bwrap", "crun"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the program finds what builds containers, and nothing else that does."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / request.param).symlink_to(found)
    return str(tmp_path / "bin")


@dataclass
class Box:
    """A machine of its own, whose program is started and killed."""

    folder: Path
    path: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def services(self) -> Path:
        return self.folder / "services"

    def package(self, name: str, **files: str) -> None:
        package = self.services / "packages" / name / "1"
        package.mkdir(parents=True)
        for file_name, text in files.items():
            (package / file_name).write_text(text)
            (package / file_name).chmod(0o755)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Process]:
        """The program, once its zone is up; killed at last."""
        words = [*PROGRAM, "--home", str(self.home), "run", "-c", str(self.folder / "config.yaml")]
        with (self.folder / "output").open("ab") as output:
            process = await trio.lowlevel.open_process(
                words, stdout=output, stderr=output, env=dict(os.environ) | {"PATH": self.path}
            )
        try:
            await self.until(lambda told: told["nodes"]["ood1"]["cpu"], "nodes")
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def ask(self, method: str, **body: Any) -> Any:
        """As commands do; None: it cannot be asked yet."""
        client = Client(self.home / CONTROL_SOCKET)
        with suppress(Unreachable, ApiFault):
            return await trio.to_thread.run_sync(
                lambda: client.call("POST", "cyfs", "modules", "zone", method, body=body)
            )

    async def until(self, holds: Callable[[Any], object], method: str, **body: Any) -> Any:
        """What it says as soon as it is so."""
        said = None
        try:
            with trio.fail_after(250):
                while (said := await self.ask(method, **body)) is None or not holds(said):  # noqa: ASYNC110 -- as anybody
                    await trio.sleep(0.1)
        except trio.TooSlowError:
            logs = [log.read_text()[-500:] for log in self.services.glob("logs/*/log")]
            raise AssertionError("\n".join([str(said), (self.folder / "output").read_text()[-3000:], *logs])) from None
        return said

    async def ready(self, service: str) -> int:
        """Its port, once it is ready."""
        told = await self.until(
            lambda said: [state for _, state, _ in said["standing"]] == ["ready"], "why", service=service
        )
        return int(told["ports"]["ood1"]["http"])


@pytest.fixture
async def box(open_folder: Path, path: str) -> AsyncIterator[Box]:
    box = Box(open_folder, path)
    activated(box.home, "ood1")
    (box.folder / "config.yaml").write_text(CONFIG.format(services=box.services))
    yield box
    runs, groups = Runs(str(box.services)), ControlGroups(str(box.services))
    for service in await runs.find():
        await runs.finish(service)
        await groups.leave(service)
    groups.close()


def page(service: str, kind: str, **more: Any) -> str:
    common = {"service": service, "kind": kind, "image": f"{service}:1", "ports": {"http": free_port()}}
    common |= {"health": {"port": "http", "path": "/", "every": "0.1s"}, "upgrade": {"settle": "0s"}}
    return json.dumps(common | more)


async def answers(port: int) -> bool:
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        ["curl", "-q", "-sS", "-f", "-m", "10", "--noproxy", "*", "-o", "/dev/null", f"http://127.0.0.1:{port}/"],
        check=False,
        capture_stderr=True,
    )
    return done.returncode == 0


async def test_what_runs_outlives_the_program_and_is_adopted(box: Box) -> None:
    serve = SERVE.replace("/srv", "/")
    box.package("plain", serve=serve)
    box.package("scripted", start=STARTS, serve=serve)
    image(box.services, file("www/index.html", b"inside"), name="boxed:1")
    pages = {
        "plain": page("plain", "process", command=["serve"]),
        "scripted": page("scripted", "script"),
        "boxed": page("boxed", "container", command=["/bin/httpd", "-f", "-p", "$PORT_HTTP", "-h", "/www"]),
    }
    ports = {}
    async with box.running():
        for name, text in pages.items():
            assert await box.ask("deploy", page=text) is not None, name
        for name in pages:
            ports[name] = await box.ready(name)
        assert [name for name, port in ports.items() if not await answers(port)] == []
    keepers = {name: keeper_of(box.services, name) for name in pages}
    assert alive(box.services, "boxed")
    # The one in the box has a process for each question that is under way.
    processes = {name: alive(box.services, name) for name in ("plain", "scripted")}
    assert all(processes.values())
    # What is on the machine itself needs nobody; to a container the next daemon leads.
    assert [name for name, port in ports.items() if await answers(port)] == ["plain", "scripted"]
    async with box.running():
        assert {name: await box.ready(name) for name in pages} == ports
        for port in ports.values():
            with trio.fail_after(200):
                while not await answers(port):  # noqa: ASYNC110 -- asked as anybody may ask
                    await trio.sleep(0.02)
        assert {name: keeper_of(box.services, name) for name in pages} == keepers
        assert {name: alive(box.services, name) for name in processes} == processes
        for name in pages:
            assert await box.ask("remove", service=name) is not None
        await box.until(lambda told: not told["nodes"]["ood1"]["services"], "nodes")
    assert [name for name in pages if alive(box.services, name)] == []

"""A machine of a zone of its own, as a whole gateway: it comes up, runs what is deployed, and is found by name."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from commands import PROGRAM, program
from inprocess import Living, curl, living, until
from zones import OOD1, secret, sign

from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.io.trusted.keystore import KeyStore
from node.io.module import read_settings as read_node
from node.io.run.cgroups import ControlGroups
from node.io.run.runs import Runs
from zone.config.faults import Code, ConfigError
from zone.config.keys import At, Below
from zone.config.model import Set, Transaction
from zone.hub.keyset import new_keys
from zone.hub.subjects import machine
from zone.hub.tokens import Claims, Type, Use, issued
from zone.io.here import services_of, store_as
from zone.io.krpc.client import Client
from zone.io.krpc.transport import HttpTransport, by_unix
from zone.io.membership import MembershipStore
from zone.io.module import SOCKET
from zone.io.module import read_settings as read_zone
from zone.krpc.faults import KrpcFault
from zone.membership import Membership

MIXED = "listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]\nrules: ['MATCH,REJECT']\n"
SERVE = "exec python3 -m http.server --bind 127.0.0.1 $PORT_HTTP"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that others may pass through: every pytest closes those of its own kind."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as found:
        Path(found).chmod(0o755)
        yield Path(found)


def activated(home: Path, *oods: str) -> Membership:
    """``home`` is ``ood1`` of a zone of ``oods``."""
    now = int(time.time())
    signed = sign(*oods, iat=now - 1000, exp=now + 100_000)
    membership = signed.of("ood1")
    keys = KeyStore(home)
    keys.path.mkdir(mode=0o700, parents=True)
    keys.device_pem.write_bytes(OOD1.pem())
    keys.device_pem.chmod(0o600)
    MembershipStore(home).put(membership, now)
    return membership


class Box:
    """The machine ``ood1``, whose state is in ``home``."""

    def __init__(self, folder: Path, *oods: str) -> None:
        self.home, self.services = folder / "home", folder / "services"
        self.membership = activated(self.home, *(oods or ("ood1",)))
        self.config = f"{MIXED}zone: {{port: 0}}\nnode: {{home: {self.services}}}\n"

    @asynccontextmanager
    async def running(self, config: str = "") -> AsyncIterator[Living]:
        async with living(self.home, config or self.config) as self.house:
            yield self.house

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = self.house.gateway.status()["modules"]
        return found

    async def booted(self) -> None:
        await until(lambda: self.told["zone"].get("step") == "booted")
        await self.answers("nodes")

        async def has_said() -> bool:
            return bool((await self.node())["cpu"])

        await self.until(has_said)

    async def control(self, method: str, **body: Any) -> dict[str, Any]:
        return dict(await self.house.gateway.control("zone", method, body))

    async def answers(self, method: str, **body: Any) -> dict[str, Any]:
        """As soon as somebody leads."""
        with trio.fail_after(60):
            while True:
                try:
                    return await self.control(method, **body)
                except Unreachable:
                    await trio.sleep(0.02)

    async def cli(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        done: subprocess.CompletedProcess[bytes] = await trio.run_process(
            [*PROGRAM, "--home", str(self.home), *words], capture_stdout=True, capture_stderr=True, check=False
        )
        return done

    def package(self, script: str = SERVE, version: str = "1") -> None:
        package = self.services / "packages/web" / version
        package.mkdir(parents=True)
        (package / "serve").write_text(f"#!/bin/sh\n{script}\n")
        (package / "serve").chmod(0o755)

    async def until(self, holds: Callable[[], Awaitable[object]]) -> None:
        """Until what is asked for again and again is so."""
        with trio.fail_after(120):
            while not await holds():  # noqa: ASYNC110 -- asked as anybody may ask
                await trio.sleep(0.02)

    async def node(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.control("nodes"))["nodes"]["ood1"]
        return found

    async def removed(self) -> None:
        await self.control("remove", service="web")

        async def is_gone() -> bool:
            return not (await self.node())["services"]

        await self.until(is_gone)

    async def deploy(self, page: str) -> dict[str, Any]:
        made = await self.control("deploy", page=page)
        return await self.control("why", service="web", after=made["revision"])

    async def ready(self, ready: int = 1) -> dict[str, Any]:
        with trio.fail_after(120):
            while True:
                told = await self.control("why", service="web")
                if [state for _, state, _ in told["standing"]] == ["ready"] * ready:
                    return told
                await trio.sleep(0.02)


def page(version: str = "1", **more: Any) -> str:
    return json.dumps(
        {
            "service": "web",
            "kind": "process",
            "image": f"web:{version}",
            "command": ["serve"],
            "ports": {"http": "auto"},
        }
        | {"health": {"port": "http", "every": "0.1s"}, "upgrade": {"settle": "0s"}}
        | more
    )


@pytest.fixture
async def box(folder: Path) -> AsyncIterator[Box]:
    box = Box(folder)
    yield box
    runs, groups = Runs(str(box.services)), ControlGroups(str(box.services))
    for service in await runs.find():
        await runs.stop(service, at_once=True)
        await runs.wait(service)
    await groups.leave("web")
    groups.close()


async def test_a_service_is_deployed_changed_and_removed(box: Box, folder: Path) -> None:
    box.package()
    box.package(SERVE, "2")
    async with box.running():
        await box.booted()
        (folder / "web.yaml").write_text(page())
        planned = await box.cli("zone", "plan", str(folder / "web.yaml"))
        assert planned.stdout.startswith(b"place web on ood1"), planned
        assert (await box.control("services"))["services"] == {}
        done = await box.cli("zone", "deploy", str(folder / "web.yaml"))
        assert (done.returncode, b"1 of 1 ready" in done.stdout) == (0, True), done
        port = (await box.ready())["ports"]["ood1"]["http"]
        assert (await curl("-f", "-o", "/dev/null", f"http://127.0.0.1:{port}/"))[0] == 0
        proxy = f"http://127.0.0.1:{box.house.port()}"

        async def is_led_to() -> bool:
            return (await curl("-x", proxy, "-f", "-o", "/dev/null", "http://web.home.example/"))[0] == 0

        await box.until(is_led_to)
        first = (await box.ready())["version"]
        assert (await box.deploy(page("2")))["version"] != first

        async def is_another() -> bool:
            return (await box.ready())["version"] != first

        await box.until(is_another)
        assert b"web" in (await box.cli("zone", "services")).stdout
        assert b"ood1" in (await box.cli("zone", "nodes")).stdout
        assert (await box.cli("zone", "scale", "web", "0")).returncode == 0
        await box.ready(0)
        assert (await box.cli("zone", "rm", "web")).returncode == 0
        with pytest.raises(KeyError):
            await box.removed()


async def test_services_go_on_without_the_daemon_and_are_adopted(box: Box) -> None:
    box.package()
    async with box.running():
        await box.booted()
        await box.deploy(page())
        port = (await box.ready())["ports"]["ood1"]["http"]
    assert (await curl("-f", "-o", "/dev/null", f"http://127.0.0.1:{port}/"))[0] == 0
    async with box.running():
        await box.booted()
        assert (await box.ready())["ports"]["ood1"]["http"] == port
        await box.removed()


async def test_what_cannot_be_says_why(box: Box, folder: Path) -> None:
    async with box.running():
        await box.booted()
        (folder / "web.yaml").write_text(page(cpu="900"))
        done = await box.cli("zone", "deploy", str(folder / "web.yaml"))
        assert done.returncode == 1 and b"not on ood1 (cpu)" in done.stdout, done
        why = await box.cli("zone", "why", "nobody")
        assert why.returncode == 1 and b"no such service" in why.stderr
        for body in ({"page": "service: [web"}, {"page": "service: web\n"}, {}, {"page": 1}):
            with pytest.raises(BadWire):
                await box.control("deploy", **body)
        for name, body in (("scale", {"service": "x"}), ("scale", {"service": "web", "replicas": True}), ("drain", {})):
            with pytest.raises(BadWire):
                await box.control(name, **body)
        with pytest.raises(KeyError):
            await box.control("drain", node="nobody")
        with pytest.raises(KeyError):
            await box.control("scale", service="nobody", replicas=1)
        await box.control("scale", service="web", replicas=0)
        await box.control("drain", node="ood1")

        async def is_drained() -> bool:
            return bool((await box.node())["drain"])

        await box.until(is_drained)


async def test_what_the_owner_signed_is_told_to_the_zone(box: Box, folder: Path) -> None:
    now, document = int(time.time()), folder / "zone.jwt"
    old, new = (sign("ood1", iat=now - age, exp=now + 100_000) for age in (2000, 500))
    async with box.running():
        await box.booted()
        for signed, words in ((new, b"in force from now on"), (old, b"refused"), (sign("ood1", owner=secret(77)), b"")):
            document.write_text(signed.zone + "\n")
            done = await box.cli("zone", "take", str(document))
            assert (done.returncode == 0, words in done.stdout) == (bool(words), True), done
        revision = str(new.state(box.membership).revision)
        await until(lambda: box.house.gateway.status()["modules"]["zone"]["document"] == revision)
        with pytest.raises(BadWire):
            await box.control("take")


async def test_a_version_that_fails_is_taken_back_and_says_so(box: Box, folder: Path) -> None:
    box.package()
    box.package("exit 3", "2")
    (folder / "web.yaml").write_text(page("2", upgrade={"settle": "0s", "deadline": "3s"}))
    async with box.running():
        await box.booted()
        await box.deploy(page())
        first = (await box.ready())["versions"]
        done = await box.cli("zone", "deploy", str(folder / "web.yaml"))
        assert done.returncode == 1 and b" failed: " in done.stdout, done
        assert (await box.ready())["versions"] == first


async def test_the_configuration_by_commands(box: Box) -> None:
    async with box.running():
        await box.booted()
        heard = b""
        async with (
            program([*PROGRAM, "--home", str(box.home), "config", "watch", "users/alice/"]) as watch,
            trio.open_nursery() as setting,
        ):

            async def go_on_setting() -> None:
                for number in count():
                    done = await box.cli("config", "set", "users/alice/profile", json.dumps({"a": number}))
                    assert done.returncode == 0, done

            setting.start_soon(go_on_setting)
            assert watch.stdout is not None
            with trio.fail_after(60):
                while b"\n" not in heard:
                    heard += await watch.stdout.receive_some()
            assert b' users/alice/profile {"a": ' in heard
            setting.cancel_scope.cancel()
        assert (await box.cli("config", "set", "users/alice/profile", '{"a": 1}')).returncode == 0
        got = await box.cli("config", "get", "users/alice/profile")
        assert json.loads(got.stdout) == {"a": 1}
        assert (await box.cli("config", "set", "users/alice/profile", "x", "--if-revision", "1")).returncode == 1
        assert (await box.cli("config", "get", "users/alice/none")).returncode == 1
        assert b"users/alice/profile " in (await box.cli("config", "get", "users/alice/")).stdout
        said = json.loads((await box.cli("zone", "status", "--json")).stdout)
        assert (said["step"], said["name"], said["role"]) == ("booted", "ood1", "ood")
        assert b"booted" in (await box.cli("zone", "status")).stdout


async def test_the_node_has_the_rights_of_its_machine_and_strangers_none(box: Box) -> None:
    me = machine(box.membership.zone, box.membership.device.key)
    assert me is not None
    store = store_as(me, services_of(box.home))
    async with box.running():
        # What is asked before the zone is up waits for it.
        assert (await store.read([At("boot/config")])).entries
        await box.booted()
        for act in (
            store.read([Below("security")]),
            store.transact(Transaction((Set("services/web/spec", "{}"),))),
            store.transact(Transaction((Set("nodes/ood1/config/web", "{}"),))),
        ):
            with pytest.raises(ConfigError) as caught:
                await act
            assert caught.value.code is Code.DENIED
        transport = HttpTransport(by_unix(box.home / SOCKET))
        with pytest.raises(KrpcFault) as refused:
            await Client(transport, "system_config").call("sys_config_get", {"key": "boot/config"})
        assert refused.value.code == "unauthenticated"
        await transport.aclose()


async def test_who_is_shut_out_is_out_in_a_moment(box: Box) -> None:
    """Through all of it: a session over HTTP, and a token of another zone."""
    alice = {"username": "alice", "password": "open sesame"}
    async with box.running():
        await box.booted()

        async def hub(method: str, **params: Any) -> None:
            asked = {"service": "verify-hub", "method": method, "params": params}
            await box.house.gateway.control("zone", "call", asked)

        await hub("set_user", type="user", **alice)
        token = [""]

        async def shown() -> str:
            return token[0]

        transport = HttpTransport(by_unix(box.home / SOCKET), shown)
        store = Client(transport, "system_config", seconds=40)
        for shut_out in (
            lambda: hub("revoke", user="alice"),
            lambda: hub("set_user", username="alice", type="user", state="suspended:holiday"),
        ):
            told = await Client(transport, "verify-hub").call("login_by_password", alice)
            assert isinstance(told, dict)
            token[0] = str(told["session_token"])
            found = await store.call("read", {"scopes": [{"at": "boot/config"}]})
            assert isinstance(found, dict) and found["entries"]
            await shut_out()

            async def is_out() -> bool:
                try:
                    await store.call("sys_config_get", {"key": "boot/config"})
                except KrpcFault as fault:
                    assert fault.code == "unauthenticated"
                    return True
                return False

            await box.until(is_out)
            token[0] = ""
        others = new_keys("other.example", bytes(range(64)), time.time())
        now = int(time.time())
        claims = Claims(use=Use.SUDO, type=Type.OWNER, sub="owner", jti="s.x", iat=now, exp=now + 180)
        token[0] = issued(others, claims)
        with pytest.raises(KrpcFault, match=r"of the zone 'other\.example'"):
            await store.call("sys_config_get", {"key": "boot/config"})
        await transport.aclose()


async def test_without_a_section_it_runs_where_the_machine_is_activated(box: Box, folder: Path) -> None:
    assert read_zone(None).port == 3180
    async with box.running(MIXED + "zone: {port: 0}\n"):
        assert box.told.keys() == {"zone", "node"}
    async with box.running(MIXED + "zone: false\nnode: false\n"):
        assert box.told == {}
        with pytest.raises(KeyError):
            await box.control("nodes")
        await box.house.reload(box.config)
        await box.booted()
    async with living(folder / "other", MIXED) as house:
        assert house.gateway.status()["modules"] == {}


async def test_a_machine_that_is_activated_later_comes_up(folder: Path) -> None:
    home = folder / "home"
    async with living(home, f"{MIXED}zone: {{port: 0}}\nnode: {{home: {folder / 'services'}}}\n") as house:
        await until(lambda: "node activate" in house.gateway.status()["modules"]["zone"].get("why", ""))
        with pytest.raises(Unreachable, match="node activate"):
            await house.gateway.control("zone", "nodes", {})
        activated(home, "ood1")
        await until(lambda: house.gateway.status()["modules"]["zone"]["step"] == "booted")
        await until(lambda: house.gateway.status()["modules"]["node"]["name"] == "ood1")


async def test_a_port_that_another_has_is_told_and_taken_once_it_is_free(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zone.io.module._AGAIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with box.running(box.config.replace("port: 0}\nnode", f"port: {port}}}\nnode")):
            await box.booted()
            assert str(port) in box.told["zone"]["lacks"]
            assert [url for url in box.told["zone"]["kapi"] if url.startswith("http")] == []
            taken.close()
            await until(lambda: f"http://127.0.0.1:{port}" in box.told["zone"]["kapi"])
            assert "lacks" not in box.told["zone"]


async def test_a_machine_that_was_replaced_looks_after_nothing(box: Box) -> None:
    now = int(time.time())
    async with box.running():
        await box.booted()
    newer = sign("ood1", iat=now - 10, exp=now + 100_000, keys={"ood1": secret(77)})
    local = box.home / "names" / "local"
    local.mkdir(parents=True)
    (local / "zone.jwt").write_text(newer.zone)
    async with box.running():
        await until(lambda: box.told["zone"].get("step") == "halted")
        with pytest.raises(Unreachable, match="replaced"):
            await box.control("deploy", page=page())
        await until(lambda: "replaced" in box.told["node"].get("waits_for", ""))
        assert box.told["node"]["name"] == ""
    # Known from the first moment, though nobody tells it again.
    (local / "zone.jwt").unlink()
    async with box.running():
        await until(lambda: "replaced" in box.told["node"].get("waits_for", ""))


async def test_a_zone_of_several_oods_says_what_it_lacks(folder: Path) -> None:
    box = Box(folder, "ood1", "ood2", "ood3")
    async with box.running():
        await until(lambda: box.told["zone"].get("step") == "peers")
        with pytest.raises(Unreachable, match="peers"):
            await box.control("services")


@pytest.mark.parametrize("bad", [1, "x", {"port": "x"}, {"port": True}, {"port": 65536}, {"what": 1}, []])
def test_sections_that_make_no_sense(bad: Any) -> None:
    with pytest.raises(ConfigFault):
        read_zone(bad)
    with pytest.raises(ConfigFault):
        read_node({"home": "relative"} if bad == 1 else bad)

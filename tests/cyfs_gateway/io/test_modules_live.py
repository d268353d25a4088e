"""Modules in a running gateway: what they register works at once, and ends with them."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from freeport import free_port
from inprocess import Living, curl, echo, exactly, hello, living, serve, socks5, until

from cyfs_gateway.host import ENTRY_POINTS, Host, HttpQuery, HttpReply
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.modules.health import HealthModule
from cyfs_ns.errors import ConfigFault

CONFIG = """
listeners: [{name: mixed, type: mixed, listen: 127.0.0.1, port: 0}]
rules: ["MATCH,DIRECT"]
"""


class Guest:
    """A module that does all a module may, as its settings say."""

    section = "guest"
    lives: ClassVar[list[Any]] = []
    withdraw: ClassVar[list[Callable[[], None]]] = []

    @classmethod
    def check(cls, settings: Any) -> None:
        if not isinstance(settings, dict):
            raise ConfigFault("guest: expected a mapping")

    async def run(self, host: Host, settings: Any) -> None:
        self.lives.append(settings)
        failing = settings.get("fails", "")

        def names(name: str) -> tuple[str, ...]:
            if failing == "names" and name == "poison.test":
                raise RuntimeError("names failed")
            return ("127.0.0.1",) if name == "guest.test" else ()

        async def serve(query: HttpQuery) -> HttpReply:
            if query.path == "/fail":
                raise RuntimeError("the service failed")
            return HttpReply(200, f"{query.method} {query.path} {dict(query.query)} {settings['word']}\n".encode())

        async def control(body: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"word": settings["word"], "got": dict(body)}

        def status() -> Mapping[str, Any]:
            if failing == "status":
                raise RuntimeError("status failed")
            return {"word": settings["word"]}

        host.register_names(names)
        host.register_service("page.guest", serve)
        if "route" in settings:
            host.register_route("via.test", settings["route"])
            host.register_route(".below.test", settings["route"])
        if "ways" in settings:
            self.withdraw.append(host.register_ways("moving.test", lambda port: settings["ways"]))
        host.register_control("say", control)
        host.register_status(status)
        assert host.gateway_status()["mode"] == "rule"
        if failing == "run":
            # As from one task of many.
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [RuntimeError("run failed")])])
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)


@pytest.fixture(autouse=True)
def guest(monkeypatch: pytest.MonkeyPatch) -> type[Guest]:
    Guest.lives, Guest.withdraw = [], []
    monkeypatch.setattr(Modules, "discover", staticmethod(lambda: {"guest": Guest, "health": HealthModule}))
    return Guest


async def page(house: Living, url: str) -> tuple[int, str]:
    return await curl("-x", f"http://127.0.0.1:{house.port()}", "-w", "%{http_code}", url)


def status(house: Living) -> dict[str, Any]:
    return house.gateway.status()["modules"]["guest"]


async def test_all_that_a_module_registers(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, web = await serve(nursery, echo), await serve(nursery, hello)
    config = CONFIG + f"guest: {{word: hi, route: 'tcp:///127.0.0.1:{web}'}}\n"
    async with living(tmp_path, config) as house:
        await until(lambda: Guest.lives)
        stream, code = await socks5(house.port(), "guest.test", port)
        assert code == 0
        await stream.send_all(b"named")
        assert await exactly(stream, 5) == b"named"
        await stream.aclose()
        for proxy in ("http", "socks5h"):
            said = await curl("-x", f"{proxy}://127.0.0.1:{house.port()}", "http://page.guest/path?a=b")
            assert said == (0, "GET /path {'a': 'b'} hi\n")
        assert await page(house, "http://via.test/x") == (0, "hello /x200")
        assert await page(house, "http://deep.below.test/y") == (0, "hello /y200")
        assert await house.gateway.control("guest", "say", {"a": 1}) == {"word": "hi", "got": {"a": 1}}
        with pytest.raises(KeyError):
            await house.gateway.control("guest", "nothing", {})
        assert status(house) == {"running": True, "word": "hi"}
        # A service that fails costs its own connection, no more.
        assert (await page(house, "http://page.guest/fail"))[1].endswith("502")
        assert status(house)["running"]
        await house.reload(CONFIG)
        await until(lambda: not house.gateway._around.routes)
        assert not house.gateway._around.names
        assert "guest" not in house.gateway.status()["modules"]
        assert await house.gateway.dns_query("localhost", "A")
        assert len(Guest.lives) == 1


async def test_a_host_whose_ways_change_while_the_module_runs(tmp_path: Path, nursery: trio.Nursery) -> None:
    port, gone = await serve(nursery, hello), free_port()
    async with living(tmp_path, CONFIG + "guest: {word: hi, ways: []}\n") as house:
        await until(lambda: Guest.withdraw)
        ways = Guest.lives[0]["ways"]
        assert (await page(house, "http://moving.test/x"))[1].endswith("502")
        ways[:] = [f"tcp:///127.0.0.1:{gone}", f"tcp:///127.0.0.1:{port}"]
        assert await page(house, "http://moving.test/x") == (0, "hello /x200")
        ways.pop()
        assert (await page(house, "http://moving.test/x"))[1].endswith("502")
        assert status(house)["running"]
        Guest.withdraw[0]()
        assert "moving.test" not in house.gateway._around.routes
        ways[:] = ["no url"]
        await house.reload(CONFIG + "guest: {word: anew, ways: [no url]}\n")
        await until(lambda: len(Guest.withdraw) == 2)
        assert (await page(house, "http://moving.test/x"))[1].endswith("502")
        await until(lambda: not status(house)["running"])
        await until(lambda: "moving.test" not in house.gateway._around.routes)


@pytest.mark.parametrize("fails", ["run", "names", "status"])
async def test_one_that_fails_is_off_and_says_why(tmp_path: Path, nursery: trio.Nursery, fails: str) -> None:
    port = await serve(nursery, echo)
    async with living(tmp_path, CONFIG + f"guest: {{word: hi, fails: {fails}}}\n") as house:
        await until(lambda: Guest.lives)
        if fails == "names":
            _, code = await socks5(house.port(), "poison.test", port)
            assert code != 0
        await until(lambda: not status(house)["running"])
        assert status(house) == {"running": False, "fault": f"{fails} failed"}
        await until(lambda: not house.gateway._around.routes and not house.gateway._around.names)
        stream, code = await socks5(house.port(), "127.0.0.1", port)
        assert code == 0
        await stream.aclose()
        await house.reload(CONFIG + f"guest: {{word: hi, fails: {fails}}}\n")
        await until(lambda: len(Guest.lives) == 2)
        await house.reload(CONFIG + "guest: {word: again}\n")
        await until(lambda: Guest.lives[-1] == {"word": "again"})
        await until(lambda: house.gateway._around.routes)
        assert (await page(house, "http://page.guest/"))[1].endswith("again\n200")


async def test_new_settings_start_it_anew_and_the_same_leave_it_alone(tmp_path: Path) -> None:
    """The old one takes its time to leave; the new one wants the same host name."""
    async with living(tmp_path, CONFIG + "guest: {word: one}\n") as house:
        await until(lambda: Guest.lives)
        await house.reload(CONFIG + "ipv6: false\nguest: {word: one}\n", base="")
        assert len(Guest.lives) == 1
        for number, word in enumerate(("two", "three", "four"), 2):
            await house.reload(CONFIG + f"guest: {{word: {word}}}\n")
            await until(lambda: len(Guest.lives) == number)  # noqa: B023 - awaited in this very round
            await until(lambda: house.gateway._around.routes)
            assert (await page(house, "http://page.guest/"))[1].endswith(f"{word}\n200")
            assert status(house) == {"running": True, "word": word}


async def test_who_asks_right_after_a_reload_is_answered_by_the_new_one(tmp_path: Path) -> None:
    async with living(tmp_path, CONFIG) as house:
        for word in ("one", "two"):
            await house.reload(CONFIG + f"guest: {{word: {word}}}\n")
            assert await house.gateway.control("guest", "say", {}) == {"word": word, "got": {}}
        await house.reload(CONFIG)
        with pytest.raises(KeyError):
            await house.gateway.control("guest", "say", {})


async def test_settings_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    async with living(tmp_path, CONFIG + "guest: {word: one}\n") as house:
        await until(lambda: Guest.lives)
        with pytest.raises(ConfigFault, match="mapping"):
            await house.reload(CONFIG + "guest: [nonsense]\n")
        assert status(house) == {"running": True, "word": "one"}


async def test_the_health_page(tmp_path: Path) -> None:
    async with living(tmp_path, CONFIG + "health: {host: how.are.you}\n") as house:
        await until(lambda: house.gateway._around.routes)
        assert await page(house, "http://how.are.you/live") == (0, "ok\n200")
        code, said = await curl("-x", f"socks5h://127.0.0.1:{house.port()}", "http://how.are.you/")
        assert code == 0
        assert json.loads(said)["mode"] == "rule"
        assert (await page(house, "http://how.are.you/else"))[1].endswith("404")
        assert (await curl("-x", f"http://127.0.0.1:{house.port()}", "-d", "x", "http://how.are.you/"))[1].startswith(
            "only"
        )


def test_what_nobody_names_is_not_imported():
    look = (
        "import sys\n"
        "from cyfs_gateway.io.modules import Modules\n"
        "known = Modules.discover()\n"
        "assert {'certificates', 'health', 'node', 'share', 'sn', 'zone'} <= set(known), set(known)\n"
        "assert 'zone' in known and 'nobody' not in known\n"
        "brought = ('acme', 'cyfs_gateway.io.sn.module', 'node.io.module', 'zone.io.module')\n"
        "assert not sys.modules.keys() & set(brought)\n"
        "assert all(known[section].section == section for section in known)\n"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_that_cannot_be_imported_is_the_fault_of_who_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    broken = importlib.metadata.EntryPoint("broken", "cyfs_gateway.nowhere:Module", ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [broken])
    known = Modules.discover()
    assert set(known) == {"broken"}
    with pytest.raises(ConfigFault, match="broken: the module cannot be loaded: No module named"):
        known["broken"]

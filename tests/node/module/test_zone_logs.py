"""What a gateway and services say is found in the zone's log, and what was decided among the events."""

from __future__ import annotations

import json
from typing import Any

from test_zone_module import Box, box, folder

from zone.io.boot.memory import Memory

__all__ = ["box", "folder"]

TALKS = "echo hello from web; echo careful >&2; exec sleep 1000"
PAGE = json.dumps({"service": "web", "kind": "process", "image": "web:1", "command": ["serve"]})


async def found(box: Box, **wanted: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = (await box.control("logs", **wanted))["lines"]
    return lines


async def until_said(box: Box, message: str, **wanted: Any) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []

    async def is_said() -> bool:
        lines[:] = await found(box, text=message, **wanted)
        return bool(lines)

    await box.until(is_said)
    return lines[-1]


async def test_what_services_say_and_what_was_decided_is_found(box: Box) -> None:
    box.package(TALKS)
    async with box.running():
        await box.booted()
        await box.deploy(PAGE)
        await box.ready()
        said = await until_said(box, "hello from web", service="web")
        assert (said["node"], said["service"], said["level"], said["ood"]) == ("ood1", "web", "info", "ood1")
        assert (await until_said(box, "careful", service=["web"], level="warning"))["attrs"]["stream"] == "err"
        placed = await until_said(box, "place web on ood1", service="cyfs.scheduler", about="web")
        assert placed["attrs"]["event"] == "place"
        await until_said(box, "web: started", service="cyfs.node", about="web")
        await until_said(box, "booted", service="cyfs.zone")
        answer = await box.control("logs", limit=1)
        await box.control("scale", service="web", replicas=0)

        async def is_followed() -> bool:
            more = await box.control("logs", after=answer["after"], wait=1, about="web")
            return any(line["attrs"].get("event") == "ended" for line in more["lines"])

        await box.until(is_followed)
        shown = await box.cli("logs", "--zone", "--service", "web", "--since", "1h")
        assert b"ood1 web: hello from web" in shown.stdout, shown
        events = await box.cli("zone", "events", "--service", "web", "--json")
        assert {"place", "started", "ended"} <= {
            one["attrs"].get("event") for one in json.loads(events.stdout)["lines"]
        }
        assert (await box.cli("logs", "--zone", "--since", "yesterday")).returncode == 2
        assert (await box.cli("logs", "--service", "web")).returncode == 2


async def test_lines_are_told_once_also_by_the_next_daemon(box: Box) -> None:
    box.package(TALKS)
    async with box.running():
        await box.booted()
        await box.deploy(PAGE)
        await box.ready()
        await until_said(box, "hello from web", service="web")
    async with box.running():
        await box.booted()
        assert (await box.control("services"))["services"]["web"]["wanted"] == 1
        await box.removed()
        await until_said(box, "asked to end", service="cyfs.node")
        assert [one["message"] for one in await found(box, service="web", text="hello")] == ["hello from web"]
        assert box.told["zone"]["journal"]["why"] == box.told["node"]["journal"]["why"] == ""


async def test_a_fault_that_a_service_tells_of_is_an_event_and_the_zone_looks_again(box: Box) -> None:
    box.package("echo 'No space left on device' >&2; " + TALKS)
    async with box.running():
        await box.booted()
        await box.deploy(PAGE)
        noticed = await until_said(box, "No space left", service="cyfs.scheduler", about="web")
        assert (noticed["attrs"]["fault"], noticed["attrs"]["where"]) == ("disk-full", "ood1")

        async def is_told() -> bool:
            return b"disk-full" in (await box.cli("config", "get", "system/scheduler/noticed")).stdout

        await box.until(is_told)


async def test_a_service_that_ends_again_and_again_is_noticed(box: Box) -> None:
    box.package("exit 3")
    async with box.running():
        await box.booted()
        await box.deploy(PAGE)
        failed = await until_said(box, "web: counts as failed: ", service="cyfs.node", level="warning")
        assert failed["attrs"]["event"] == "failed"
        noticed = await until_said(box, "crash-loop of web on ood1", service="cyfs.scheduler")
        assert noticed["attrs"]["about"] == "web"


async def test_a_journal_that_is_damaged_begins_anew(box: Box) -> None:
    async with box.running():
        await box.booted()
        await until_said(box, "booted", service="cyfs.zone")
    log = Memory(box.home, box.membership).path / "logs.db"
    log.write_bytes(b"x" * 8192)
    async with box.running():
        await box.booted()
        await until_said(box, "booted", service="cyfs.zone")
    assert log.with_name("logs.db.damaged").exists()

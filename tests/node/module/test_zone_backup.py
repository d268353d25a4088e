"""The zone's configuration is backed up, lost and restored, by commands to a whole gateway."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inprocess import until
from test_zone_module import Box
from zones import ALICE

from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.io.trusted.keystore import put_owner
from zone.config.keys import At
from zone.config.model import Set, Transaction
from zone.io.boot.memory import Memory
from zone.io.config.store import ConfigStore
from zone.io.here import services_of, store_as
from zone.io.operator import OPERATOR


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as found:
        Path(found).chmod(0o755)
        yield Path(found)


def owner(box: Box, folder: Path, key: SecretKey = ALICE) -> Path:
    """Where the owner lives, who signed ``box`` into the zone."""
    put_owner(folder, key, box.membership.owner_token.text)
    (folder / "zone.jwt").write_text(box.membership.zone_token.text)
    return folder / "owner.pem"


def store(box: Box) -> ConfigStore:
    return store_as(OPERATOR, services_of(box.home))


async def told(box: Box, *words: str) -> Any:
    done = await box.cli(*words, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


async def fails(box: Box, *words: str) -> str:
    done = await box.cli(*words)
    assert done.returncode == 1, done
    return done.stderr.decode()


def lose(box: Box) -> None:
    """All that the machine had of the zone's state, but not that it had some."""
    for path in Memory(box.home, box.membership).path.glob("config.db*"):
        path.unlink()


async def test_a_zone_that_lost_its_store_comes_back_by_its_owner(folder: Path) -> None:
    box, usb = Box(folder), folder / "usb"
    usb.mkdir()
    async with box.running():
        await box.booted()
        before = (await store(box).get("boot/verify-hub/keys")).value
        await store(box).transact(
            Transaction((Set("users/alice/profile", '{"name":"Alice"}'), Set("security/mail", '"hush"')))
        )
        assert "no such target" in await fails(box, "zone", "backup", "now", "usb")
        await told(box, "zone", "backup", "add", "usb", str(usb), "--every", "12h", "--keep-last", "2")
        made = await told(box, "zone", "backup", "now", "usb")
        assert (made["by"], made["fault"], made["warnings"]) == ("ood1", "", [])
        last = await told(box, "zone", "backup", "now")
        assert last["number"] == made["number"] + 1 and last["written"] < last["size"]
        (row,) = (await told(box, "zone", "backup", "list"))["targets"].values()
        assert (row["to"], row["on"], row["every"], row["last"]["number"]) == (str(usb), "ood1", "12h", last["number"])
        newest = f"ood1/{last['number']}"
        there = (await told(box, "zone", "backup", "list", "usb"))["backups"]
        assert [one["backup"] for one in there] == [newest, f"ood1/{made['number']}"]
        looked = await told(box, "zone", "backup", "verify")
        assert [(one["backup"], one["lost"], one["damaged"]) for one in looked["backups"]] == [(newest, 0, 0)]
        assert "in the step 'restore'" in await fails(box, "zone", "restore", str(usb))
        for path in (path for path in usb.rglob("*") if path.is_file()):
            assert b"hush" not in path.read_bytes() and b"Alice" not in path.read_bytes()
    lose(box)
    async with box.running():
        await until(lambda: "say which" in box.told["zone"].get("why", ""))
        assert "(known here: usb)" in box.told["zone"]["why"]
        request, permit = str(folder / "request"), str(folder / "permit")
        asked = await told(box, "zone", "restore", "usb", "--request", request)
        assert asked["backup"] == newest
        pem = owner(box, folder / "alice")
        done = await box.cli("zone", "permit", request, "--owner", str(pem), "--yes", "-o", permit)
        assert done.returncode == 0, done
        assert (await told(box, "zone", "restore", "--permit", permit))["backup"] == newest
        await box.booted()
        assert (await store(box).get("users/alice/profile")).value == '{"name":"Alice"}'
        assert (await store(box).get("security/mail")).value == '"hush"'
        assert (await store(box).get("boot/verify-hub/keys")).value != before
        assert (await store(box).read([At("boot/restoring")])).entries == ()
        assert not list(Memory(box.home, box.membership).path.glob("restore.json"))
        # The backups go on where they were.
        again = await told(box, "zone", "backup", "now")
        assert again["number"] > last["number"] and not again["warnings"]

"""The gateway's name server knows who somebody is, says how surely, and neither names nor flows of that kind leak."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from names_house import behind, named

from cyfs_gateway.io.cli import cli
from cyfs_ns.errors import Unreachable
from cyfs_ns.identity.did import Did, dev_did, host_of_did
from cyfs_ns.identity.txt import character_strings, txt_record
from cyfs_ns.io.trusted.store import TrustStore
from cyfs_ns.trust.anchors import Pin
from tests.cyfs_ns.identity.identities import ALICE, HOME, MALLORY, NAS, boot, device

FAKE = "  enhanced-mode: fake-ip\n  fake-ip-range: 198.18.0.1/16\n"
DIRECT = "rules: ['MATCH,DIRECT']\n"


def pin(home: Path) -> str:
    """A pinned zone and a device of its owner, by its key; the device's host name."""
    now = int(time.time())
    TrustStore(home).pin(Pin(about=HOME, key=ALICE.public, source="test", at=now))
    local = home / "names" / "local"
    local.mkdir(parents=True)
    (local / "boot.jwt").write_text(boot(ALICE, "ood1:127.0.0.7@wan", iat=now - 100, exp=now + 7200).text)
    signed = device("nas", NAS, ALICE, iat=now - 100, exp=now + 7200, device_type="ood", ips=("127.0.0.9",))
    (local / "nas.jwt").write_text(signed.text)
    return host_of_did(dev_did(NAS.public), case_safe=True)


async def test_trusted_names_are_answered_with_real_addresses_and_explained(tmp_path: Path) -> None:
    host = pin(tmp_path)
    async with named(tmp_path, FAKE, DIRECT) as names:
        assert (await names.ask("www.example.net"))[0].startswith("198.18.")
        assert await names.ask("ood1.home.example") == ["127.0.0.7"]
        assert await names.ask(host) == ["127.0.0.9"]
        assert await names.ask("alice.eth") == []

        def run(*words: str) -> Result:
            return CliRunner().invoke(cli, ["--home", str(tmp_path), "dns", *words])

        said = await trio.to_thread.run_sync(run, "ood1.home.example", "--explain")
        assert said.exit_code == 0, said.output
        assert "trust=host-snapshot: boot document of did:web:home.example" in said.stdout
        said = await trio.to_thread.run_sync(run, "alice.eth", "--explain", "--json")
        assert json.loads(said.stdout)["source"] == "trusted" and "identity/ens/rpc" in json.loads(said.stdout)["why"]

        world = names.house.gateway._world
        assert await world.resolve(host) == ("127.0.0.9",)
        with pytest.raises(Unreachable, match="nobody who could be asked knows it"):
            await world.resolve("alice.eth")
        with pytest.raises(Unreachable, match=r"names under \.did are"):
            await world.resolve("null.did")
        leaked = [
            name for name in names.upstream.names() + names.upstream.names("TXT") if name.endswith((".eth", ".did"))
        ]
        assert not leaked


async def test_flows_go_where_the_documents_of_a_pinned_host_say_or_nowhere(tmp_path: Path) -> None:
    pin(tmp_path)
    friend = Did("web", "friend.example")
    TrustStore(tmp_path).pin(Pin(about=friend, key=ALICE.public, source="test", at=0))
    now = int(time.time())
    forged = boot(MALLORY, "ood1:127.0.0.66@wan", zone=friend, iat=now - 100, exp=now + 7200)
    pieces = " ".join(f'"{piece}"' for piece in character_strings(txt_record("BOOT", forged.text)))
    records = [f"friend.example. 60 TXT {pieces}"]
    records += [f"{name}. 60 A 127.0.0.66" for name in ("ood1.home.example", "www.home.example", "friend.example")]
    async with behind(*records) as upstream, named(tmp_path, FAKE, DIRECT, upstream=upstream) as names:
        world = names.house.gateway._world
        for resolve in (world.resolve, world._resolve_direct):
            assert await resolve("ood1.home.example") == ("127.0.0.7",)
            assert await resolve("www.home.example") == ("127.0.0.66",)
            with pytest.raises(Unreachable, match="not signed by"):
                await resolve("friend.example")
        assert await names.ask("friend.example") == []
        assert world.peek("ood1.home.example") is None and world.peek("friend.example") is None

"""The owner at the command line: names, domains and machines at an SN, signed here or on a machine without network."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from cyfs_gateway.io.cli import cli
from cyfs_gateway.sn.admission import challenge
from cyfs_gateway.sn.requests import Register, read_request
from cyfs_ns.identity.did import dev_did
from tests.cyfs_gateway.io.inprocess import Living, living, until
from tests.cyfs_gateway.membership.membership_houses import owned, settle, sn_at
from tests.cyfs_ns.identity.identities import ALICE, NAS, secret

OWNER = dev_did(ALICE.public)


@dataclass
class Desk:
    """A home box with its owner's key, and an SN."""

    base: Path
    sn: str
    relay: Living
    home: Living

    async def run(self, *words: str, who: str = "home") -> Result:
        argv = ["--home", str(self.base / who), *words]
        with trio.fail_after(60):
            return await trio.to_thread.run_sync(lambda: CliRunner().invoke(cli, argv))

    async def told(self, *words: str) -> dict:  # type: ignore[type-arg]
        done = await self.run("sn", *words, "--json")
        assert done.exit_code == 0, done.stderr
        found: dict = json.loads(done.stdout)  # type: ignore[type-arg]
        return found

    def why(self) -> str:
        """What the SN is not content with."""
        return str(self.home.gateway.status()["memberships"][0]["why"])


@asynccontextmanager
async def desk(base: Path) -> AsyncIterator[Desk]:
    sn = sn_at(base / "sn", secret(60), "sn.example")
    settle(base / "home", NAS, "ood1")
    owned(base / "home")
    async with living(sn.house.home, sn.house.config.replace("listeners: []", "")) as relay:
        await until(lambda: "domain" in relay.gateway.status()["modules"]["sn"])  # who comes before has to come again
        async with living(base / "home", f"rtcp: {{udp: false, sn: [{sn.entry}]}}\nrules: ['MATCH,DIRECT']\n") as home:
            found = Desk(base, str(sn.house.did), relay, home)
            await until(lambda: "has no account here" in found.why())
            yield found


async def test_the_life_of_an_account(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        no = await here.run("sn", "join", here.sn, "--name", "alice")
        assert (no.exit_code, "without a terminal, say --yes" in no.stderr) == (1, True)
        assert f"Sign for sn.example, as {OWNER}: register alice?" in no.stderr
        assert (await here.told("join", here.sn, "--name", "alice", "--yes"))["why"] == "welcome"
        await until(lambda: here.why() == "")  # at once, though it was refused a moment ago
        seen = await here.told("names", here.sn)
        assert (seen["domain"], seen["names"], seen["knows"]) == ("sn.example", ["alice"], True)
        told = await here.told("point", here.sn, "alice", "--yes")
        assert told["why"] == "done"
        wanted = challenge("home.example", OWNER, "sn.example")
        bound = await here.run("sn", "bind", here.sn, "home.example", "--yes")
        assert bound.exit_code == 1 and wanted.value in bound.stderr and wanted.name in bound.stderr
        nothing = await here.run("sn", "expose", here.sn, "tcp:0/ssh")
        assert (nothing.exit_code, nothing.stderr) == (1, "Error: this SN receives no visitors\n")
        assert (await here.told("leave", here.sn, "--yes"))["why"] == "removed"
        assert not (await here.told("names", here.sn))["knows"]
        assert (await here.told("close", here.sn, "--yes"))["why"] == "closed"


async def test_a_request_is_signed_where_no_network_is_and_sent_from_elsewhere(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        (tmp_path / "safe" / "identity").mkdir(parents=True)
        owned(tmp_path / "safe")
        (tmp_path / "home" / "identity" / "owner.pem").unlink()
        file = tmp_path / "alice.request"
        words = "sn", "join", "sn.example", "--name", "alice", "--yes", "-o", str(file)
        signed = await here.run(*words, who="safe")
        assert signed.exit_code == 0, signed.stderr
        request = read_request(file.read_text().strip(), "sn.example", time.time()).proven(ALICE.public)
        assert (request.issuer, request.action) == (OWNER, Register("alice"))
        assert (await here.told("submit", here.sn, str(file)))["why"] == "welcome"
        await until(lambda: here.why() == "")
        again = await here.run("sn", "submit", here.sn, str(file), "--json")
        assert again.exit_code == 1 and json.loads(again.stdout)["no"] == "replayed"


async def test_an_sn_that_dies_meanwhile_is_not_taken_for_a_gateway_that_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise OSError("a disk that is gone")

    async with desk(tmp_path) as here:
        monkeypatch.setattr("cyfs_gateway.io.sn.desk.Desk._submit", dies)
        done = await here.run("sn", "join", here.sn, "--name", "alice", "--yes")
        assert done.exit_code == 1
        assert f"Error: {here.sn}: the SN is gone" in done.stderr, done.stderr
        assert f"Whether it was done will show: cyfs-gateway sn names {here.sn}" in done.stderr
        assert "Start one with" not in done.stderr


async def test_who_is_suspended_is_told_why(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert (await here.run("sn", "join", here.sn, "--name", "alice", "--yes")).exit_code == 0
        await until(lambda: here.why() == "")
        await here.relay.gateway.control("sn", "suspend", {"of": "alice", "why": "abuse reported on 3 May"})
        await until(lambda: here.why() == "the tunnel ended: the account is barred here: abuse reported on 3 May")
        done = await here.run("sn", "names", here.sn)
        assert done.exit_code == 1
        assert "the account is barred here: abuse reported on 3 May" in done.stderr, done.stderr
        said = await here.run("status")
        assert f"{here.sn}): no tunnel; the tunnel ended: the account is barred here: abuse" in said.stdout, said.stdout


async def test_an_sn_without_documents_is_named_by_its_key(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        done = await here.run("sn", "names", "sn.example")
        assert done.exit_code == 1
        assert "Name the SN by its key there" in done.stderr, done.stderr


async def test_an_sn_is_named_by_the_host_that_the_configuration_has_it_at(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        at = here.home.gateway.status()["memberships"][0]["at"]
        done = await here.run("sn", "join", at.upper(), "--name", "alice", "--yes")
        assert (done.exit_code, done.stdout) == (0, "sn.example: register alice: welcome\n"), done.stderr
        assert (await here.told("names", at))["domain"] == "sn.example"


def test_what_is_signed_for_later_says_for_whom(tmp_path: Path) -> None:
    settle(tmp_path, NAS, "ood1")
    owned(tmp_path)
    words = ["--home", str(tmp_path), "sn", "close", f"{OWNER}", "--yes", "--print"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1 and "needs the domain of the SN" in done.output
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "sn", "close", "sn.example", "--yes", "--print"])
    assert done.exit_code == 0
    assert read_request(done.output.strip(), "sn.example", time.time()).issuer == OWNER


@pytest.mark.parametrize("what", ["tcp:x", "tcp:99999", "..", "sctp:9", "tcp:x/ssh"])
def test_what_cannot_be_exposed_is_wrong_usage(tmp_path: Path, what: str) -> None:
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "sn", "expose", "sn.example", what])
    assert (done.exit_code, "a host name, tcp:PORT or udp:PORT" in done.output) == (2, True)


def test_any_free_port_is_for_a_service(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "sn", "expose", "sn.example", "udp:0"])
    assert (done.exit_code, "udp:0/SERVICE" in done.output) == (2, True)


def test_without_a_gateway_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["--home", str(tmp_path), "sn", "names", "sn.example"])
    assert (done.exit_code, "Start one with" in done.output) == (3, True)
    assert "cyfs-gateway.sock: No such file or directory\n" in done.output

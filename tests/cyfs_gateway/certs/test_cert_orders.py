"""Certificates from a real authority, which looks for its proofs in real DNS and at real ports; and all that may go
wrong on the way."""

from __future__ import annotations

import errno
import os
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from certmaking import DAY

from cyfs_gateway.certs.upkeep import CertFault
from cyfs_gateway.io.certs import store as storing
from cyfs_gateway.io.certs.endtls import end_tls
from cyfs_gateway.io.certs.keeper import Certificates
from cyfs_ns.errors import Refused
from tests.cyfs_gateway.certs.keeping import keeping, until
from tests.cyfs_gateway.certs.pebbleca import Dns, Pebble, pebble, zone


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dns]:
    with zone(tmp_path_factory.mktemp("knot")) as dns:
        yield dns


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory, dns: Dns) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble"), dns.port) as ca:
        yield ca


async def visit(certificates: Certificates, name: str, ca: Pebble) -> str:
    """The name a browser that trusts the authority sees when it asks for ``name``."""
    context = ssl.create_default_context(cadata=ca.roots())
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            ended = await end_tls(stream, certificates, speak=("http/1.1",))
            assert ended is not None
            await ended[0].send_all(ended[1].encode())
            await ended[0].aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        raw = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with trio.SSLStream(raw, context, server_hostname=name, https_compatible=True) as stream:
            with trio.fail_after(60):
                said = (await stream.receive_some()).decode()
            assert stream.selected_alpn_protocol() == "http/1.1"
        nursery.cancel_scope.cancel()
    return said


async def test_names_are_proven_by_dns_and_wildcards_too(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    section = {"names": ["photos.home.test", ["home.test", "*.home.test"]]}
    async with keeping(tmp_path, ca, section, dns) as kept:
        await kept.obtained("photos.home.test")
        await kept.obtained("anything.home.test")
        for name in ("photos.home.test", "home.test", "anything.home.test"):
            assert await visit(kept.certificates, name, ca) == name
        assert kept.certificates.certificate_for("a.b.home.test") is None
        assert dns.texts("home.test") == dns.texts("photos.home.test") == []
        told = kept.told("photos.home.test")
        assert told["state"] == "good" and "fault" not in told
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in kept.store.path.iterdir()}
        assert set(files.values()) == {0o600}
        assert stat.S_IMODE(kept.store.path.stat().st_mode) == 0o700
        assert not [name for name in files if name.endswith(".order")]
    given = ca.issued()
    async with keeping(tmp_path, ca, section, dns) as kept:
        # What is on disk is in use at once, and nothing is ordered.
        assert await visit(kept.certificates, "photos.home.test", ca) == "photos.home.test"
    assert ca.issued() == given


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
async def test_names_are_proven_at_ports(tmp_path: Path, ca: Pebble, challenge: str) -> None:
    name = f"{challenge}.home.test"
    async with keeping(tmp_path, ca, {"names": [name], "challenge": challenge}) as kept:
        await kept.obtained(name)
        assert await visit(kept.certificates, name, ca) == name
        assert kept.certificates.certificate_for(name, ("acme-tls/1",)) is None, "the proof is gone"


async def test_a_client_without_a_certificate_here_hears_it_in_tls(tmp_path: Path, ca: Pebble) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with keeping(tmp_path, ca, {}) as kept, trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(Refused, match=r"other\.home\.test"):
                await end_tls(ours, kept.certificates)

        nursery.start_soon(serve)
        client = trio.SSLStream(theirs, ssl.create_default_context(), server_hostname="other.home.test")
        with pytest.raises(trio.BrokenResourceError) as fault:
            await client.do_handshake()
        assert "UNRECOGNIZED_NAME" in str(fault.value.__cause__)


async def test_renewal_asked_for_by_hand_gives_another_and_keeps_the_account(
    tmp_path: Path, ca: Pebble, dns: Dns
) -> None:
    async with keeping(tmp_path, ca, {"names": ["again.home.test"]}, dns) as kept:
        await kept.obtained("again.home.test")
        first, account = kept.told("again.home.test")["serial"], kept.certificates.status()["account"]
        assert kept.certificates.renew("nobody.home.test") == []
        assert kept.certificates.renew("again.home.test") == ["again.home.test"]
        await until(lambda: kept.told("again.home.test")["serial"] != first)
    async with keeping(tmp_path, ca, {"names": ["again.home.test"]}, dns) as kept:
        kept.certificates.renew()
        await until(lambda: kept.certificates.status()["account"])
        assert kept.certificates.status()["account"] == account


async def test_accounts_that_must_be_bound(tmp_path: Path, dns: Dns) -> None:
    (folder := tmp_path / "ca").mkdir()
    hmac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    section: dict[str, Any] = {"names": ["bound.home.test"]}
    with pebble(folder, dns.port, eab={"kid-1": hmac}) as strict:
        async with keeping(tmp_path, strict, section, dns) as kept:
            told = await kept.failed("bound.home.test")
            assert told["whose"] == "settings" and "eab:" in told["fault"]
        async with keeping(tmp_path, strict, {**section, "eab": {"kid": "kid-1", "hmac": hmac}}, dns) as kept:
            kept.certificates.renew()
            await kept.obtained("bound.home.test")


# --- whose fault ------------------------------------------------------------------------------------------------------


class Liar:
    """Publishes something else."""

    def __init__(self, dns: Dns) -> None:
        self._dns = dns

    async def publish(self, name: str, txt: str) -> None:
        await self._dns.publish(name, "A" * len(txt))

    async def withdraw(self, name: str, txt: str) -> None:
        await self._dns.withdraw(name, "A" * len(txt))


async def test_a_proof_that_is_not_there_is_told_with_its_name(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"names": ["lied.home.test"]}, Liar(dns)) as kept:
        told = await kept.failed("lied.home.test")
        assert told["whose"] == "proof" and "lied.home.test" in told["fault"]
        assert told["next_try"] > kept.clock() + 600
        assert dns.texts("lied.home.test") == []


async def test_where_nobody_speaks_in_dns_nothing_is_ordered_and_soon_tried_again(tmp_path: Path, ca: Pebble) -> None:
    async with keeping(tmp_path, ca, {"names": ["mute.home.test"]}) as kept:
        told = await kept.failed("mute.home.test")
        assert told["whose"] == "dns" and "nobody here speaks for it" in told["fault"]
        assert told["next_try"] < kept.clock() + 60
        assert not kept.certificates.status()["account"]


async def test_a_directory_that_is_not_trusted_is_the_settings_fault(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"names": ["a.home.test"], "trust": ""}, dns) as kept:
        told = await kept.failed("a.home.test")
        assert told["whose"] == "settings" and "not trusted" in told["fault"]


async def test_a_server_that_was_down_is_asked_again_and_gives_then(tmp_path: Path, dns: Dns) -> None:
    (folder := tmp_path / "ca").mkdir()
    with pebble(folder, dns.port) as ca:
        pass
    async with keeping(tmp_path, ca, {"names": ["down.home.test"]}, dns) as kept:
        for hour in range(8):
            await until(lambda hour=hour: kept.told("down.home.test").get("failures") == hour + 1)  # type: ignore[misc]
            kept.clock.ahead += 3 * 3600
        told = kept.told("down.home.test")
        assert told["whose"] == "network"
    # The next life remembers, and does not start over with a burst.
    async with keeping(tmp_path, ca, {"names": ["down.home.test"]}, dns) as kept:
        assert kept.told("down.home.test")["failures"] >= 8


# --- cut off ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["proven", "given"])
async def test_who_is_killed_in_an_order_finishes_that_order(tmp_path: Path, ca: Pebble, dns: Dns, moment: str) -> None:
    given = ca.issued()
    program = [sys.executable, "-m", "tests.cyfs_gateway.certs.dieinorder", str(tmp_path), ca.directory, ca.trust]
    child = subprocess.Popen(  # noqa: ASYNC220
        [*program, str(ca.http), str(ca.tls), str(dns.port), moment],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert child.stdout is not None
        assert await trio.to_thread.run_sync(child.stdout.readline) == b"here\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    assert (tmp_path / "certificates" / "killed.home.test.order").exists()
    async with keeping(tmp_path, ca, {"names": ["killed.home.test"]}) as kept:  # nobody could publish a new proof
        await kept.obtained("killed.home.test")
        assert await visit(kept.certificates, "killed.home.test", ca) == "killed.home.test"
    assert ca.issued() == given + 1
    assert not (tmp_path / "certificates" / "killed.home.test.order").exists()


async def test_an_order_that_is_gone_is_followed_by_a_new_one(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"names": ["gone.home.test"]}, dns) as kept:
        await kept.obtained("gone.home.test")
        key = kept.store.bundle("gone.home.test").pem.partition(b"-----BEGIN CERT")[0].decode()  # type: ignore[union-attr]
        order = storing.OpenOrder(
            directory=ca.directory,
            names=("gone.home.test",),
            uri=ca.directory.replace("/dir", "/my-order/none"),
            finalize=ca.directory.replace("/dir", "/finalize-order/none"),
            key=key,
        )
        kept.store.keep_order("gone.home.test", order)
        first = kept.told("gone.home.test")["serial"]
        kept.certificates.renew()
        await until(lambda: kept.told("gone.home.test")["serial"] != first)


class Disk:
    """Is full, for files that end in ``suffix``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
        self.full, self._write = True, storing.write_atomic

        def write(path: Path, data: bytes) -> None:
            if self.full and path.suffix == suffix:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._write(path, data)

        monkeypatch.setattr(storing, "write_atomic", write)


async def test_a_full_disk_ends_an_order_before_it_counts(
    tmp_path: Path, ca: Pebble, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, given = Disk(monkeypatch, ".order"), ca.issued()
    async with keeping(tmp_path, ca, {"names": ["full.home.test"]}, dns) as kept:
        told = await kept.failed("full.home.test")
        assert told["whose"] == "disk" and "No space" in told["fault"]
        assert ca.issued() == given
        disk.full = False
        kept.clock.ahead += 120
        await kept.obtained("full.home.test")


async def test_a_certificate_that_finds_no_room_is_used_and_written_later(
    tmp_path: Path, ca: Pebble, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, given = Disk(monkeypatch, ".pem"), ca.issued()
    async with keeping(tmp_path, ca, {"names": ["room.home.test"]}, dns) as kept:
        with trio.fail_after(60):
            await kept.certificates.obtained("room.home.test")
        assert await visit(kept.certificates, "room.home.test", ca) == "room.home.test"
        assert (await kept.failed("room.home.test"))["fault"]
        disk.full = False
        await until(lambda: (kept.store.path / "room.home.test.pem").exists())
        await until(lambda: "fault" not in kept.told("room.home.test"))
        assert not (kept.store.path / "room.home.test.order").exists()
    assert ca.issued() == given + 1


# --- clocks -----------------------------------------------------------------------------------------------------------


async def test_a_clock_far_ahead_orders_once_and_then_blames_itself(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"names": ["clock.home.test"]}, dns) as kept:
        await kept.obtained("clock.home.test")
        given = ca.issued()
        kept.clock.ahead = 6 * 365 * DAY
        told = await kept.failed("clock.home.test")
        assert told["whose"] == "clock" and told["state"] == "expired"
        assert ca.issued() == given + 1
        kept.clock.ahead = 0
        await until(lambda: "fault" not in kept.told("clock.home.test"))
        assert kept.told("clock.home.test")["state"] == "good"
    assert ca.issued() == given + 1


async def test_a_clock_that_was_never_set_orders_nothing_until_it_is(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"names": ["unset.home.test"]}, dns, ahead=-1.7e9) as kept:
        kept.certificates.renew()
        looks = kept.clock.looks
        await until(lambda: kept.clock.looks > looks + 6)
        assert "the clock of this machine" in kept.certificates.status()["waits"]
        assert not kept.told("unset.home.test")["working"] and not kept.certificates.status()["account"]
        kept.clock.ahead = 0
        await kept.obtained("unset.home.test")
        assert "waits" not in kept.certificates.status()


# --- on demand --------------------------------------------------------------------------------------------------------


async def test_on_demand_is_for_allowed_names_and_so_many(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    section = {"on-demand": {"allow": ["*.home.test"], "most": 1}}
    async with keeping(tmp_path, ca, section, dns) as kept:
        ask = kept.certificates.certificate_for
        for name in ("a.b.home.test", "home.test", "evil.test", ""):
            assert ask(name) is None
        assert kept.certificates.status()["certificates"] == []
        assert ask("one.home.test") is None
        assert ask("two.home.test") is None
        await kept.obtained("one.home.test")
        assert ask("one.home.test") is not None
        assert ask("two.home.test") is None
        assert [each["label"] for each in kept.certificates.status()["certificates"]] == ["one.home.test"]
    async with keeping(tmp_path, ca, section, dns) as kept:
        assert kept.certificates.certificate_for("one.home.test") is not None
    async with keeping(tmp_path, ca, {}, dns) as kept:
        assert kept.certificates.certificate_for("one.home.test") is None


async def test_a_name_that_fails_on_demand_is_left_alone_for_a_while(tmp_path: Path, ca: Pebble, dns: Dns) -> None:
    async with keeping(tmp_path, ca, {"on-demand": {"allow": ["*.home.test"]}}, Liar(dns)) as kept:
        assert kept.certificates.certificate_for("bad.home.test") is None
        told = await kept.failed("bad.home.test")
        for _ in range(3):
            assert kept.certificates.certificate_for("bad.home.test") is None
            await trio.testing.wait_all_tasks_blocked()
        assert kept.told("bad.home.test")["failures"] == 1 == told["failures"]
        kept.clock.ahead += 3600
        assert kept.certificates.certificate_for("bad.home.test") is None
        await until(lambda: kept.told("bad.home.test")["failures"] == 2)


# --- an authority that lies -------------------------------------------------------------------------------------------


async def test_what_an_authority_gives_is_checked_before_it_is_used(
    tmp_path: Path, ca: Pebble, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certmaking import parts

    from cyfs_gateway.io.certs.acmeclient import AcmeClient

    async def others(self: AcmeClient, order: object, csr: bytes) -> bytes:
        return parts("checked.home.test")[0]

    monkeypatch.setattr(AcmeClient, "fetch", others)
    async with keeping(tmp_path, ca, {"names": ["checked.home.test"]}, dns) as kept:
        told = await kept.failed("checked.home.test")
        assert told["whose"] == "authority" and "the key is not that" in told["fault"]
        assert kept.certificates.certificate_for("checked.home.test") is None
        assert not (kept.store.path / "checked.home.test.order").exists()


def test_a_fault_says_whose_it_is() -> None:
    assert CertFault("limit", "no").advice and CertFault("clock", "no").advice

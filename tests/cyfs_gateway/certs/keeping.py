"""A keeper of certificates inside a test, with its own clock and its own home."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import trio

from cyfs_gateway.certs.wanted import read_settings
from cyfs_gateway.host import TxtPublisher
from cyfs_gateway.io.certs.acmeclient import AcmeClient
from cyfs_gateway.io.certs.answers import Answers
from cyfs_gateway.io.certs.keeper import Certificates
from cyfs_gateway.io.certs.proofdoors import ProofDoors
from cyfs_gateway.io.certs.store import CertStore
from tests.cyfs_gateway.certs.pebbleca import Pebble


class Clock:
    """The clock on the wall, which may be set."""

    def __init__(self, ahead: float) -> None:
        self.ahead, self.looks = ahead, 0

    def __call__(self) -> float:
        self.looks += 1
        return time.time() + self.ahead


class Kept:
    """A running keeper and handles on it."""

    def __init__(self, certificates: Certificates, store: CertStore, clock: Clock) -> None:
        self.certificates, self.store, self.clock = certificates, store, clock

    def told(self, label: str) -> dict[str, Any]:
        """What the status says of one certificate."""
        (found,) = [each for each in self.certificates.status()["certificates"] if each["label"] == label]
        return dict(found)

    async def obtained(self, name: str, seconds: float = 60.0) -> None:
        with trio.fail_after(seconds):
            await self.certificates.obtained(name)
        await until(lambda: not any(each.get("working") for each in self.certificates.status()["certificates"]))

    async def failed(self, label: str) -> dict[str, Any]:
        await until(lambda: "fault" in self.told(label) and not self.told(label)["working"])
        return self.told(label)


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to give
            await trio.sleep(0.01)


@contextmanager
def hasty() -> Iterator[None]:
    """The ACME library waits a second before it looks whether a certificate is ready; not here."""
    quick = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    with patch("acme.client.time", quick), patch("cyfs_gateway.io.certs.acmeclient._FIRST_LOOK", 0.02):
        yield


@asynccontextmanager
async def keeping(
    home: Path,
    ca: Pebble,
    section: dict[str, Any],
    publisher: TxtPublisher | None = None,
    ahead: float = 0.0,
    *,
    doors: bool = True,
) -> AsyncIterator[Kept]:
    """Keep what ``section`` wants, from ``ca``, with proof doors where it looks unless others are.  The clock is looked
    at often."""
    settings = read_settings(
        {"agree": True, "directory": ca.directory, "trust": ca.trust, "contact": "me@home.test", **section}
    )
    store, clock = CertStore(home / "certificates"), Clock(ahead)
    acme = AcmeClient(
        settings.directory,
        lambda: store.account_key(settings.directory),
        trust=settings.trust,
        contact=settings.contact,
        binding=settings.binding,
    )
    certificates = Certificates(settings, store, acme, Answers(lambda name: publisher), wall=clock)
    proof_doors = ProofDoors(certificates)
    with patch("cyfs_gateway.io.certs.keeper.LOOK", 0.05), hasty():
        async with trio.open_nursery() as nursery:
            if doors:
                await nursery.start(proof_doors.serve_http, ("127.0.0.1", ca.http))
                await nursery.start(proof_doors.serve_tls, ("127.0.0.1", ca.tls))
            await nursery.start(certificates.run)
            assert not proof_doors.faults
            yield Kept(certificates, store, clock)
            nursery.cancel_scope.cancel()

"""The module ``certificates``: keeps them for the whole gateway, and says how they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from cyfs_gateway.certs.challengezone import ChallengeZone
from cyfs_gateway.certs.wanted import Settings, read_settings
from cyfs_gateway.host import Changed, Host, TxtPublisher
from cyfs_gateway.io.certs.acmeclient import AcmeClient
from cyfs_gateway.io.certs.answers import Answers
from cyfs_gateway.io.certs.keeper import Certificates
from cyfs_gateway.io.certs.proofdoors import ProofDoors
from cyfs_gateway.io.certs.store import CertStore
from cyfs_ns.errors import Refused


class CertificatesModule:
    """See :mod:`cyfs_gateway.certs.wanted` for its settings."""

    section = "certificates"

    @classmethod
    def check(cls, settings: Any) -> None:
        read_settings(settings)

    async def run(self, host: Host, settings: Any) -> None:
        read = read_settings(settings)
        store = CertStore(host.home / "certificates")
        publisher_for = host.publisher
        if read.serve_dns and read.proves_by_dns:
            own = _OwnDns(ChallengeZone(read.proves_by_dns), host)
            publisher_for = partial(_first, own, host)
        certificates = Certificates(read, store, _client(read, store), Answers(publisher_for))
        doors = ProofDoors(certificates)

        async def listed(body: Mapping[str, Any]) -> Mapping[str, Any]:
            return {**certificates.status(), **({"doors": doors.faults} if doors.faults else {})}

        async def renew(body: Mapping[str, Any]) -> Mapping[str, Any]:
            name = body.get("name", "")
            labels = certificates.renew(name) if isinstance(name, str) else []
            if not labels:
                raise Refused(f"no certificate{f' called {str(name)[:80]!r}' if name else ''} is ordered here")
            return {"renewing": labels}

        async with trio.open_nursery() as nursery:
            await nursery.start(certificates.run)
            host.register_certificates(certificates)
            host.register_control("list", listed)
            host.register_control("renew", renew)
            host.register_status(lambda: _summary(certificates.status(), doors.faults))
            if read.http is not None:
                nursery.start_soon(doors.serve_http, read.http)
            if read.tls is not None:
                nursery.start_soon(doors.serve_tls, read.tls)


def _client(settings: Settings, store: CertStore) -> AcmeClient | None:
    if not settings.wanted and settings.on_demand is None:
        return None
    return AcmeClient(
        settings.directory,
        partial(store.account_key, settings.directory),
        trust=settings.trust,
        contact=settings.contact,
        binding=settings.binding,
    )


def _summary(status: Mapping[str, Any], doors: Mapping[str, str]) -> dict[str, Any]:
    """A line a certificate: what ``cyfs-gateway status`` has room for."""
    told = {}
    for each in status["certificates"]:
        told[each["label"]] = f"{each['state']}: {each['fault']}" if "fault" in each else each["state"]
    return {**told, **{f"listen/{name}": fault for name, fault in doors.items()}}


class _OwnDns:
    """The gateway's own name server, as a publisher."""

    def __init__(self, zone: ChallengeZone, host: Host) -> None:
        self.zone = zone
        self._changed: Changed = host.register_authority(zone)

    async def publish(self, name: str, txt: str) -> None:
        self._changed([self.zone.say(name, txt)])

    async def withdraw(self, name: str, txt: str) -> None:
        self._changed([self.zone.take_back(name, txt)])


def _first(own: _OwnDns, host: Host, name: str) -> TxtPublisher | None:
    """Who else in the house speaks for a name knows its zone; we only its proofs."""
    return host.publisher(name) or (own if own.zone.covers(name) else None)

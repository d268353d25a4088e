"""The SN as a module of the gateway: switched on by the section ``sn``, made of the parts beside this file.

    books, ledger    who is who, and who used what (one SQLite file, ``sn/books.db``)
    keeper           the SN's domain, answered by the gateway's name server (``sn/zone.db``)
    sessions         STUN and the UDP relay, on one port
    leading          streams between members, through the tunnels that they keep here
    ingress          visitors without any client, if the operator wants them, and devices that get through nowhere else
    desk             what peers are answered at ``sn.invalid``
    operator         what the control API, status and the metrics page show

It starts in this order and ends in the opposite one, so that whoever is answered is answered by all of it; what was
acknowledged is on disk, whatever ends it.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import trio

from cyfs_gateway.host import Host
from cyfs_gateway.io.sn.addresses import own_addresses
from cyfs_gateway.io.sn.books import Books, open_books
from cyfs_gateway.io.sn.desk import Desk, Myself
from cyfs_gateway.io.sn.dnszone import ZoneKeeper
from cyfs_gateway.io.sn.ingress import Ingress
from cyfs_gateway.io.sn.leading import Leading
from cyfs_gateway.io.sn.ledger import Ledger
from cyfs_gateway.io.sn.operator import Operator
from cyfs_gateway.io.sn.owndoor import OwnDoor
from cyfs_gateway.io.sn.sessions import Sessions
from cyfs_gateway.io.sn.stunport import FIRST_OCTETS, StunPort
from cyfs_gateway.sn.accounts import Account, AnyChange, Device, Name, Whereabouts
from cyfs_gateway.sn.guests import Guests
from cyfs_gateway.sn.meter import Usage
from cyfs_gateway.sn.quota import Denied, Later
from cyfs_gateway.sn.relaymetrics import relay_metrics
from cyfs_gateway.sn.settings import SECTION, Opened, SnSettings, read_settings
from cyfs_gateway.sn.talk import NAME
from cyfs_gateway.sn.zonerecords import own_labels
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.txt import txt_record
from cyfs_ns.metrics import Metric, single
from rtcp.io.nat.stunserver import serve_stun_tcp

FOLDER: Final = "sn"
BOOKS: Final = "books.db"
ZONE: Final = "zone.db"

_LOOK: Final = 60.0
"""Seconds after which those who have a tunnel are judged again, whatever happens."""
_COURTESY: Final = 1.0
"""Seconds in which whoever has just given up their right to be here hears the answer to that."""

_log = logging.getLogger("cyfs.sn")


class SnModule:
    """See the module's text."""

    section: ClassVar[str] = SECTION
    welcomes: ClassVar[bool] = True

    @classmethod
    def check(cls, settings: Any) -> None:
        read_settings(settings)

    async def run(self, host: Host, settings: Any) -> None:
        told = read_settings(settings)
        owners: set[Did] = set()
        await _know_owners(host, told, owners)
        folder: Path = host.home / FOLDER
        await trio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        async with (
            open_books(folder / BOOKS, told.policy(owners)) as (books, ledger),
            trio.open_nursery() as nursery,
        ):
            sn = _Running(told, host, books, ledger, owners, await host.own_did(), folder)
            await sn.begin(nursery)
            await trio.sleep_forever()


class _Running:
    """One SN at work.  Raises ``ConfigFault`` where it cannot be had."""

    def __init__(
        self,
        settings: SnSettings,
        host: Host,
        books: Books,
        ledger: Ledger,
        owners: set[Did],
        did: Did,
        folder: Path,
    ) -> None:
        assert did.key is not None
        self._settings, self._host, self._books, self._ledger, self._owners = settings, host, books, ledger, owners
        found = settings.addresses or own_addresses()
        zone = settings.zone(found, [txt_record("PKX", did.key.x)])
        self._keeper = ZoneKeeper(zone, books.registry, folder / ZONE)
        self._doubted = trio.Event()
        self._guests = Guests(books.registry, time.time, time.monotonic, lambda: self._doubted.set())
        self._make_room()
        self._leading = Leading(host, ledger, settings.streams)
        self._sessions = _sessions(ledger, settings)
        port = self._sessions.relay.addresses[0][1]
        self._stun = StunPort(zone.addresses, port)
        self._sessions.relay.take_over(FIRST_OCTETS, self._stun)
        myself = Myself(settings.domain, did, zone.addresses, port, own_labels(zone))
        self._own_door = OwnDoor(settings.domain, lambda: host.certificates, host.take_peer)
        self._ingress = None if settings.ingress is None else self._made_ingress(settings)
        self._desk = Desk(
            myself, books, self._keeper, self._guests, self._sessions, self._leading, self._ingress, _Outside(host)
        )
        self._myself = myself
        self._judge_again: Callable[[], None] = _nobody

    def _make_room(self) -> None:
        """For strangers, where they can become anything."""
        settings = self._settings
        self._guests.make_room(settings.guests if settings.opened is not Opened.NOBODY or self._owners else 0)

    def _made_ingress(self, settings: SnSettings) -> Ingress:
        assert settings.ingress is not None
        own = self._own_door.enter
        return Ingress(self._host, lambda name: self._desk.find(name), settings.ingress, self._meter, own=own)

    async def begin(self, nursery: trio.Nursery) -> None:
        """Start all of it in ``nursery``; then peers are answered."""
        await nursery.start(self._keeper.run)
        self._keeper.changed = self._host.register_authority(self._keeper)
        self._books.changed = self._changed
        await nursery.start(self._sessions.relay.run)
        bound = list(dict.fromkeys(self._sessions.relay.addresses))
        nursery.start_soon(self._stun.run, [host for host, _ in bound])
        for host, port in bound:
            for number in (port, port + 1):
                nursery.start_soon(_answer_stun_over_tcp, host, number)
        nursery.start_soon(self._leading.run)
        if self._ingress is not None:
            await nursery.start(self._own_door.run)
            await nursery.start(self._ingress.run)
        nursery.start_soon(self._put_out)
        self._judge_again = self._host.register_welcome(self._guests.wants, self._guests.bars)
        self._host.register_offer(NAME, self._desk.serve)
        Operator(self._books, self._ledger, self._desk, self._host, self._drain, self._judge_again).register()
        self._host.register_status(self._status)
        self._host.register_metrics(self._metrics)

    def _changed(self, changes: Sequence[AnyChange]) -> None:
        """The registry has changed: the zone with it, and whom we let in."""
        registry = self._books.registry
        labels: dict[str, None] = {}
        for change in changes:
            entry = change.entry
            if isinstance(entry, Whereabouts):
                continue
            if isinstance(entry, Device):
                self._judge_visited(entry)
            if isinstance(entry, Name):
                labels[entry.name] = None
            if isinstance(entry, Account) and entry.barred:
                self._leading.end_account(entry.owner, entry.barred)
                self._sessions.end_account(entry.owner, entry.barred)
                for device in registry.devices_of(entry.owner):
                    self._judge_visited(device)
            if (owner := getattr(entry, "owner", None)) is not None:
                labels.update((name.name, None) for name in registry.names_of(owner))
        for label in labels:
            if "." not in label:
                self._keeper.registered(label)
        if any(not isinstance(change.entry, Whereabouts) for change in changes):
            self._doubted.set()

    def _judge_visited(self, device: Device) -> None:
        """Nobody is led to a machine that is nobody's."""
        if self._ingress is not None and self._books.registry.device(device.did) is None:
            self._ingress.drop_device(device.did)

    async def _put_out(self) -> None:
        """Have those judged again who have a tunnel: when something of the registry has changed, when a stranger's time
        is over, and now and then, since documents run out."""
        while True:
            due = self._guests.next_deadline()
            with trio.move_on_after(_LOOK if due is None else min(_LOOK, due - time.monotonic() + 0.1)):
                await self._doubted.wait()
            await trio.sleep(_COURTESY)
            await _know_owners(self._host, self._settings, self._owners)
            self._make_room()
            self._doubted = trio.Event()
            self._judge_again()

    def _meter(self, owner: Did, octets: int) -> Later | Denied | None:
        """For the ingress: count what was carried for ``owner``."""
        return self._ledger.charge(owner, Usage(down=octets))

    def _drain(self, on: bool) -> None:
        self._desk.draining = on
        if self._ingress is not None:
            self._ingress.traffic.draining = on
        _log.warning("the SN begins nothing new" if on else "the SN is open again")

    # What is shown

    def _status(self) -> Mapping[str, Any]:
        registry, relay = self._books.registry, self._sessions.relay
        return {
            "domain": self._myself.domain,
            "did": str(self._myself.did),
            "addresses": list(self._myself.addresses),
            "udp": [_spelled(*place) for place in relay.addresses],
            "open": str(self._settings.opened),
            "owners": sorted(map(str, self._owners)),
            "draining": self._desk.draining,
            "accounts": len(registry.accounts()),
            "devices": sum(one.removed is None for one in registry.devices()),
            "here": sum(self._is_here(one) for one in registry.devices()),
            "names": sum(1 for _ in registry.names()),
            "guests": len(self._guests),
            "streams": len(self._leading),
            "held": self._leading.held,
            "relay_sessions": len(relay),
            "relay_bytes": relay.counters.octets,
            "stream_bytes": self._leading.octets,
            "visitors": 0 if self._ingress is None else len(self._ingress.traffic),
            "ingress": []
            if self._ingress is None
            else [_spelled(host or "*", port) for host, port in self._ingress.places],
            "month": self._ledger.month,
        }

    def _is_here(self, device: Device) -> bool:
        return self._books.registry.device(device.did) is not None and self._host.standing(device.did)

    def _metrics(self) -> Iterator[Metric]:
        registry = self._books.registry
        yield single("cyfs_sn_accounts", "gauge", "Accounts, barred ones too.", len(registry.accounts()))
        here = sum(self._is_here(one) for one in registry.devices())
        yield single("cyfs_sn_devices_here", "gauge", "Registered devices that have a tunnel now.", here)
        yield single("cyfs_sn_guests", "gauge", "Strangers who may have a tunnel for a while.", len(self._guests))
        yield single("cyfs_sn_talks", "gauge", "Streams on which somebody is talked with.", len(self._desk))
        answers = tuple(({"answer": word}, count) for word, count in sorted(self._desk.answers.items()))
        yield Metric("cyfs_sn_answers_total", "counter", "Questions of peers by what was answered.", answers)
        leading = self._leading
        yield single("cyfs_sn_streams", "gauge", "Streams between members now.", len(leading))
        yield single("cyfs_sn_streams_held", "gauge", "Streams that wait for their accounts' pace.", leading.held)
        yield single("cyfs_sn_streams_total", "counter", "Streams between members that were opened.", leading.opened)
        yield single("cyfs_sn_streams_refused_total", "counter", "Streams that could not be opened.", leading.refused)
        yield single("cyfs_sn_stream_bytes_total", "counter", "Bytes carried between members.", leading.octets)
        used = self._ledger.totals().values()
        yield single(
            "cyfs_sn_month_bytes", "gauge", "Bytes of all accounts this month.", sum(one.bytes for one in used)
        )
        stun = self._stun.counts
        told = (("answered", stun.answered), ("ignored", stun.ignored), ("limited", stun.limited))
        samples = tuple(({"became": word}, count) for word, count in told)
        yield Metric("cyfs_sn_stun_total", "counter", "STUN requests by what became of them.", samples)
        yield from relay_metrics(self._sessions.relay.counters, len(self._sessions.relay))
        if self._ingress is not None:
            traffic = self._ingress.traffic
            yield single("cyfs_sn_visitors", "gauge", "Streams of visitors now.", len(traffic))
            yield single("cyfs_sn_visitor_bytes_total", "counter", "Bytes carried for visitors.", traffic.octets)


class _Outside:
    """Whom the books ask (``cyfs_gateway.io.sn.books.Outside``)."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def key_of(self, owner: Did) -> PublicKey | None:
        return await self._host.key_of(owner)

    async def texts_at(self, name: str) -> Sequence[bytes]:
        return await self._host.txt_records(name)


async def _know_owners(host: Host, settings: SnSettings, owners: set[Did]) -> None:
    """Have ``owners`` be those of the configuration and that of this machine, which pins say and may say anew."""
    found = set(settings.owners)
    with suppress(Unreachable, BadWire):
        if owner := await host.owner():
            found.add(parse_did(owner).canonical)
    owners.intersection_update(found)
    owners.update(found)


def _spelled(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nobody() -> None:
    """Nobody judges yet."""


async def _answer_stun_over_tcp(host: str, port: int) -> None:
    """At the numbers of the UDP ports: for those whose networks let no UDP pass, and who meet by TCP."""
    try:
        await serve_stun_tcp(host, port)
    except (OSError, OverflowError) as fault:
        _log.warning("nobody hears over TCP how he is seen, port %d of %s cannot be had: %s", port, host, fault)


def _sessions(ledger: Ledger, settings: SnSettings) -> Sessions:
    """The relay at its port: on all addresses, those of IPv6 too if this machine has any.  Raises ``ConfigFault``."""
    host, port = settings.listen
    open_at = partial(Sessions, ledger, bounds=settings.relay)
    try:
        if host:
            return open_at([(host, port)])
        try:
            return open_at([("0.0.0.0", port), ("::", port)])
        except OSError as fault:
            if fault.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return open_at([("0.0.0.0", port)])
    except OSError as fault:
        raise ConfigFault(f"{SECTION}/listen: UDP port {port} cannot be had: {fault.strerror}") from None

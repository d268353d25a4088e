"""The module ``share``: services at home for browsers, by links that the owner gives and takes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from cyfs_gateway.host import Host
from cyfs_gateway.io.share.book import GrantBook
from cyfs_gateway.io.share.door import KnownBy, ShareDoor
from cyfs_gateway.share.passes import MOST_NOTE, write_pass
from cyfs_gateway.share.section import Service, ShareSettings, read_section
from cyfs_gateway.share.until import read_until
from cyfs_gateway.share.visits import LINK
from cyfs_ns.errors import BadWire, ConfigFault, Refused
from cyfs_ns.identity.did import Did, dev_did, parse_did
from cyfs_ns.identity.keys import PublicKey

_USUAL = "7d"
_TRY_AGAIN = 30.0

_log = logging.getLogger("cyfs.share")


class ShareModule:
    """See :mod:`cyfs_gateway.share.section` for its settings."""

    section = "share"

    @classmethod
    def check(cls, settings: Any) -> None:
        read_section(settings)

    async def run(self, host: Host, settings: Any) -> None:
        read = read_section(settings)
        book = await trio.to_thread.run_sync(GrantBook, host.home / "share")
        services = {service.host: service for service in read.services}
        door = ShareDoor(services, book, lambda: host.certificates, host.open_url)
        faults: dict[str, str] = {}
        desk = _Desk(read, book, host.key_of)
        host.register_control("link", desk.link)
        host.register_control("list", desk.listed)
        host.register_control("revoke", desk.revoke)
        host.register_status(lambda: {"services": sorted(services), "links": len(book.book.grants), **faults})
        async with trio.open_nursery() as nursery:
            # What comes through the gateway, from peers and the ingress of an SN too, is carried to a door of its own.
            (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(partial(trio.serve_listeners, door.visit, [inner], handler_nursery=nursery))
            for service in read.services:
                host.register_route(service.host, f"tcp://127.0.0.1:{inner.socket.getsockname()[1]}")
            known_by: KnownBy = "header" if read.proxy_protocol else "socket"
            for address in read.listen:
                nursery.start_soon(_listen, partial(door.visit, known_by=known_by), address, faults)


async def _listen(
    visit: Callable[[trio.SocketStream], Awaitable[None]], address: tuple[str, int], faults: dict[str, str]
) -> None:
    where = f"[{address[0]}]:{address[1]}"
    while True:
        try:
            listeners = await trio.open_tcp_listeners(address[1], host=address[0])
        except OSError as fault:
            faults[where] = fault.strerror or str(fault)
            _log.error("%s: %s", where, faults[where])
            await trio.sleep(_TRY_AGAIN)
            continue
        faults.pop(where, None)
        await trio.serve_listeners(visit, listeners)


class _Desk:
    """The owner's requests."""

    def __init__(
        self, settings: ShareSettings, book: GrantBook, key_of: Callable[[Did], Awaitable[PublicKey | None]]
    ) -> None:
        self._key_of = key_of
        self._services: dict[str, Service] = {service.name: service for service in settings.services}
        self._book = book
        self._turn = trio.Lock()
        """Of those who write the book."""

    async def link(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a link to ``service`` until ``until``, with a ``note``; ``for`` is the DID of who alone may open it."""
        name, until, note, whose = (str(body.get(key) or "") for key in ("service", "until", "note", "for"))
        service = self._services.get(name)
        if service is None:
            raise Refused(f"no service {name[:40]!r} is shared here; there is {', '.join(self._services) or 'none'}")
        if service.auth == "open" and whose:
            raise Refused(f"{name} is open to everybody")
        if service.auth == "open":
            return {"url": f"https://{service.host}/", "open": True}
        now = int(time.time())
        try:
            moment = read_until(until or _USUAL, now)
        except ConfigFault as fault:
            raise Refused(str(fault)) from None
        machine = await self._machine(whose) if whose else ""
        give = partial(
            self._book.give,
            service.name,
            service.host,
            until=moment,
            note=(note or whose)[:MOST_NOTE],
            now=now,
            whose=machine,
        )
        async with self._turn:
            grant = await _written(give)
        token = write_pass(grant, "share-link", self._book.book.key)
        return {"url": f"https://{service.host}{LINK}{token}", **asdict(grant)}

    async def _machine(self, text: str) -> str:
        """The key that ``text`` is by now, as a DID."""
        try:
            did = parse_did(text)
        except BadWire as bad:
            raise Refused(str(bad)) from None
        key = did.canonical.key or await self._key_of(did)
        if key is None:
            raise Refused(f"nobody knows the key of {did}")
        return str(dev_did(key))

    async def listed(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        now = time.time()
        grants = sorted(self._book.book.grants.values(), key=lambda grant: grant.until)
        return {"links": [{**asdict(grant), "expired": grant.until <= now} for grant in grants]}

    async def revoke(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the link ``id`` back, and every cookie that came from it."""
        async with self._turn:
            return asdict(await _written(partial(self._book.revoke, str(body.get("id", "")))))


async def _written(work: Any) -> Any:
    try:
        return await trio.to_thread.run_sync(work)
    except OSError as fault:
        raise Refused(f"it could not be written down, so nothing has changed: {fault.strerror}") from fault

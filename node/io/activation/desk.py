"""Where a machine takes a membership: from a file, or on its page from whoever knows the code.

The page is served by the frame of the control API, which lets in no other page's requests and no other host names.  It
ends with the first activation.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import segno
import trio

from cyfs_ns.control.access import Door
from cyfs_ns.control.router import Route, Router
from cyfs_ns.errors import BadWire, CyfsError
from cyfs_ns.identity.did import dev_did
from cyfs_ns.identity.keys import SecretKey
from cyfs_ns.identity.request import DeviceRequest, write_request
from cyfs_ns.identity.strictjson import Json, write_json
from cyfs_ns.io.control.conversation import Call, Feed, Handler, Reply, Site, json_reply
from cyfs_ns.io.control.entrance import close_entrances, open_tcp, serve_entrances
from cyfs_ns.io.control.wire import HttpFault
from cyfs_ns.printable import printable
from node.activation.accept import check_acceptable
from node.activation.code import Answer, Guard
from node.activation.page import HEADERS, PAGE
from zone.io.membership import MembershipStore
from zone.membership import MOST_MEMBERSHIP, Membership, read_membership, role_of

_ROOM: Final = 4096
"""Bytes of a request beside the membership in it."""
_COURTESY: Final = 2.0
"""Seconds in which the page hears that it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The machine of ``key``, whose home is ``home``.  ``name``: what it asked to be called, None if it did not."""

    home: Path
    key: SecretKey
    name: str | None = None
    clock: Callable[[], float] = time.time

    def look(self, untrusted: bytes) -> Membership:
        """The membership in ``untrusted``, if this machine may take it.  Blocks on the disk.

        Raises ``BadWire``, ``Refused``, ``ConfigFault``, ``OSError``.
        """
        now, store = self.clock(), MembershipStore(self.home)
        store.mend(now)
        new = read_membership(untrusted, now)
        check_acceptable(new, store.held(), self.key.public, self.name)
        store.check(new)
        return new

    def take(self, membership: Membership) -> None:
        """What :meth:`look` gave and a person agreed to.  Blocks on the disk, and raises as it."""
        MembershipStore(self.home).put(membership, self.clock())


class Page:
    """The page of ``desk``, which shows ``request`` and believes whoever knows ``code``."""

    def __init__(self, desk: Desk, request: DeviceRequest, code: str) -> None:
        self._desk, self._guard = desk, Guard(code)
        self._name = request.name
        self._request = write_json(write_request(request, desk.key)).decode()
        self._done = trio.Event()
        self._turn = trio.Lock()
        self.membership: Membership | None = None
        """What was accepted."""

    async def serve(self, host: str, port: int, ready: Callable[[list[str]], None]) -> Membership:
        """Serve at ``host`` and ``port`` until a membership was accepted.  ``ready`` hears the URLs.

        Raises ``ConfigFault`` where nobody can listen.
        """
        site = Site(self, Router(_ROUTES))
        entrances = await open_tcp((host, port), Door())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_entrances, site, entrances)
                ready([f"{entrance.url}/" for entrance in entrances])
                await self._done.wait()
                await trio.sleep(_COURTESY)
                nursery.cancel_scope.cancel()
        finally:
            close_entrances(entrances)
        assert self.membership is not None
        return self.membership

    def asked(self) -> Reply:
        """What the machine asks for."""
        return json_reply({"name": self._name, "key": str(dev_did(self._desk.key.public)), "request": self._request})

    @cached_property
    def _drawn(self) -> bytes:
        """Once: it takes a tenth of a second, and anybody may look."""
        drawn = io.BytesIO()
        segno.make_qr(self._request, error="l").save(drawn, kind="svg", border=2, xmldecl=False, light="#fff")
        return drawn.getvalue()

    def picture(self) -> Reply:
        """The same for a camera."""
        return Reply(200, self._drawn, (("Content-Type", "image/svg+xml"), ("Cache-Control", "no-store")))

    async def offered(self, code: str, untrusted: str, owner: str | None) -> Reply:
        """A membership, from whoever says ``code``; it is taken when they say whose it is.  Raises ``HttpFault``."""
        answer = self._guard.look(code, trio.current_time())
        if answer is Answer.LATER:
            raise HttpFault(429, "too many wrong codes; wait a minute, or use: node activate --bundle")
        if answer is Answer.WRONG:
            raise HttpFault(403, "this is not the code on the machine's terminal")
        async with self._turn:
            if self.membership is not None:
                raise HttpFault(409, "this machine was activated a moment ago")
            try:
                new = await trio.to_thread.run_sync(self._desk.look, untrusted.encode("utf-8", "replace"))
                done = owner == new.owner.key.x
                if done:
                    await trio.to_thread.run_sync(self._desk.take, new)
                    self.membership = new
                    self._done.set()
            except BadWire as bad:
                raise HttpFault(400, printable(str(bad))) from None
            except (CyfsError, OSError) as fault:
                raise HttpFault(409, printable(str(fault))) from None
        return json_reply({**told(new), "done": done})


def told(membership: Membership) -> dict[str, Json]:
    """A membership for people."""
    zone = membership.zone
    return {
        "zone": str(zone.id),
        "name": membership.name,
        "role": str(role_of(zone.oods, membership.name)),
        "owner": printable(membership.owner.name),
        "key": membership.owner.key.x,
    }


async def _page(call: Call[Page]) -> Reply | Feed:
    return Reply(200, PAGE, HEADERS)


async def _request(call: Call[Page]) -> Reply | Feed:
    return call.app.asked()


async def _picture(call: Call[Page]) -> Reply | Feed:
    return call.app.picture()


async def _activation(call: Call[Page]) -> Reply | Feed:
    said = call.json()
    code, membership, owner = said.get("code"), said.get("membership"), said.get("owner")
    if not isinstance(code, str) or not isinstance(membership, str) or not isinstance(owner, str | None):
        raise HttpFault(400, "Body invalid")
    return await call.app.offered(code, membership, owner)


_ROUTES: Final[tuple[Route[Handler[Page]], ...]] = (
    Route("GET", "/", _page),
    Route("GET", "/request", _request),
    Route("GET", "/request.svg", _picture),
    Route("POST", "/activation", _activation, MOST_MEMBERSHIP + _ROOM),
)

"""Health checks: how long an HTTP request through an outbound takes.

The delay is what Clash measures: from the start of the connect to the head of the answer; with ``unified-delay``, a
second request over the same connection is timed instead, so that handshakes do not count.  Several callers asking for
the same check share one.  Rounds are lazy when the group wants it: nobody used it, nobody checks it.
An outbound that can be pinged is, whatever the URL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

import h11
import trio

from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from tunnels.authority import parse_authority
from tunnels.endpoint import Endpoint, Target
from tunnels.group import SLOWEST, Delay, Health, StatusRanges
from tunnels.io.tls import TlsClient
from tunnels.io.waiting import receive_some, send_all, within
from tunnels.outbound import Outbound, Pinged
from tunnels.spec import GroupSpec, TlsOptions

_AT_ONCE: Final = 10
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


class Checked(Protocol):
    """What has members to be checked: a group."""

    spec: GroupSpec
    wants_check: trio.Event

    @property
    def members(self) -> Sequence[Outbound]: ...
    def used_since_asked(self) -> bool: ...


class _Running:
    """A check under way, for those who ask for the same one."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.outcome: int | Exception = Unreachable("the check was given up")


class Checker:
    """Measures delays and records them in ``health``.  ``tls`` judges test servers, by default as for any server."""

    def __init__(self, health: Health, *, unified_delay: bool = False, tls: TlsClient | None = None) -> None:
        self.health = health
        self._unified = unified_delay
        self._tls = tls or TlsClient(TlsOptions())
        self._limit = trio.Semaphore(_AT_ONCE)
        self._running: dict[tuple[str, str], _Running] = {}

    async def check(self, outbound: Outbound, url: str, *, timeout: float, expected: StatusRanges | None = None) -> int:
        """Milliseconds (at least 1), recorded.  Raises ``Unreachable``, recorded as 0; ``ConfigFault``, a bad URL."""
        goal = _read_url(url)
        key = (outbound.name, url)
        running = self._running.get(key)
        if running is not None:
            await running.ended.wait()
        else:
            self._running[key] = running = _Running()
            try:
                async with self._limit:
                    running.outcome = await self._measure(outbound, goal, timeout, expected)
                self.health.record(*key, Delay(time.time(), running.outcome))
            except Unreachable as fault:
                self.health.record(*key, Delay(time.time(), 0))
                running.outcome = fault
            finally:
                del self._running[key]
                running.ended.set()
        if isinstance(running.outcome, Exception):
            raise running.outcome
        return running.outcome

    async def check_all(
        self, outbounds: Iterable[Outbound], url: str, *, timeout: float, expected: StatusRanges | None = None
    ) -> dict[str, int]:
        """Check all, a few at a time.  The answer has only those that live."""
        delays: dict[str, int] = {}

        async def one(outbound: Outbound) -> None:
            with suppress(Unreachable):
                delays[outbound.name] = await self.check(outbound, url, timeout=timeout, expected=expected)

        async with trio.open_nursery() as nursery:
            for outbound in outbounds:
                nursery.start_soon(one, outbound)
        return delays

    async def keep_checking(self, group: Checked, jitter: float) -> None:
        """Check a group's members now and at every ``interval``, until cancelled.

        ``jitter`` (seconds) puts off every round, so that groups of the same interval do not all knock at once.
        """
        spec = group.spec
        expected = StatusRanges(spec.expected_status)
        pause = spec.interval if spec.interval > 0 else math.inf
        while True:
            await trio.sleep(jitter)
            group.used_since_asked()
            await self.check_all(group.members, spec.url, timeout=spec.timeout, expected=expected)
            group.wants_check = trio.Event()
            while not group.wants_check.is_set():
                with trio.move_on_after(pause):
                    await group.wants_check.wait()
                if not spec.lazy or group.used_since_asked():
                    break

    async def _measure(self, outbound: Outbound, goal: _Goal, timeout: float, expected: StatusRanges | None) -> int:
        try:
            with within(timeout, f"the check of {outbound.name}"):
                if isinstance(outbound, Pinged):
                    return _milliseconds(await outbound.ping())
                seconds, status = await self._time(outbound, goal)
        except (OSError, h11.RemoteProtocolError, Refused) as fault:
            raise Unreachable(f"the check of {outbound.name} failed: {fault}", "tunnel_open") from fault
        if expected is not None and status not in expected:
            raise Unreachable(f"the check of {outbound.name} got status {status}", "tunnel_open")
        return _milliseconds(seconds)

    async def _time(self, outbound: Outbound, goal: _Goal) -> tuple[float, int]:
        began = trio.current_time()
        ep = await outbound.open_stream(goal.target)
        try:
            if goal.secure:
                ep = await self._tls.wrap(ep, goal.target.host)
            http = h11.Connection(h11.CLIENT)
            status = await _ask(ep, http, goal)
            if self._unified and http.our_state is h11.DONE and http.their_state is h11.DONE:
                http.start_next_cycle()
                began = trio.current_time()
                status = await _ask(ep, http, goal)
            return trio.current_time() - began, status
        finally:
            ep.close()


@dataclass(frozen=True, slots=True)
class _Goal:
    """A test URL, taken apart."""

    target: Target
    path: str
    secure: bool


def _milliseconds(seconds: float) -> int:
    return min(SLOWEST - 1, max(1, round(seconds * 1000)))


def _read_url(url: str) -> _Goal:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ConfigFault(f"a test URL begins with http:// or https://, not {parts.scheme!r}")
    secure = parts.scheme == "https"
    try:
        target = parse_authority(parts.netloc.rpartition("@")[2].encode(), 443 if secure else 80)
    except BadWire as fault:
        raise ConfigFault(f"the test URL's host cannot be used: {fault}") from fault
    asked = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Goal(target, quote(asked, safe=_PRINTABLE), secure)


async def _ask(ep: Endpoint, http: h11.Connection, goal: _Goal) -> int:
    """One HEAD request; its status."""
    headers = [("Host", str(goal.target)), ("User-Agent", "cyfs-gateway"), ("Accept", "*/*")]
    request = http.send(h11.Request(method="HEAD", target=goal.path, headers=headers)) or b""
    await send_all(ep, request + (http.send(h11.EndOfMessage()) or b""))
    status = 0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await receive_some(ep))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.EndOfMessage):
            return status
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the server hung up")

"""Proxy providers and rule providers: lists that live elsewhere and come in again from time to time.

A provider's life is the same for both kinds: at start its last good copy on disk is used at once (no network is needed
to start); then it is downloaded when that copy is older than ``interval``, or from the future since a clock was wrong,
and again at every interval, whatever the wall clock does meanwhile.  What comes in is parsed *before* it replaces
anything: a broken, cut short or too big download leaves the old state, in memory and on disk, and says so in the log.
Copies are written atomically.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_gateway.config.model import ProxyProviderConfig, RuleProviderConfig
from cyfs_gateway.config.subscription import ProviderContent, parse_provider
from cyfs_gateway.rules.formats import inline_rule_set, parse_rule_set
from cyfs_gateway.rules.sets import RuleSet
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Unreachable
from cyfs_ns.io.atomic import write_atomic
from cyfs_ns.io.http import Response

_SIZE_LIMIT: Final = 64 << 20
_RETRY_SECONDS: Final = 60.0
_DIGITS_MOST: Final = 18
_FORMATS: Final = {"yaml": "YamlRule", "text": "TextRule", "mrs": "MrsRule"}
_VEHICLES: Final = {"http": "HTTP", "file": "File", "inline": "Inline"}

Download = Callable[..., Awaitable[Response]]
"""``download(url, via=, headers=, max_bytes=)``."""

_log = logging.getLogger("cyfs.providers")


class _Provider:
    """What both kinds share.  Subclasses say how a body becomes content (``_take``)."""

    def __init__(self, config: ProxyProviderConfig | RuleProviderConfig, home: Path, download: Download) -> None:
        self.name = config.name
        self._source = config
        self._download = download
        self.updated_at = 0.0
        """Unix time of the content in force, 0: none yet."""
        self._due = -math.inf
        """When to look for the next content, on trio's clock."""
        self._etag = ""
        self._busy = trio.Lock()
        folder = "rules" if isinstance(config, RuleProviderConfig) else "providers"
        named = hashlib.sha256(config.url.encode()).hexdigest()[:32]
        self._path = Path(config.path) if config.path else home / folder / named

    async def start(self) -> None:
        """Take what is at hand: the inline list, the file, or the last good copy.  Raises ``ConfigFault``."""
        if self._source.type == "inline":
            return
        try:
            body, modified = await trio.to_thread.run_sync(self._read)
        except FileNotFoundError:
            if self._source.type == "file":
                raise ConfigFault(f"provider {self.name}: {self._path} does not exist") from None
            return
        except OSError as fault:
            raise ConfigFault(f"provider {self.name}: {self._path}: {fault}") from fault
        try:
            if len(body) > self._limit:
                raise BadWire(f"over the limit of {self._limit} bytes")
            await self._take(body)
            self.updated_at = modified
            age = time.time() - modified
            if age >= 0.0 or not self._source.interval:
                self._due = trio.current_time() + self._interval - age
        except BadWire as fault:
            if self._source.type == "file":
                raise ConfigFault(f"provider {self.name}: {self._path}: {fault}") from fault
            _log.warning("provider %s: the saved copy is of no use (%s); downloading it again", self.name, fault)

    def _read(self) -> tuple[bytes, float]:
        with self._path.open("rb") as file:
            return file.read(self._limit + 1), os.fstat(file.fileno()).st_mtime

    @property
    def _limit(self) -> int:
        return self._source.size_limit or _SIZE_LIMIT

    @property
    def _interval(self) -> float:
        return self._source.interval or math.inf

    async def update(self) -> None:
        """Bring the newest content in.  Raises ``CyfsError`` or ``OSError``; then everything is as before."""
        async with self._busy:
            if self._source.type == "inline":
                return
            if self._source.type == "file":
                body, modified = await trio.to_thread.run_sync(self._read)
                if len(body) > self._limit:
                    raise BadWire(f"provider {self.name}: over the limit of {self._limit} bytes")
                await self._take(body)
                self.updated_at = modified
                return
            headers = [(key, value) for key, values in self._source.header.items() for value in values]
            if self._etag and self.updated_at:
                headers.append(("if-none-match", self._etag))
            response = await self._download(
                self._source.url, via=self._source.proxy, headers=headers, max_bytes=self._limit
            )
            if response.status == 304:
                with suppress(FileNotFoundError):
                    await trio.to_thread.run_sync(os.utime, self._path)
            elif response.status != 200:
                raise Unreachable(f"provider {self.name}: the server answered {response.status}")
            else:
                await self._take(response.body)
                try:
                    await trio.to_thread.run_sync(self._save, response.body)
                except OSError as fault:
                    _log.warning("provider %s is in force but not saved: %s", self.name, fault)
                self._etag = response.header("etag")
                self._note(response)
            self.updated_at = time.time()
            self._due = trio.current_time() + self._interval

    def _save(self, body: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path, body)

    async def keep_fresh(self) -> None:
        """Update at every interval, sooner after a failure, until cancelled."""
        if self._source.type != "http":
            return
        while True:
            if trio.current_time() < self._due:
                await trio.sleep_until(self._due)
                continue
            try:
                await self.update()
                _log.info("provider %s is up to date", self.name)
            except (CyfsError, OSError) as fault:
                _log.warning("provider %s was not updated, what it had stays: %s", self.name, fault)
                await trio.sleep(_RETRY_SECONDS)

    async def _take(self, body: bytes) -> None:
        raise NotImplementedError

    def _note(self, response: Response) -> None:
        """Look at the headers of a good response."""

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self.updated_at, UTC).isoformat() if self.updated_at else "0001-01-01T00:00:00Z"


class ProxyProvider(_Provider):
    """Proxies from elsewhere; ``on_change`` is told of every new content."""

    def __init__(
        self,
        config: ProxyProviderConfig,
        home: Path,
        download: Download,
        on_change: Callable[[ProxyProvider], None],
    ) -> None:
        super().__init__(config, home, download)
        self.config = config
        self.content = ProviderContent(config.payload, (), ())
        self._on_change = on_change
        self._subscription: dict[str, int] = {}
        if config.payload:
            self.updated_at = time.time()

    async def _take(self, body: bytes) -> None:
        content = await trio.to_thread.run_sync(parse_provider, body, self.config)
        if not content.proxies and not content.unsupported:
            raise BadWire("no proxy is in it, or none passes the filters")
        for fault in content.faults:
            _log.warning("provider %s: %s", self.name, fault)
        self.content = content
        self._on_change(self)

    def _note(self, response: Response) -> None:
        """``subscription-userinfo: upload=1; download=2; total=3; expire=4``, bytes and Unix seconds."""
        found: dict[str, int] = {}
        for part in response.header("subscription-userinfo").split(";"):
            key, _, value = part.strip().partition("=")
            value = value.strip()
            if key in ("upload", "download", "total", "expire") and value.isdecimal() and len(value) <= _DIGITS_MOST:
                found[key.capitalize()] = int(value)
        self._subscription = found

    def view(self, proxies: list[Mapping[str, Any]]) -> dict[str, Any]:
        """The body of GET /providers/proxies/{name}."""
        check = self.config.health_check
        view: dict[str, Any] = {
            "name": self.name,
            "type": "Proxy",
            "vehicleType": _VEHICLES[self.config.type],
            "proxies": proxies,
            "testUrl": check.url,
            "expectedStatus": check.expected_status,
            "updatedAt": self._stamp(),
        }
        if self._subscription:
            view["subscriptionInfo"] = self._subscription
        return view


class RuleProvider(_Provider):
    """A rule set from elsewhere; ``on_change`` is told of every new content."""

    def __init__(
        self,
        config: RuleProviderConfig,
        home: Path,
        download: Download,
        on_change: Callable[[RuleProvider], None],
        bridges: Mapping[str, str],
    ) -> None:
        super().__init__(config, home, download)
        self.config = config
        self._on_change, self._bridges = on_change, bridges
        self.content = RuleSet(behavior=config.behavior)
        if config.type == "inline":
            try:
                self.content = inline_rule_set(config.payload, config.behavior, bridges)
            except BadWire as fault:
                raise ConfigFault(f"rule provider {config.name}: {fault}") from fault
            self.updated_at = time.time()

    async def _take(self, body: bytes) -> None:
        config = self.config
        content = await trio.to_thread.run_sync(
            parse_rule_set, body, config.behavior, config.format, self._limit, self._bridges
        )
        for fault in content.faults:
            _log.warning("rule provider %s: %s", self.name, fault)
        self.content = content
        self._on_change(self)

    def view(self) -> dict[str, Any]:
        """The body of GET /providers/rules/{name}."""
        return {
            "behavior": {"domain": "Domain", "ipcidr": "IPCIDR", "classical": "Classical"}[self.config.behavior],
            "format": _FORMATS[self.config.format],
            "name": self.name,
            "ruleCount": self.content.count,
            "type": "Rule",
            "updatedAt": self._stamp(),
            "vehicleType": _VEHICLES[self.config.type],
        }

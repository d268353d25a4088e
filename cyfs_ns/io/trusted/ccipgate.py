"""Web gateways that contracts send us to (CCIP-Read).  Whoever owns any name on the chain chooses these URLs, so they
are asked as ``safefetch.py`` asks strangers."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from cyfs_ns.ens.lookup import Fetch, Fetched
from cyfs_ns.errors import CyfsError
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.trusted.safefetch import Limits, Resolve, SafeFetch, host_of


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The limits."""

    most_bytes: int = 1 << 20
    timeout: float = 4.0
    """Seconds for one gateway, all in all."""
    at_once: int = 2
    """Requests to one host at the same time."""
    private: frozenset[str] = frozenset()
    """Hosts of the owner's own that may have private addresses."""
    insecure: frozenset[str] = frozenset()
    """Hosts of the owner's own that may be asked by http."""


class CcipGate:
    """Asks gateways."""

    def __init__(
        self,
        resolve: Resolve,
        config: GateConfig = GateConfig(),
        *,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        limits = Limits(most_bytes=config.most_bytes, timeout=config.timeout, at_once=config.at_once)
        self._config = config
        self._fetch = SafeFetch(resolve, limits, dial=dial, tls=tls, whom="gateway")

    async def fetch(self, wanted: Fetch) -> Fetched:
        """What the gateway says; a refusal or failure is told in ``Fetched.why``."""
        try:
            host = host_of(wanted.url)
            response = await self._fetch.fetch(
                wanted.url,
                method="GET" if wanted.body is None else "POST",
                headers=() if wanted.body is None else (("content-type", "application/json"),),
                body=wanted.body or b"",
                private=host in self._config.private,
                insecure=host in self._config.insecure,
            )
        except CyfsError as fault:
            return Fetched(0, why=str(fault))
        return Fetched(response.status, response.body)

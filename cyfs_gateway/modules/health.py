"""The health page: a host name that answers through the gateway itself, for load balancers and people.

Section ``health: {host: health.gateway}``.  ``http://HOST/`` shows how the gateway is, ``http://HOST/live`` answers 200
while it runs.  Because it is served by the way every flow takes, an answer proves listener, rules and relay at once.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from cyfs_gateway.host import Host, HttpQuery, HttpReply
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault

DEFAULT_HOST = "health.gateway"


def _host_of(settings: Any) -> str:
    if settings is None or settings is True:
        return DEFAULT_HOST
    if not isinstance(settings, dict) or set(settings) - {"host"}:
        raise ConfigFault("health: expected a mapping with the key 'host' only")
    try:
        return names.name(str(settings.get("host", DEFAULT_HOST)))
    except BadWire as fault:
        raise ConfigFault(f"health/host: {fault}") from fault


class HealthModule:
    """See the module's text."""

    section = "health"

    @classmethod
    def check(cls, settings: Any) -> None:
        _host_of(settings)

    async def run(self, host: Host, settings: Any) -> None:
        async def answer(query: HttpQuery) -> HttpReply:
            if query.method not in ("GET", "HEAD"):
                return HttpReply(405, b"only GET is answered here\n")
            if query.path == "/live":
                return HttpReply(200, b"ok\n")
            if query.path == "/":
                body = json.dumps(dict(host.gateway_status()), indent=2, default=str).encode() + b"\n"
                return HttpReply(200, body, "application/json")
            return HttpReply(404, b"there is / and /live\n")

        name = _host_of(settings)
        host.register_service(name, answer)
        host.register_status(lambda: {"host": name})
        await trio.sleep_forever()

"""Whether a service answers on its port, as its page says to ask."""

from __future__ import annotations

from typing import Final

import trio

from cyfs_ns.errors import BadWire, Refused, Unreachable
from cyfs_ns.io.dial import plain_dial
from cyfs_ns.io.http import fetch
from node.run.runner import Order

PATIENCE: Final = 5.0
"""Seconds for an answer."""
_HERE: Final = "127.0.0.1"
_MOST_BODY: Final = 1 << 20
_connect: Final = plain_dial()


async def fault_of(order: Order) -> str:
    """Why the service does not answer; empty: it does, or nobody wants to know.

    A connection is an answer where there is no path, else a status from 200 to 399.  The service chooses what it
    answers, but not whom we ask: no redirect leads elsewhere.
    """
    health = order.work.health
    if health is None:
        return ""
    port = dict(order.ports).get(health.port, 0)
    try:
        with trio.fail_after(PATIENCE):
            if not health.path:
                await (await _connect(_HERE, port, None)).aclose()
                return ""

            async def dial(host: str, at: int, via: str | None) -> trio.abc.Stream:
                if (host, at) != (_HERE, port):
                    raise Refused(f"redirected to {host} port {at}")
                return await _connect(host, at, via)

            url = f"http://{_HERE}:{port}{health.path}"
            reply = await fetch(url, dial=dial, max_bytes=_MOST_BODY, timeout=PATIENCE)
    except trio.TooSlowError:
        return f"port {port} does not answer within {PATIENCE:g} s"
    except (BadWire, Refused, Unreachable) as fault:
        return str(fault)[:400]
    return "" if 200 <= reply.status < 400 else f"{health.path} answers {reply.status}"

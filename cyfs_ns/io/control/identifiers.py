"""``/1.0/identifiers/<did>`` of a control API: what the doors show strangers, shown to the owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.io.control.conversation import A, Call, Reply
from cyfs_ns.io.control.wire import HttpFault

PATTERN = "/1.0/identifiers/{did}"


async def identifier(call: Call[A], show: Callable[[PageWanted], Awaitable[Page | None]]) -> Reply:
    """The page that ``show`` has for a request to :data:`PATTERN`."""
    kind = call.query.get("type", "")
    target = f"/1.0/identifiers/{quote(call.name('did'), safe=':')}" + (f"?type={quote(kind, safe='')}" if kind else "")
    page = await show(PageWanted(target, "", call.accept))
    if page is None:
        raise HttpFault(404, "Resource not found")
    kept = f"max-age={page.max_age}" if page.max_age else "no-store"
    return Reply(page.status, page.body, (("Content-Type", page.content_type), ("Cache-Control", kept)))

"""Whose this device is, as its own document says and a pin of ours confirms."""

from __future__ import annotations

import time

import trio

from cyfs_gateway.peers import brought_along, known_by
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.token import read_token
from cyfs_ns.io.trusted.resolver import TrustedNames
from cyfs_ns.trust.level import Trust
from rtcp.party import Local


async def own_owner(local: Local, trusted: TrustedNames) -> str:
    """The DID of the owner of ``local``, written as that of peers is; empty when nobody is known."""
    if local.device_doc_jwt is None:
        return ""
    try:
        anchors = await trio.to_thread.run_sync(trusted.store.anchors)
        token = read_token(local.device_doc_jwt)
    except (BadWire, OSError):
        return ""
    claims = brought_along(token, local.did, anchors, time.time())
    known = known_by(local.did, claims, Trust.HOST_SNAPSHOT, anchors, local.bridges or {})
    return "" if known is None else known.identity.owner

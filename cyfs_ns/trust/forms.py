"""The two forms in which one subject is published: a short one for DNS, and a long one.

The boot and the zone document both state the machines of a zone, the short and the long document of a device its key.
They are published apart, and each is marked against going back by itself (``revision.py``).  So an old one, which is
public, must not undo what the newer one of the other form says: what both state is in force as the newer states it,
wholly, and what only the older one states goes on.  A device document whose key was replaced states nothing any more:
its addresses are where that key was.
"""

from __future__ import annotations

from dataclasses import replace

from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, ZoneBoot, ZoneDoc

OTHER_FORM = {
    ZoneBoot.kind: ZoneDoc.kind,
    ZoneDoc.kind: ZoneBoot.kind,
    DeviceMini.kind: DeviceDoc.kind,
    DeviceDoc.kind: DeviceMini.kind,
}
"""The kind of the other form of the same."""

MACHINES, RELAY, KEY, PORT = "machines", "relay", "key", "port"


def shared(document: Document) -> dict[str, object]:
    """What ``document`` states that its other form states too; what it leaves open, as an empty list does, is not."""
    if isinstance(document, ZoneBoot | ZoneDoc):
        stated: dict[str, object] = {MACHINES: frozenset(document.oods), RELAY: document.sn}
    elif isinstance(document, DeviceDoc | DeviceMini):
        stated = {KEY: document.key, PORT: document.rtcp_port}
    else:
        stated = {}
    return {what: value for what, value in stated.items() if value not in (None, frozenset())}


def differing(one: Document, other: Document) -> tuple[str, ...]:
    """What both forms of a subject state, and not alike."""
    told = shared(other)
    return tuple(what for what, value in shared(one).items() if what in told and told[what] != value)


def without(document: Document, superseded: tuple[str, ...]) -> Document | None:
    """What is left of ``document`` when ``superseded`` is stated elsewhere; None: nothing."""
    if isinstance(document, ZoneBoot | ZoneDoc):
        return replace(
            document,
            oods=() if MACHINES in superseded else document.oods,
            sn=None if RELAY in superseded else document.sn,
        )
    if isinstance(document, DeviceDoc | DeviceMini):
        if KEY in superseded:
            return None
        return replace(document, rtcp_port=None if PORT in superseded else document.rtcp_port)
    return document

"""Where documents stand: whom one is about, whose word counts for it, and whether it may be found where it was.

A place speaks for itself and the machines below it.  What is found there about others is worth nothing, unless somebody
who is pinned has signed it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc, DeviceInfo, DeviceMini, Document, ZoneBoot, ZoneDoc


def device_did(name: str, zone: Did) -> Did:
    """The identity of the machine called ``name`` in ``zone``: a child of its name."""
    return Did(zone.method, f"{name}.{zone.id}")


def is_within(about: Did, zone: Did) -> bool:
    """Whether ``about`` is ``zone``, or a name below it."""
    below = about.method == zone.method and not about.path and not zone.path and about.id.endswith(f".{zone.id}")
    return about.canonical == zone.canonical or below


def lineage(subject: Did) -> tuple[Did, ...]:
    """The subject, and the names above it, the nearest first: what its zone says counts for it too."""
    found = [subject.canonical]
    # The last label of a host is nobody's zone; on a chain it is a name like any other.
    least = 1 if subject.method in ("web", "ens") else 0
    above = subject
    while above.id.count(".") > least:
        above = Did(above.method, above.id.partition(".")[2])
        found.append(above)
    return tuple(found)


def subject_of(document: Document, found_under: Did) -> Did:
    """Whom ``document`` is about, in the name space it was found in."""
    if isinstance(document, DeviceMini):
        return device_did(document.name, found_under)
    if isinstance(document, ZoneBoot):
        return found_under
    subject = document.subject
    assert subject is not None
    return subject


def speakers_for(document: Document, found_under: Did) -> list[Did]:
    """Whose pinned keys decide about ``document``; where several are pinned, it is one key."""
    if isinstance(document, ZoneBoot | ZoneDoc | DeviceMini):
        return [found_under]
    if isinstance(document, DeviceInfo):
        return [document.device.id]
    zone, issuer = zone_of(document), document.issuer
    if isinstance(document, DeviceDoc) and document.id.key is None:
        issuer = None
    return [whose for whose in (zone, issuer) if whose is not None]


def zone_of(document: Document) -> Did | None:
    """The zone that a machine says it belongs to."""
    return document.zone if isinstance(document, DeviceDoc) else None


def check_place(document: Document, zone: Did, listed: Callable[[], Collection[str]], *, anchored: bool) -> None:
    """Raises ``BadWire`` for a document that is somebody's, but not for the place ``zone``.

    ``listed``: the machines that the zone's own documents name; ``anchored``: somebody who is pinned has signed it.
    """
    if isinstance(document, ZoneBoot | ZoneDoc):
        if document.id is not None and document.id.canonical != zone.canonical:
            raise BadWire(f"{document.kind} document: it is {document.id}'s, found under {zone}; publish the right one")
        if document.id is None and anchored:
            raise BadWire(f"{document.kind} document: it does not say which zone it is for; issue it again with id")
    elif isinstance(document, DeviceMini):
        told = document.zone()
        if told is not None and told.method == "web" and "." not in told.id:
            told = Did(zone.method, told.id)  # no host: once a name on a chain was written without its method
        if told is not None and told.canonical != zone.canonical:
            raise BadWire(f"device-mini document: it is for {told}, found under {zone}")
        if told is None and anchored and document.name not in listed():
            raise BadWire(
                f"device-mini document: {document.name!r} does not say its zone, and no boot document of {zone}"
                " lists it; issue it again, or add it to the boot document"
            )
    elif isinstance(document, DeviceDoc) and document.id.key is None:
        above = document.zone
        if above is None or document.id != device_did(document.name, above):
            raise BadWire(f"device document: {document.id} is not {document.name!r} of {above}; issue it again")
    about = subject_of(document, zone).canonical
    if not anchored and about.key is None and not is_within(about, zone):
        raise BadWire(f"{document.kind} document of {about}: found under {zone}, which cannot speak for it")

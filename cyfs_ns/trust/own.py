"""Whether the document that this machine holds of itself still counts here, which nobody else would tell it."""

from __future__ import annotations

from cyfs_ns.identity.did import Did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.token import Token
from cyfs_ns.trust.anchors import Anchors
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.places import device_did, speakers_for
from cyfs_ns.trust.weigh import weigh


def doubt_of_own(token: Token, document: DeviceDoc, anchors: Anchors, now: float) -> str:
    """Why ``token``, which says ``document``, does not count any more: what is pinned contradicts it, or this machine
    has believed a newer one.  Empty when nothing is said against it, also where nobody who could is pinned."""
    zone = document.zone
    about = device_did(document.name, zone) if zone is not None else document.id
    place = Did(about.method, about.id.partition(".")[2]) if zone is not None else about
    knows = document.issuer is not None and document.issuer.key is not None
    if not knows and all(anchors.pin(whose) is None for whose in speakers_for(document, place)):
        return ""
    fact = Evidence(trust=Trust.NONE, what="its own", source="this machine", at=now)
    claim = Claim(about=place, kind="token", value=token, evidence=fact)
    weighed = weigh([claim], anchors, max(now, float(anchors.not_before)), now)
    return weighed.faults[0].removeprefix(f"{fact.source}: ") if weighed.faults else ""

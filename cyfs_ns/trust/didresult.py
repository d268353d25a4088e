"""DID Resolution over HTTP (W3C DID Resolution v0.3, "HTTP(S) Binding"): what an outcome is on the wire, and back.

A resolver answers ``GET /1.0/identifiers/<did>`` with the document alone, or, where the client accepts it, with a
*result*: the document between metadata of the resolution (``contentType`` or ``error``) and of the document.  There
ours tells how sure it is (``trust``), why, and until when.  Who accepts tokens gets the one that the document came in:
then its signature can be checked, and nobody need believe us.

Errors are read in all spellings that are about: ``notFound``, ``https://www.w3.org/ns/did#NOT_FOUND``, and as objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cyfs_ns.conversation import Page
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.strictjson import Json, read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN, Token, read_token
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Trust
from cyfs_ns.trust.outcome import Conflicted, Found, Outcome, Refused, Revoked, Unreachable

DOCUMENT = "application/did+ld+json"
TOKEN = "application/jwt"
RESULT = "application/did-resolution"
_OLD_RESULT = "https://w3id.org/did-resolution"

RANK = (ZoneDoc.kind, DeviceDoc.kind, OwnerDoc.kind, ZoneBoot.kind, DeviceMini.kind)
"""Which of several documents stands for its subject: the first that there is."""

_CONTEXT = "https://www.w3.org/ns/did/v1"
_LONGEST = 86_400
_SHORT = 30
_MOST_FACTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a resolver said.  ``error`` is empty, or one of the standard's words (``notFound``)."""

    token: Token | None = None
    document: Document | None = None
    deactivated: bool = False
    error: str = ""


def page_of(
    outcome: Outcome, now: float, *, accept: str = "", token: Token | None = None, kinds: Sequence[str] = ()
) -> Page:
    """``outcome`` for somebody who accepts ``accept``, as it stands at ``now`` (seconds since 1970).

    ``token`` is the one the document came in, if we hold it; it is given to those who accept tokens, or have asked for
    documents of ``kinds``, as the forerunner's do.
    """
    if isinstance(outcome, Found):
        kept = _LONGEST if outcome.until is None else max(0, min(_LONGEST, int(outcome.until - now)))
        if token is not None and (kinds or TOKEN in accept):
            return Page(200, TOKEN, token.text.encode(), kept)
        if (shown := _document_of(outcome, kinds)) is not None:
            document, claim = shown
            if RESULT in accept or _OLD_RESULT in accept:
                # As sure as this document is; what else is known of its subject may be surer.
                about = _about(replace(outcome, claims=(claim,)))
                return Page(200, RESULT, _result(document, {"contentType": DOCUMENT}, about), kept)
            return Page(200, DOCUMENT, write_json(document), kept)
    status, error = _error_of(outcome)
    body = _result(None, {"error": error, "errorMessage": outcome.why[:400]}, _about(outcome))
    return Page(status, RESULT, body, _SHORT if status in (404, 410) else 0)


def fault_page(status: int, error: str, why: str) -> Page:
    """A refusal before anything was looked up."""
    return Page(status, RESULT, _result(None, {"error": error, "errorMessage": why[:400]}, {}))


def read_resolved(status: int, content_type: str, untrusted: bytes) -> Resolved:
    """What a resolver's response says.  Raises ``BadWire`` for one that says nothing we understand."""
    kind = content_type.partition(";")[0].strip().lower()
    if status == 404:
        return Resolved(error="notFound")
    if status == 410:
        return Resolved(deactivated=True)
    if status != 200:
        raise BadWire(f"status {status}")
    if untrusted.lstrip()[:1] != b"{":
        return Resolved(token=_token(untrusted, kind))
    whole = read_object(untrusted, "resolver's response")
    if "didDocument" not in whole and "didResolutionMetadata" not in whole:
        return Resolved(document=_document(whole))
    metadata, about = _object(whole, "didResolutionMetadata"), _object(whole, "didDocumentMetadata")
    if about.get("deactivated") is True:
        return Resolved(deactivated=True)
    if error := _error_word(metadata.get("error")):
        return Resolved(error=error)
    written = whole.get("didDocument")
    if isinstance(written, str):
        return Resolved(token=_token(written.encode("utf-8", "replace"), kind))
    if not isinstance(written, Mapping):
        raise BadWire("resolver's response: no document in it")
    return Resolved(document=_document(written))


def read_body(untrusted: bytes, what: str) -> Token | Document:
    """A document as web servers give it: plain JSON, or a token.  Raises ``BadWire``."""
    if untrusted.lstrip()[:1] == b"{":
        return _document(read_object(untrusted, what))
    return _token(untrusted, what)


def _document(written: Mapping[str, Json]) -> Document:
    # In one order of keys, so that what two servers say alike is alike.
    return read_document(read_object(write_json(written)))


def _token(untrusted: bytes, what: str) -> Token:
    if len(untrusted) > MOST_TOKEN:
        raise BadWire(f"{what}: {len(untrusted)} bytes, at most {MOST_TOKEN} are read")
    try:
        return read_token(untrusted.decode("ascii").strip(), what)
    except UnicodeDecodeError:
        raise BadWire(f"{what}: neither JSON nor a token") from None


def _object(whole: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    value = whole.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadWire(f"resolver's response: {name} is no object")
    return value


def _error_word(error: Json) -> str:
    """``notFound``, whichever way it is spelt: as a word, as a URL, or as an object with a type (RFC 9457)."""
    if isinstance(error, Mapping):
        error = error.get("type")
    if error is None or error == "":
        return ""
    if not isinstance(error, str) or len(error) > 200:
        raise BadWire("resolver's response: an error that is none")
    head, *rest = error.rpartition("#")[2].replace("-", "_").split("_")
    return head if not rest else head.lower() + "".join(part.capitalize() for part in rest)


def _document_of(found: Found, kinds: Sequence[str]) -> tuple[dict[str, Json], Claim] | None:
    """The document that stands for the subject; without one that is a DID document, one made of its key.

    With it the claim that it is, or is made of.
    """
    for claim in documents_of(found, kinds):
        if not isinstance(claim.value, str | bytes | PublicKey | Token):
            told = claim.value.claims()
            if kinds or told.get("id") == str(found.subject):
                return told, claim
    for claim in () if kinds else found.of("key", "self"):
        if isinstance(claim.value, PublicKey):
            return _made_of(claim.value, str(found.subject)), claim
    return None


def documents_of(found: Found, kinds: Sequence[str] = ()) -> list[Claim]:
    """The documents about the subject, of ``kinds`` if any are named; the one that stands for it first.

    What its owner signed goes before what others say, and then goes by its kind, whether it was heard now or kept.
    """
    claims = (claim for claim in found.of("document") if not kinds or claim.key in kinds)
    return sorted(claims, key=lambda claim: (-min(claim.trust, Trust.HOST_SNAPSHOT), _rank(claim.key), -claim.trust))


def _rank(kind: str) -> int:
    return RANK.index(kind) if kind in RANK else len(RANK)


def _made_of(key: PublicKey, subject: str) -> dict[str, Json]:
    method: dict[str, Json] = {
        "id": f"{subject}#main_key",
        "type": "Ed25519VerificationKey2020",
        "controller": subject,
        "publicKeyJwk": key.jwk(),
    }
    relations: dict[str, Json] = {"authentication": ["#main_key"], "assertionMethod": ["#main_key"]}
    return {"@context": [_CONTEXT], "id": subject, "verificationMethod": [method], **relations}


def _error_of(outcome: Outcome) -> tuple[int, str]:
    if isinstance(outcome, Revoked):
        return 410, "deactivated"
    if isinstance(outcome, Unreachable | Refused | Conflicted):
        return 500, "internalError"
    return 404, "notFound"


def _result(document: dict[str, Json] | None, resolution: dict[str, Json], about: dict[str, Json]) -> bytes:
    return write_json({"didDocument": document, "didResolutionMetadata": resolution, "didDocumentMetadata": about})


def _about(outcome: Outcome) -> dict[str, Json]:
    """What we know of the document: the standard's fields, and beside them our own."""
    told: dict[str, Json] = {"why": outcome.why}
    if isinstance(outcome, Revoked):
        told["deactivated"] = True
    facts: list[Evidence] = []
    if isinstance(outcome, Found):
        told |= {"trust": outcome.trust.label, "until": outcome.until, "stale": outcome.stale}
        facts = list(dict.fromkeys(claim.evidence for claim in outcome.claims if claim.kind in ("document", "key")))
    elif isinstance(evidence := getattr(outcome, "evidence", None), Evidence):
        facts = [evidence]
    told["evidence"] = [_fact(fact) for fact in facts[:_MOST_FACTS]]
    return told


def _fact(fact: Evidence) -> Json:
    # Not the sources: they may be paths and servers of this house.
    return {
        "trust": fact.trust.label,
        "what": fact.what,
        "until": None if fact.until is None else _time(fact.until),
        "because": [_fact(below) for below in fact.because[:_MOST_FACTS]],
    }


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "9999-12-31T23:59:59Z"

"""An outcome as a tree a person can read, and as JSON for programs.

Every claim stands with its level, and below it the facts it stands on: who said so, and how sure that is.  What a fact
stands on is told once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token
from cyfs_ns.printable import printable
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.outcome import Conflicted, Found, Outcome, TooWeak
from cyfs_ns.trust.plan import Plan

_WIDE = 60


def outcome_lines(outcome: Outcome, now: float) -> Iterator[str]:
    """``outcome`` line by line, as it stands at ``now`` (seconds since 1970)."""
    yield printable(outcome.why)
    told: set[Evidence] = set()
    for at, claim in enumerate(claims := _claims(outcome)):
        last = at == len(claims) - 1
        about = "" if claim.about.canonical == outcome.subject.canonical else f" of {claim.about}"
        yield f"{'└─' if last else '├─'} {printable(f'{claim.kind} {claim.key}'.strip() + about)}: {shown(claim)}"
        yield from _facts((claim.evidence,), now, "   " if last else "│  ", told)
    if isinstance(evidence := getattr(outcome, "evidence", None), Evidence):
        yield from _facts((evidence,), now, "", told)
    for fault in outcome.faults:
        yield f"! {printable(fault)}"


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """``outcome`` for programs.  ``outcome`` is the name of its kind; a document is given as its claims."""
    told: dict[str, Any] = {
        "subject": str(outcome.subject),
        "outcome": type(outcome).__name__.lower(),
        "why": outcome.why,
        "claims": [_claim_json(claim) for claim in _claims(outcome)],
        "faults": list(outcome.faults),
    }
    if isinstance(outcome, Found):
        told |= {"trust": outcome.trust.label, "until": outcome.until, "stale": outcome.stale}
    if isinstance(evidence := getattr(outcome, "evidence", None), Evidence):
        told["evidence"] = _fact_json(evidence)
    return told


def plan_lines(plan: Plan) -> Iterator[str]:
    """Who is asked, step by step."""
    for number, step in enumerate(plan.steps, 1):
        yield f"step {number}: {', '.join(step.providers)}"
    yield from plan.why


def shown(claim: Claim) -> str:
    """The value of ``claim`` in one line."""
    value = claim.value
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.hex()
    elif isinstance(value, PublicKey):
        text = value.x
    elif isinstance(value, Token):
        text = "a token that nobody verified"
    else:
        text = f"issued {_day(value.iat)}, until {_day(value.exp)}"
    text = printable(text)
    return text if len(text) <= 2 * _WIDE else text[: 2 * _WIDE] + "…"


def _claims(outcome: Outcome) -> Sequence[Claim]:
    if isinstance(outcome, Found):
        ours = outcome.subject.canonical
        return sorted(outcome.claims, key=lambda claim: (claim.about.canonical != ours, -claim.trust))
    if isinstance(outcome, TooWeak):
        return outcome.found
    return outcome.sides if isinstance(outcome, Conflicted) else ()


def _facts(facts: Sequence[Evidence], now: float, margin: str, told: set[Evidence]) -> Iterator[str]:
    for at, fact in enumerate(facts):
        last = at == len(facts) - 1
        ends = "" if fact.until is None else f", {_left(fact.until - now)}"
        above = " ↑" if fact.because and fact in told else ""
        said = f"{fact.trust}: {printable(fact.what)} ({printable(fact.source)}{ends}){above}"
        yield f"{margin}{'└─' if last else '├─'} {said}"
        if not above:
            told.add(fact)
            yield from _facts(fact.because, now, margin + ("   " if last else "│  "), told)


def _left(seconds: float) -> str:
    if seconds <= 0:
        return "over"
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit} left"
    return f"{seconds:.0f} s left"


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "the end of days"


def _claim_json(claim: Claim) -> dict[str, Json]:
    value = claim.value
    told: Json
    if isinstance(value, str):
        told = value
    elif isinstance(value, bytes):
        told = value.hex()
    elif isinstance(value, PublicKey):
        told = value.x
    elif isinstance(value, Token):
        told = value.text
    else:
        told = value.claims()
    return {
        "about": str(claim.about),
        "kind": claim.kind,
        "key": claim.key,
        "value": told,
        "trust": claim.trust.label,
        "evidence": _fact_json(claim.evidence),
    }


def _fact_json(fact: Evidence) -> dict[str, Json]:
    return {
        "trust": fact.trust.label,
        "what": fact.what,
        "source": fact.source,
        "at": fact.at,
        "until": fact.until,
        "because": [_fact_json(below) for below in fact.because],
    }

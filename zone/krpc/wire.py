"""kRPC as it stands in HTTP: one POST to ``/kapi/<service>``, a JSON object each way.

| | |
|---|---|
| request | ``{"method", "params", "sys": [seq, token?, trace?], "deadline"?}`` |
| batch | ``{"calls", "results"?, "sys", "deadline"?}``, see ``batch.py`` |
| reply | ``{"result", "sys": [seq, trace?]}`` or ``{"error": {"code", "message", "retryable", "data"?}, "sys"}`` |

``deadline`` is how many seconds whoever called still waits; no clocks are compared.  In ``sys`` what is absent is null;
the forerunner's first version left it out instead, so a trace may stand in the token's place: what is no token there,
and has nothing behind it, is a trace.  Whoever comes so is nobody, never somebody else.

The forerunner sends an error as a text alone, which a client still reads.  It does not know ours, but it goes by the
presence of ``error``.  The HTTP status says the same as the code, for whoever looks no further.

Strangers' bytes come in by ``read_request``, what a server answers by ``read_reply``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, read_object, write_json
from cyfs_ns.identity.token import MOST_TOKEN
from zone.krpc.batch import Batch, Outcome, Plain, read_batch, write_batch
from zone.krpc.faults import MOST_MESSAGE, Code, KrpcFault, is_code
from zone.krpc.service import METHOD

MOST_REQUEST: Final = 2 * 1024 * 1024
"""Bytes of a request."""
MOST_REPLY: Final = 4 * 1024 * 1024
"""Bytes of a reply."""
MOST_DATA: Final = 16 * 1024
"""Bytes of what a fault tells programs."""
MOST_SEQ: Final = 1 << 53
MOST_TRACE: Final = 128
"""Characters of a trace."""

_TRACE: Final = re.compile(rf"[!-~]{{1,{MOST_TRACE}}}")
_KEYS: Final = frozenset({"method", "params", "calls", "results", "sys", "deadline"})

_SPARED: Final = 64 * 1024
"""Of a batch's reply, for what stands around its results, and for the faults in place of those that are too large."""
_UNSENDABLE: Final = KrpcFault(Code.INTERNAL, "the service gave what cannot be sent")

_BY_STATUS: Final = {
    401: Code.UNAUTHENTICATED,
    403: Code.DENIED,
    404: Code.UNKNOWN_SERVICE,
    413: Code.TOO_LARGE,
    429: Code.LIMITED,
    431: Code.TOO_LARGE,
    503: Code.UNAVAILABLE,
}
"""What a status means that came without an answer of kRPC; any other, and it is not known what became of the call."""

_BY_KIND: Final = {
    "unknownmethod": Code.UNKNOWN_METHOD,
    "invalidtoken": Code.UNAUTHENTICATED,
    "parserequesterror": Code.INVALID,
    "tokenexpired": Code.EXPIRED,
    "nopermission": Code.DENIED,
    "invalidpassword": Code.DENIED,
    "usernotfound": Code.MISSING,
    "keynotexist": Code.MISSING,
    "servicenotvalid": Code.UNAVAILABLE,
}
"""The forerunner's kinds of errors, as its texts begin, by their letters."""


@dataclass(frozen=True, slots=True)
class Single:
    """One call."""

    method: str
    params: Mapping[str, Json] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks of a service."""

    asked: Single | Batch
    seq: int = 0
    token: str = field(default="", repr=False)
    """Not verified."""
    trace: str = ""
    seconds: float | None = None
    """How long they wait."""


def read_request(untrusted: bytes) -> Request:
    """The request in a body.  Raises ``KrpcFault`` (``INVALID``, ``TOO_LARGE``), and nothing else."""
    if len(untrusted) > MOST_REQUEST:
        raise KrpcFault(Code.TOO_LARGE, f"a request has at most {MOST_REQUEST} bytes")
    try:
        body = read_object(untrusted, "the request")
    except BadWire as bad:
        raise KrpcFault(Code.INVALID, str(bad)) from None
    if unknown := sorted(body.keys() - _KEYS):
        raise KrpcFault(Code.INVALID, f"there is no {unknown[0][:40]!r} in a request")
    seq, token, trace = _sys(body.get("sys"))
    return Request(asked=_asked(body), seq=seq, token=token, trace=trace, seconds=_seconds(body.get("deadline")))


def _asked(body: Mapping[str, Json]) -> Single | Batch:
    if "calls" in body:
        if "method" in body or "params" in body:
            raise KrpcFault(Code.INVALID, "a request is one call or a batch, not both")
        return read_batch(body)
    if "results" in body:
        raise KrpcFault(Code.INVALID, "'results' belongs to a batch")
    method, params = body.get("method"), body.get("params")
    if not isinstance(method, str) or not METHOD.fullmatch(method):
        raise KrpcFault(Code.INVALID, "there is no method")
    if params is not None and not isinstance(params, Mapping):
        raise KrpcFault(Code.INVALID, "the params are no object")
    return Single(method, {} if params is None else params)


def _sys(untrusted: Json) -> tuple[int, str, str]:
    if untrusted is None:
        return 0, "", ""
    if not isinstance(untrusted, list) or not 0 < len(untrusted) <= 3:
        raise KrpcFault(Code.INVALID, "'sys' has to be an array of number, token and trace")
    seq, token, trace = [*untrusted, None, None][:3]
    if type(seq) is not int or not 0 <= seq < MOST_SEQ:
        raise KrpcFault(Code.INVALID, "'sys' has to begin with a number")
    if len(untrusted) == 2 and isinstance(token, str) and token.count(".") != 2:
        token, trace = None, token
    if token is not None and (not isinstance(token, str) or len(token) > MOST_TOKEN):
        raise KrpcFault(Code.INVALID, "the token in 'sys' is none")
    if trace is not None and (not isinstance(trace, str) or (trace and not _TRACE.fullmatch(trace))):
        raise KrpcFault(Code.INVALID, f"a trace is at most {MOST_TRACE} printable characters of ASCII")
    return seq, token or "", trace or ""


def _seconds(untrusted: Json) -> float | None:
    if untrusted is None:
        return None
    if not isinstance(untrusted, int | float) or isinstance(untrusted, bool) or untrusted <= 0:
        raise KrpcFault(Code.INVALID, "'deadline' has to be the seconds that are left")
    return float(untrusted)


def write_request(request: Request) -> bytes:
    """The body.  Raises ``KrpcFault`` (``INVALID``, ``TOO_LARGE``)."""
    asked = request.asked
    body: dict[str, Json] = (
        {"method": asked.method, "params": asked.params} if isinstance(asked, Single) else write_batch(asked)
    )
    sys: list[Json] = [request.seq, request.token or None, request.trace or None]
    while sys[-1] is None:
        sys.pop()
    body["sys"] = sys
    if request.seconds is not None:
        body["deadline"] = round(request.seconds, 3)
    written = _json(body)
    if len(written) > MOST_REQUEST:
        raise KrpcFault(Code.TOO_LARGE, f"a request has at most {MOST_REQUEST} bytes")
    return written


# -- the answer


def write_reply(seq: int, trace: str, outcome: Outcome) -> tuple[int, bytes]:
    """The HTTP status and the body of an answer."""
    tail: dict[str, Json] = {"sys": [seq, trace] if trace else [seq]}
    if isinstance(outcome, Plain):
        try:
            body = _json({"result": outcome.value, **tail})
            if len(body) <= MOST_REPLY:
                return 200, body
            outcome = KrpcFault(Code.TOO_LARGE, "it was done, but its result is too large: ask for less")
        except KrpcFault:
            outcome = _UNSENDABLE
    return outcome.status, write_json({"error": plain_fault(outcome), **tail})


def plain_fault(fault: KrpcFault) -> dict[str, Json]:
    """As it stands in an answer.  Data that cannot be sent is left out."""
    plain: dict[str, Json] = {"code": fault.code, "message": fault.message, "retryable": fault.retryable}
    if fault.data is not None:
        with suppress(KrpcFault):
            if len(_json([{"error": {"data": fault.data}}])) <= MOST_DATA:
                plain["data"] = fault.data
    return plain


def plain_outcomes(outcomes: Sequence[Outcome]) -> list[Json]:
    """The result of a batch.  What would be too large with the others is a fault instead."""
    left = MOST_REPLY - _SPARED
    found: list[Json] = []
    for outcome in outcomes:
        plain, size = _plain_outcome(outcome)
        if size > left:
            plain, size = _plain_outcome(KrpcFault(Code.TOO_LARGE, "the results are too large together"))
        left -= size + 1
        found.append(plain)
    return found


def _plain_outcome(outcome: Outcome) -> tuple[Json, int]:
    """With how many bytes it takes."""
    plain: Json = {"result": outcome.value} if isinstance(outcome, Plain) else {"error": plain_fault(outcome)}
    try:
        return plain, len(_json({"result": [plain]}))
    except KrpcFault:
        return _plain_outcome(_UNSENDABLE)


def read_reply(status: int, untrusted: bytes, seq: int) -> Json:
    """The result in the answer to request ``seq``.  Raises ``KrpcFault``: the one that was sent, and ``UNCERTAIN``
    where what came is no answer."""
    if len(untrusted) > MOST_REPLY:
        raise KrpcFault(Code.UNCERTAIN, f"an answer of more than {MOST_REPLY} bytes")
    try:
        body = read_object(untrusted, "the answer")
    except BadWire as bad:
        raise _by_status(status, str(bad)) from None
    error = body.get("error")
    if error is None and "result" not in body:
        raise _by_status(status, "the answer has neither a result nor an error")
    sys = body.get("sys")
    if error is None and not (isinstance(sys, list) and sys and type(sys[0]) is int and sys[0] == seq):
        raise KrpcFault(Code.UNCERTAIN, "the answer is to something else")
    if error is not None:
        raise read_fault(error)
    return body["result"]


def read_fault(untrusted: Json) -> KrpcFault:
    """The fault in an answer, of either kind."""
    if isinstance(untrusted, str):
        kind, colon, rest = untrusted.partition(":")
        known = _BY_KIND.get("".join(filter(str.isalpha, kind.lower()))) if len(kind) < 40 else None
        said = rest.strip() if known is not None and colon else untrusted
        # What of it was done, such an error does not say.
        return KrpcFault(known or Code.UNSPECIFIED, said, retryable=False)
    if not isinstance(untrusted, Mapping):
        return KrpcFault(Code.UNSPECIFIED, "an error without a text")
    code, message, retryable = (untrusted.get(key) for key in ("code", "message", "retryable"))
    return KrpcFault(
        code if isinstance(code, str) and is_code(code) else Code.UNSPECIFIED,
        message[:MOST_MESSAGE] if isinstance(message, str) else "",
        retryable=retryable if isinstance(retryable, bool) else None,
        data=untrusted.get("data"),
    )


def read_outcomes(untrusted: Json, count: int) -> list[Outcome]:
    """The result of a batch, which asked for ``count``.  Raises ``KrpcFault`` (``UNCERTAIN``)."""
    if not isinstance(untrusted, list) or len(untrusted) != count:
        raise KrpcFault(Code.UNCERTAIN, "the answer to a batch has other results than were asked for")
    found: list[Outcome] = []
    for one in untrusted:
        if isinstance(one, Mapping) and one.get("error") is not None:
            found.append(read_fault(one["error"]))
        elif isinstance(one, Mapping) and "result" in one:
            found.append(Plain(one["result"]))
        else:
            raise KrpcFault(Code.UNCERTAIN, "the answer to a batch has what is neither a result nor an error")
    return found


def _by_status(status: int, why: str) -> KrpcFault:
    return KrpcFault(_BY_STATUS.get(status, Code.UNCERTAIN), f"{why} (HTTP status {status})")


def _json(value: Json) -> bytes:
    """``value``, so that the other side can read it.  Raises ``KrpcFault`` (``INVALID``)."""
    try:
        written = write_json(value)
        read_json(written)
    except (TypeError, ValueError, RecursionError, BadWire) as bad:
        raise KrpcFault(Code.INVALID, f"this cannot be sent as JSON: {str(bad)[:80]}") from None
    return written

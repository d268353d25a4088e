"""Signature version 4 of requests to servers that speak as Amazon's S3 does ("Authenticating Requests: Using the
Authorization Header", in the S3 API reference), with the whole body hashed.

A signature is good for one request, within a quarter of an hour of its time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the owner of a bucket gave us."""

    access: str
    """Who we are."""
    secret: str = field(repr=False)
    region: str = "us-east-1"


def encoded(text: str, safe: str = "") -> str:
    """``text`` as URLs that are signed have it; a path with ``/`` being ``safe``."""
    return quote(text, safe=f"-_.~{safe}")


def query_text(query: Mapping[str, str]) -> str:
    """``query`` as it is signed, and so has to be sent."""
    return "&".join(f"{encoded(name)}={encoded(value)}" for name, value in sorted(query.items()))


def signed(
    credentials: Credentials,
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    when: str,
) -> dict[str, str]:
    """The headers that the request takes beside ``headers``, which have ``host`` and are in lower case.

    ``path`` is not encoded; ``when`` is as ``20130524T000000Z``.
    """
    hashed = hashlib.sha256(body).hexdigest()
    own = {"x-amz-content-sha256": hashed, "x-amz-date": when}
    all_headers = dict(sorted({**headers, **own}.items()))
    names = ";".join(all_headers)
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in all_headers.items())
    request = "\n".join((method, encoded(path, "/"), query_text(query), lines, names, hashed))
    scope = f"{when[:8]}/{credentials.region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, when, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    given = f"Credential={credentials.access}/{scope},SignedHeaders={names},Signature={signature}"
    return own | {"authorization": f"{_ALGORITHM} {given}"}

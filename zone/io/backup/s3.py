"""A target in a bucket, at a server that speaks as Amazon's S3 does.

The place is ``s3+https://HOST[:PORT]/BUCKET[/PREFIX][?region=REGION]``: the bucket stands in the path, which such
servers take everywhere.  A file is there whole or not at all, and a listing shows what was written before: since
December 2020 Amazon promises that, and others do.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit
from xml.parsers import expat

from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.http import Response, fetch
from zone.backup.signature import Credentials, encoded, query_text, signed
from zone.io.backup.target import MOST_LISTED

SCHEMES: Final = ("s3+https://", "s3+http://")
_PATIENCE: Final = 30.0
_SLOWEST: Final = 64 * 1024
"""Bytes a second that a body is waited for."""
_MOST_PAGE: Final = 4 << 20
"""Bytes of a page of a listing, which has a thousand names."""
_MOST_FAULT: Final = 64 * 1024
"""Bytes of what is said where something is wrong."""
_MOST_REGION: Final = 64
_PORTS: Final = {"http": 80, "https": 443}


class Bucket:
    """The bucket of ``url``, which is there.  ``wall``: seconds since 1970, which the server knows too."""

    def __init__(
        self,
        url: str,
        dial: Dial,
        credentials: str,
        tls: ssl.SSLContext | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``credentials``: ``access key:secret key``.  Raises ``ConfigFault``."""
        try:
            parts = urlsplit(url.removeprefix("s3+"))
            port, asked = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as bad:
            raise ConfigFault(f"{url}: {bad}") from None
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if parts.username is not None:
            raise ConfigFault(f"{parts.hostname}: the keys belong into a file, not into the URL")
        if (
            not url.startswith(SCHEMES)
            or not parts.hostname
            or not bucket
            or parts.fragment
            or asked.keys() - {"region"}
        ):
            raise ConfigFault(f"{url}: a bucket is s3+https://HOST/BUCKET/PREFIX, perhaps with ?region=REGION")
        access, _, secret = credentials.partition(":")
        if not access or not secret:
            raise ConfigFault(f"{parts.hostname}: it wants to hear ACCESS-KEY:SECRET-KEY (--access FILE)")
        region = asked.get("region", ["us-east-1"])[0][:_MOST_REGION]
        self._credentials = Credentials(access, secret, region)
        shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._host = shown if port in (None, _PORTS[parts.scheme]) else f"{shown}:{port}"
        self._origin, self._bucket = f"{parts.scheme}://{self._host}", f"/{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._dial, self._tls, self._wall = dial, tls, wall

    def __str__(self) -> str:
        return f"s3+{self._origin}{self._bucket}/{self._prefix}".rstrip("/")

    async def read(self, path: str, most: int) -> bytes | None:
        told = await self._ask("GET", self._key(path), most=most)
        # Else it is the bucket that is not there.
        if told.status == 404 and b"NoSuchKey" in told.body:
            return None
        self._expect(told, 200)
        if len(told.body) > most:
            raise BadWire(f"{self}/{path}: longer than {most} bytes")
        return told.body

    async def write(self, path: str, data: bytes) -> None:
        self._expect(await self._ask("PUT", self._key(path), body=data), 200)

    async def remove(self, path: str) -> None:
        self._expect(await self._ask("DELETE", self._key(path)), 200, 204)

    async def list(self, folder: str) -> set[str]:
        prefix = f"{self._prefix}{folder}/"
        query = {"list-type": "2", "prefix": prefix, "delimiter": "/"}
        names: set[str] = set()
        while True:
            told = await self._ask("GET", self._bucket, query=query, most=_MOST_PAGE)
            self._expect(told, 200)
            found, following = _page(told.body)
            names |= {one.removeprefix(prefix).rstrip("/") for one in found if one.startswith(prefix) and one != prefix}
            if len(names) > MOST_LISTED:
                raise Refused(f"{self}/{folder}: more than {MOST_LISTED} files; they are not ours")
            if not following:
                return names
            if following == query.get("continuation-token"):
                raise BadWire(f"{self}: a listing that goes round in circles")
            query["continuation-token"] = following

    def _key(self, path: str) -> str:
        return f"{self._bucket}/{self._prefix}{path}"

    async def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes = b"", most: int = 1 << 20
    ) -> Response:
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall()))
        headers = {"host": self._host}
        more = signed(self._credentials, method, path, query or {}, headers, body, when)
        return await fetch(
            f"{self._origin}{encoded(path, '/')}{'?' + query_text(query) if query else ''}",
            dial=self._dial,
            method=method,
            headers=tuple((headers | more).items()),
            body=body,
            max_bytes=max(most, _MOST_FAULT),
            timeout=_PATIENCE + max(len(body), most) / _SLOWEST,
            max_redirects=0,
            tls=self._tls,
        )

    def _expect(self, told: Response, *wanted: int) -> None:
        if told.status in wanted:
            return
        why = _code(told.body)
        if told.status in (401, 403):
            hint = "this machine's clock" if why == "RequestTimeTooSkewed" else "the keys, and what they may do"
            raise Refused(f"{self}: it does not let us in ({why or told.status}); look at {hint}")
        if told.status in (413, 507) or why in ("QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"):
            raise Refused(f"{self}: no room; make some, or let fewer backups stay")
        if told.status in (408, 429) or told.status >= 500:
            raise Unreachable(f"{self}: not now ({why or told.status})")
        raise Refused(f"{self}: {why or told.status}; is it a bucket that is there, and the region right?")


def _page(untrusted: bytes) -> tuple[list[str], str]:
    """What a page of a listing names, files and folders, and how to ask for the next; empty: it is the last.

    Raises ``BadWire``.
    """
    found: list[str] = []
    following = ""
    for path, text in _texts(untrusted):
        if path in ("ListBucketResult/Contents/Key", "ListBucketResult/CommonPrefixes/Prefix"):
            found.append(text)
        elif path == "ListBucketResult/NextContinuationToken":
            following = text
    return found, following


def _code(untrusted: bytes) -> str:
    """What an error is called; empty where it does not say."""
    try:
        return next((text[:64] for path, text in _texts(untrusted) if path == "Error/Code" and text.isalnum()), "")
    except BadWire:
        return ""


def _texts(untrusted: bytes) -> list[tuple[str, str]]:
    """The texts of an XML document, with the names that lead to each.  Raises ``BadWire``."""
    found: list[tuple[str, str]] = []
    path: list[str] = []
    text: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        path.append(name.rpartition(" ")[2])
        text.clear()

    def end(_: str) -> None:
        if text:
            found.append(("/".join(path), "".join(text)))
        text.clear()
        path.pop()

    def refuse(*_: object) -> None:
        raise BadWire("a listing that declares a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    # Entities, which may grow without bound, are declared nowhere else.
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(untrusted, True)
    except expat.ExpatError as bad:
        raise BadWire(f"a listing that is no XML: {bad}") from None
    return found

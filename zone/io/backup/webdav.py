"""A target behind HTTP: a folder of a WebDAV server (RFC 4918).

A file is put under another name and moved to its own, so that it is there whole or not at all whatever the server does
with uploads that break off.
"""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit
from xml.parsers import expat

from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.io.dial import Dial
from cyfs_ns.io.http import Response, fetch
from cyfs_ns.io.trusted.keystore import read_file
from zone.io.backup.target import MOST_LISTED

_PATIENCE: Final = 30.0
_SLOWEST: Final = 64 * 1024
"""Bytes a second that a body is waited for."""
_MOST_LISTING: Final = 128 << 20
_MOST_CREDENTIALS: Final = 1024
_ASKED: Final = b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>'
_GONE: Final = frozenset({404, 409, 410})


def read_credentials(path: Path) -> str:
    """``user:password`` in a file that nobody else may read.  Raises ``ConfigFault``."""
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        raise ConfigFault(f"{path}: {fault.strerror}") from None
    if mode & 0o077:
        raise ConfigFault(f"{path}: others may read it; chmod 600 {path}")
    text = read_file(path, _MOST_CREDENTIALS).decode("utf-8", "replace").strip()
    if ":" not in text or not text.isprintable():
        raise ConfigFault(f"{path}: it needs one line, USER:PASSWORD")
    return text


class WebDav:
    """The folder at ``url``, which is there."""

    def __init__(self, url: str, dial: Dial, credentials: str = "", tls: ssl.SSLContext | None = None) -> None:
        """``credentials``: ``user:password``.  Raises ``ConfigFault``."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigFault(f"{url}: a target is http://… or https://…, without a question")
        if parts.username is not None:
            raise ConfigFault(f"{parts.hostname}: user and password belong into a file, not into the URL")
        self._url = url.rstrip("/")
        self._dial, self._tls = dial, tls
        self._headers: tuple[tuple[str, str], ...] = ()
        if credentials:
            self._headers = (("authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}"),)
        self._folders: set[str] = set()

    def __str__(self) -> str:
        return self._url

    async def read(self, path: str, most: int) -> bytes | None:
        told = await self._ask("GET", path, most=most)
        if told.status in _GONE:
            return None
        self._expect(told, 200)
        return told.body

    async def write(self, path: str, data: bytes) -> None:
        folders = path.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            await self._make("/".join(folders[:depth]))
        draft = f"{path}.{os.urandom(6).hex()}.part"
        self._expect(await self._ask("PUT", draft, body=data), 200, 201, 204)
        moved = await self._ask("MOVE", draft, (("destination", self._at(path)), ("overwrite", "T")))
        self._expect(moved, 200, 201, 204)

    async def _make(self, folder: str) -> None:
        if folder not in self._folders:
            # 405: it is there already (RFC 4918 §9.3.1).
            self._expect(await self._ask("MKCOL", f"{folder}/"), 201, 405)
            self._folders.add(folder)

    async def remove(self, path: str) -> None:
        self._expect(await self._ask("DELETE", path), 200, 204, 404)

    async def list(self, folder: str) -> set[str]:
        headers = (("depth", "1"), ("content-type", "application/xml"))
        told = await self._ask("PROPFIND", f"{folder}/", headers, _ASKED, _MOST_LISTING)
        if told.status in _GONE:
            return set()
        self._expect(told, 207)
        own = unquote(urlsplit(self._at(f"{folder}/")).path).strip("/")
        paths = (unquote(urlsplit(href).path).strip("/") for href in _hrefs(told.body))
        return {path.rpartition("/")[2] for path in paths if path.rpartition("/")[0] == own}

    def _at(self, path: str) -> str:
        return f"{self._url}/{quote(path)}"

    async def _ask(
        self, method: str, path: str, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"", most: int = 1 << 20
    ) -> Response:
        return await fetch(
            self._at(path),
            dial=self._dial,
            method=method,
            headers=self._headers + headers,
            body=body,
            max_bytes=most,
            timeout=_PATIENCE + max(len(body), most) / _SLOWEST,
            max_redirects=0,
            tls=self._tls,
        )

    def _expect(self, told: Response, *wanted: int) -> None:
        if told.status in wanted:
            return
        if told.status in (413, 507):
            raise Refused(f"{self._url}: no room; make some, or let fewer backups stay")
        if told.status in (401, 403):
            raise Refused(f"{self._url}: it does not let us in (status {told.status}); look at the credentials")
        if told.status in (408, 423, 425, 429) or told.status >= 500:
            raise Unreachable(f"{self._url}: not now (status {told.status})")
        raise Refused(f"{self._url}: status {told.status}; is it a WebDAV folder that is there?")


def _hrefs(untrusted: bytes) -> list[str]:
    """What a multi-status answer (RFC 4918 §13) speaks of.  Raises ``BadWire``."""
    found: list[str] = []
    inside = False

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal inside
        inside = name == "DAV: href"
        if inside:
            if len(found) > MOST_LISTED:
                raise BadWire(f"a listing of more than {MOST_LISTED} files")
            found.append("")

    def end(_: str) -> None:
        nonlocal inside
        inside = False

    def text(data: str) -> None:
        if inside:
            found[-1] += data

    def refuse(*_: object) -> None:
        raise BadWire("a listing that declares a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    # Entities, which may grow without bound, are declared nowhere else.
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(untrusted, True)
    except expat.ExpatError as bad:
        raise BadWire(f"a listing that is no XML: {bad}") from None
    return [href.strip() for href in found]

"""Whether a web server stands where a document says one is: the HTTPS record of a host (RFC 9460 section 9).

A record of that type makes clients speak TLS only, also to ``http://`` (section 9.5), and what it lists they use.  So
there is one only where a document that is believed names an endpoint at the very host and port:

* ``service`` of a DID document (DID Core section 5.4), as the forerunner's zones have: ``https://home.example/...``;
* ``services`` of the forerunner's first zones: ``https:443``.

It says as much as they do: the host itself, at the addresses that its own records have.  No document tells of
protocols, so none is listed, and HTTP/1.1 is what clients take for granted (section 7.1).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from cyfs_ns.identity.documents import Document
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token
from cyfs_ns.svcb import IPV4HINT, IPV6HINT
from cyfs_ns.trust.outcome import Found
from cyfs_ns.wire import name_wire

_PREFIX = re.compile(r"_([1-9][0-9]{0,4})\._https\.", re.IGNORECASE).match
_OLD = re.compile(r"https:([1-9][0-9]{0,4})\Z").match
_USUAL = 443
_MOST_SERVICES = 64


def split_port(name: str) -> tuple[int | None, str]:
    """The port that ``name`` is about, and its host: ``_8443._https.home.example`` (section 9.1)."""
    found = _PREFIX(name)
    return (None, name) if found is None else (int(found[1]), name[found.end() :])


def https_data(host: str, port: int | None, found: Found, addresses: Sequence[str]) -> bytes | None:
    """The data of the HTTPS record of ``host``, and ``port`` if its name says one, which is at ``addresses``.

    None: nobody says that a web server is there, or nobody who is as sure as the addresses are.
    """
    least = min((claim.trust for claim in found.of("address") if claim.value in addresses), default=None)
    if least is None:
        return None
    if not any(
        (host, port or _USUAL) in _endpoints(claim.value, host if claim.about == found.subject.canonical else "")
        for claim in found.claims
        if claim.trust >= least and not isinstance(claim.value, str | bytes | PublicKey | Token)
    ):
        return None
    # Behind a port's name "." would be that name, which has no addresses.
    target = b"\0" if port is None else name_wire(host)
    return (
        b"\0\x01" + target + _hints(IPV4HINT, socket.AF_INET, addresses) + _hints(IPV6HINT, socket.AF_INET6, addresses)
    )


def _hints(key: int, family: int, addresses: Sequence[str]) -> bytes:
    is_v6 = family == socket.AF_INET6
    packed = b"".join(socket.inet_pton(family, address) for address in addresses if (":" in address) == is_v6)
    return key.to_bytes(2) + len(packed).to_bytes(2) + packed if packed else b""


def _endpoints(document: Document, host: str) -> Iterator[tuple[str, int]]:
    """Where web servers are, as the ``document`` of ``host`` says; what cannot be read says nothing."""
    claims = document.claims()
    for service in _listed(claims.get("service")):
        told = service.get("serviceEndpoint") if isinstance(service, dict) else None
        for url in _listed(told) or (told,):
            try:
                parts = urlsplit(url) if isinstance(url, str) else None
                if parts is not None and parts.scheme == "https" and parts.hostname:
                    yield parts.hostname.rstrip("."), parts.port or _USUAL
            except ValueError:
                continue
    for text in _listed(claims.get("services")):
        if isinstance(text, str) and (found := _OLD(text)) is not None:
            yield host, int(found[1])


def _listed(value: Json) -> list[Json]:
    return value[:_MOST_SERVICES] if isinstance(value, list) else []

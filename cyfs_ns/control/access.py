"""Who may use the control API: one function that sees a request's head and says go on, or with what to refuse.

Three kinds of asker must be told apart: the owner's programs, the owner's browser on a page the owner trusts, and that
same browser on a page of an attacker.  The last one is the dangerous one, for it sits inside the house:

* it can send any request to 127.0.0.1 (CSRF), but the browser names the page in ``Origin``: an unlisted one is refused,
  on WebSockets too, and no CORS header is ever sent to it;
* it can point its own name at 127.0.0.1 (DNS rebinding), but then ``Host`` carries that name: only exact, listed
  hosts pass;
* it can ask for a private-network preflight: refused unless the owner allowed that origin *and* private networks.

The order is Host, Origin, preflight, secret, so a page without rights learns nothing from the rest.  A refusal
carries no banner.  The unix socket asks for no secret (its mode and the peer's user id guard it) and for no Host (no
browser can reach it), but an Origin is refused there as well: it means a careless reverse proxy stands in front.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

_METHODS = "GET, HEAD, PUT, PATCH, POST, DELETE"
_DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One address the API is served on."""

    scheme: Literal["http", "https"] = "http"
    hosts: frozenset[str] = frozenset()
    """Accepted ``Host`` values, lower case; empty only on the unix socket, where any will do."""
    secret: str = field(default="", repr=False)
    """Empty on the unix socket, and where every request proves in its body who asks."""
    origins: frozenset[str] = frozenset()
    """Web origins besides our own, exact."""
    private_network: bool = False
    """Whether a listed origin may call from a public page into the private network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a request's head matters for access.  A header that is absent is ``None``."""

    method: str
    host: str | None
    """``None`` also when there are several: ambiguity is refused."""
    origin: str | None = None
    authorization: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    """``?token=``, honoured for WebSockets alone: browsers cannot set a header there."""
    websocket: bool = False
    public: bool = False
    """A page of the dashboard: browsers cannot send a secret when they navigate, and it holds none."""
    wanted_method: str | None = None
    """``Access-Control-Request-Method``: with it an OPTIONS is a preflight."""
    wants_private_network: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """The decision.  ``status`` 0: go on and add ``headers`` to the reply; otherwise this is the whole reply."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


def host_names(scheme: Literal["http", "https"], port: int, addresses: Iterable[str]) -> frozenset[str]:
    """The ``Host`` values by which a listener may be called: loopback names and ``addresses``, each with ``port``."""
    names = {"localhost", "127.0.0.1", "[::1]"}
    names.update(f"[{a}]" if ":" in a else a.lower() for a in addresses if a)
    hosts = {f"{name}:{port}" for name in names}
    return frozenset(hosts | names if port == _DEFAULT_PORT[scheme] else hosts)


def peer_allowed(peer_uid: int, own_uid: int) -> bool:
    """Whether the process at the other end of the unix socket may control us: our own user, or root."""
    return peer_uid in (own_uid, 0)


def judge(door: Door, asked: Asked) -> Access:
    """Decide on one request, from its head alone, before a byte of its body is read."""
    if door.hosts and (asked.host is None or asked.host.lower() not in door.hosts):
        return Access(403)
    headers: tuple[tuple[str, str], ...] = ()
    if asked.origin is not None:
        ours = bool(door.hosts) and asked.origin == f"{door.scheme}://{(asked.host or '').lower()}"
        if not ours:
            if asked.origin not in door.origins:
                return Access(403)
            headers = (("Access-Control-Allow-Origin", asked.origin), ("Vary", "Origin"))
    if asked.method == "OPTIONS" and asked.wanted_method is not None:
        return _preflight(door, asked, headers)
    if asked.public or not door.secret:
        return Access(0, headers)
    given = asked.token if asked.websocket and asked.token is not None else _bearer(asked.authorization)
    return Access(0, headers) if _same(given, door.secret) else Access(401, headers)


def _preflight(door: Door, asked: Asked, headers: tuple[tuple[str, str], ...]) -> Access:
    if not headers or (asked.wants_private_network and not door.private_network):
        return Access(403)
    headers += (
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Allow-Headers", "Authorization, Content-Type"),
        ("Access-Control-Max-Age", "300"),
    )
    if asked.wants_private_network:
        headers += (("Access-Control-Allow-Private-Network", "true"),)
    return Access(204, headers)


def _bearer(authorization: str | None) -> str:
    scheme, _, value = (authorization or "").partition(" ")
    return value if scheme.lower() == "bearer" else ""


def _same(given: str, secret: str) -> bool:
    """Equal, in a time that tells neither where nor in how many characters they differ."""
    return hmac.compare_digest(
        *(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, secret))
    )

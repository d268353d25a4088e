"""Tunnel URLs: ``scheme://[params@]remote[:port]/target``, the one way the house writes down how to reach something.

The *authority* says what to build the way from (a proxy, a peer, a local address); the *path* says where the way leads.
A scheme without a remote side therefore has three slashes: ``tls:///example.org:443``.

URLs nest by percent-encoding, in two places that mean different things:

* in ``params`` it is the *carrier*: ``socks://socks%3A%2F%2Fhop%3A1080@far:1080/...`` reaches ``far`` through ``hop``;
* as first path component it is the *destination*: ``socks://hop:1080/tls%3A%2F%2F%2Fhost%3A443`` opens the inner URL
  over the outer one, so the outer remote carries it and sees what it sees.

``params`` that do not decode to a URL are credentials, ``user:password``, each part percent-encoded.  Only a raw ``@``
separates, so there is at most one.  A fragment means nothing here and is dropped.  All text that cannot be such a URL
raises ``ConfigFault``, whose message never quotes credentials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from cyfs_ns.errors import BadWire, ConfigFault
from tunnels.authority import parse_host
from tunnels.endpoint import Target

_LONGEST: Final = 8192
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True, repr=False)
class TunnelUrl:
    """One tunnel URL, taken apart.  Make it with :func:`parse`; ``str()`` gives text that parses to the same value."""

    scheme: str
    """Lower case."""
    params: str
    """Still percent-encoded: a carrier URL or credentials; may be empty."""
    host: str
    """Lower case, an IPv6 address without brackets; may be empty."""
    port: int | None
    path: str
    """As written: empty, or from the first slash."""
    query: str
    """As written, without the question mark."""

    def __str__(self) -> str:
        return self._text(self.params, self.path, self.query)

    def __repr__(self) -> str:
        return f"TunnelUrl({self.redacted!r})"

    def _text(self, params: str, path: str, query: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        params = params and params + "@"
        return f"{self.scheme}://{params}{host}{port}{path}" + (f"?{query}" if query else "")

    @property
    def carrier(self) -> TunnelUrl | None:
        """The URL that carries the connection to the remote, or ``None`` when ``params`` is not a URL."""
        inner = unquote(self.params)
        return parse(inner) if has_scheme(inner) else None

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password, decoded; both empty when there are none."""
        if not self.params or has_scheme(unquote(self.params)):
            return "", ""
        user, _, password = self.params.partition(":")
        return unquote(user), unquote(password)

    @property
    def destination(self) -> Target | TunnelUrl:
        """Where the path leads.  A ``Target`` without host comes from ``/:port``: the way's own idea of "here".

        Only the first path component counts.  Raises ``ConfigFault`` when it is neither ``:port``, nor an address with
        port, nor exactly ``host:port``, nor a nested URL.
        """
        first = unquote(self.path[1:].partition("/")[0])
        if has_scheme(first):
            return parse(first)
        host, port = _host_port(first, self.scheme)
        if port is None:
            raise ConfigFault(f"a {self.scheme} URL needs host:port as its path")
        return Target(host, port)

    @property
    def normalised(self) -> str:
        """One text for all spellings: nested URLs normalised too, query sorted.  The key of status tables."""
        carrier = self.carrier
        params = quote(carrier.normalised, safe="") if carrier is not None else self.params
        return self._text(params, self._path("normalised"), "&".join(sorted(self.query.split("&"))))

    @property
    def redacted(self) -> str:
        """Text to show: credentials are replaced by ``***``, in nested URLs as well."""
        carrier = self.carrier
        params = quote(carrier.redacted, safe="*") if carrier is not None else self.params and _HIDDEN
        return self._text(params, self._path("redacted"), self.query)

    @property
    def secretive(self) -> bool:
        """Whether :attr:`redacted` hides anything, so that the URL cannot be found again by what is shown."""
        return _HIDDEN in self.redacted

    def _path(self, form: str) -> str:
        first, slash, rest = self.path[1:].partition("/")
        inner = unquote(first)
        if not has_scheme(inner):
            return self.path
        return f"/{quote(getattr(parse(inner), form), safe='*')}{slash}{rest}"


def has_scheme(text: str) -> bool:
    """Whether ``text`` begins like a URL."""
    return _SCHEME.match(text) is not None


def nest(url: TunnelUrl) -> str:
    """``url`` encoded so that it can stand as params or path component of another URL."""
    return quote(str(url), safe="")


def parse(text: str) -> TunnelUrl:
    """Read a tunnel URL.  Raises ``ConfigFault``."""
    if len(text) > _LONGEST:
        raise ConfigFault(f"a tunnel URL may have {_LONGEST} characters at most")
    start = _SCHEME.match(text)
    if start is None:
        raise ConfigFault("a tunnel URL begins with scheme://")
    scheme = start[1].lower()
    if not _VISIBLE.fullmatch(text):
        raise ConfigFault(f"this {scheme} URL has blanks, control or non-ASCII characters; percent-encode them")
    if _BAD_ESCAPE.search(text):
        raise ConfigFault(f"this {scheme} URL has a % that is not followed by two hex digits")
    rest, _, _ = text[start.end() :].partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    params, at, remote = authority.rpartition("@")
    if "@" in params or (at and not params):
        raise ConfigFault(f"this {scheme} URL must have at most one raw @, after something")
    host, port = _host_port(remote, scheme)
    url = TunnelUrl(scheme, params, host, port, slash + path, query)
    # Nested URLs are read now, so that a URL that parsed can be shown and normalised without a fault.
    for inner in (params, path.partition("/")[0]):
        decoded = unquote(inner)
        if has_scheme(decoded):
            parse(decoded)
    return url


def _host_port(text: str, scheme: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in host or (port and not port.startswith(":")):
            raise ConfigFault(f"this {scheme} URL has an unfinished IPv6 address")
    else:
        host, colon, port = text.partition(":")
        port = colon + port
    if host:
        try:
            host = parse_host(host.encode("ascii", "replace"))
        except BadWire:
            raise ConfigFault(f"this {scheme} URL has a host that is no name or address") from None
    if not port:
        return host, None
    digits = port[1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise ConfigFault(f"this {scheme} URL has a port that is not a number from 0 to 65535")
    return host, int(digits)

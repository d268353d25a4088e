"""DIDs and the host names that stand for them, both ways and whatever happens to the case of letters.

A DID is ``did:method:id``, for ``did:web`` with a path behind it (W3C DID Core §3.1).  Identities travel through places
that only take host names (URLs, SNI, DNS), so each DID has a host form:

* ``did:web:home.example`` is ``home.example``;
* a method with a *bridge* (a zone that publishes its names in DNS) is ``<id>.<bridge>``: ``alice.web3.example``;
* ``did:ens:alice.eth`` is ``alice.eth``, other names in ENS ``home.example.ens.did``;
* anything else is ``<id>.<method>.did``; ``.did`` is no top-level domain and never asked upstream.

A host form stands for one identity: no ``did:web`` may be called as those of other methods are.

``did:dev`` carries its key in base64url, whose case matters, in a label whose case DNS may change.  So there are two
host forms: the forerunner's, 43 characters of base64url, used where bytes are kept (tokens, our own URLs); and the
case-safe one, 52 characters of base32.  The first is read only as written: one whose letters are all of one case has
lost theirs (the odds that a key is so are 2**-31) and is refused rather than read as somebody else's key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.bases import from_base32, to_base32
from cyfs_ns.identity.keys import PublicKey, read_multikey, read_x

Bridges = Mapping[str, str]
"""Method of a DID -> the DNS suffix below which its names are published."""

_MAX_DID = 512
_METHOD = re.compile(r"[a-z0-9]{1,32}\Z").match
_IDCHARS = re.compile(r"(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})+\Z").match
_WEB_ID = re.compile(r"([^%]+)(?:%3[Aa]([1-9][0-9]{0,4}))?\Z").match
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")
_SENTINELS = frozenset({"null", "undefined"})
_MOST_DEVICES = 1024  # whose two forms are remembered: each stream of a peer asks for them
_LOST_CASE = "lost the case of its letters on the way, and with it the key; use the form of 52 characters"


@dataclass(frozen=True, slots=True, order=True)
class Did:
    """One identity.  ``id`` is canonical for its method; ``path`` are the parts behind it, of ``did:web`` alone."""

    method: str
    id: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ":".join(("did", self.method, self.id, *self.path))

    @property
    def key(self) -> PublicKey | None:
        """The key that *is* this identity, for ``did:dev`` and for ``did:key`` of Ed25519."""
        if self.method == "dev":
            return read_x(self.id)
        if self.method == "key" and (key := read_multikey(self.id)).kind == "Ed25519":
            return PublicKey(key.raw)
        return None

    @property
    def canonical(self) -> Did:
        """Two DIDs are the same identity when these are equal: a key has one name, ``did:dev``."""
        key = self.key if self.method == "key" else None
        return self if key is None else dev_did(key)


def dev_did(key: PublicKey) -> Did:
    """The identity of whoever holds ``key``."""
    return Did("dev", key.x)


def parse_did(untrusted: str) -> Did:
    """The DID in ``untrusted``, canonical: host names in lower case and A-labels, keys checked.  Raises ``BadWire``."""
    if len(untrusted) > _MAX_DID or not untrusted.startswith("did:"):
        raise BadWire(f"not a DID: {untrusted[:80]!r}")
    _, method, *parts = untrusted.split(":")
    if _METHOD(method) is None or not parts or not all(_IDCHARS(part) for part in parts):
        raise BadWire(f"not a DID: {untrusted[:80]!r}")
    if method in _SENTINELS:
        raise BadWire(f"{untrusted[:80]!r} stands for no identity")
    if method == "web":
        path = tuple(map(_unescaped, parts[1:]))
        if not {".", ".."}.isdisjoint(path):
            raise BadWire(f"not a DID, its path leads elsewhere: {untrusted[:80]!r}")
        return _somebody(Did(method, _web_id(parts[0]), path))
    if len(parts) > 1:
        raise BadWire(f"a did:{method} has no path: {untrusted[:80]!r}")
    return _somebody(_by_method(method, parts[0]))


def _somebody(did: Did) -> Did:
    if did.id == "undefined":
        raise BadWire(f"{did} stands for no identity")
    return did


def _by_method(method: str, text: str) -> Did:
    if method == "dev":
        return Did(method, read_x(text).x)
    if method == "key":
        return Did(method, str(read_multikey(text)))
    if method in ("bns", "ens"):
        return Did(method, names.name(text))
    return Did(method, text)


def _unescaped(text: str) -> str:
    """The one spelling of percent escapes (RFC 3986 §6.2.2): none where none is needed, else in capitals."""
    return _ESCAPED.sub(lambda match: char if (char := chr(int(match[1], 16))) in _PLAIN else match[0].upper(), text)


def _web_id(untrusted: str) -> str:
    """``host`` or ``host%3Aport``.  An address instead of a host has no owner to speak for it (did:web §3.1)."""
    parts = _WEB_ID(untrusted)
    if parts is None:
        raise BadWire(f"did:web:{untrusted[:80]}: a host name is needed, with %3A before a port")
    host, port = names.host(parts[1]), parts[2]
    if names.is_ip(host):
        raise BadWire(f"did:web:{untrusted[:80]}: a host name is needed, not an address")
    if host.rpartition(".")[2] in ("eth", "did"):
        raise BadWire(f"did:web:{untrusted[:80]}: names under .eth and .did are no web hosts")
    if port is not None and int(port) > 65535:
        raise BadWire(f"did:web:{untrusted[:80]}: no such port")
    return host if port is None or port == "443" else f"{host}%3A{port}"


def host_of_did(did: Did, bridges: Bridges | None = None, *, case_safe: bool = False) -> str:
    """The host name that stands for ``did``; ``case_safe`` makes it survive DNS.  Raises ``BadWire`` if it has none."""
    if did.path or "%" in did.id:
        raise BadWire(f"{did} has no host name: ports and paths have none")
    if did.method == "web" or (did.method == "ens" and did.id.endswith(".eth")):
        return did.id
    if bridges is not None and (bridge := bridges.get(did.method)):
        return f"{did.id}.{bridge}"
    if case_safe and did.method == "dev":
        return _case_safe(did.id)
    return f"{did.id}.{did.method}.did"


def did_of_host(untrusted: str, bridges: Bridges | None = None) -> Did:
    """The identity a host name stands for; the reverse of :func:`host_of_did`.  Raises ``BadWire``."""
    written = untrusted[:-1] if untrusted[-1:] == "." else untrusted
    name = names.name(written)
    for method, bridge in (bridges or {}).items():
        if name.endswith("." + bridge):
            return _somebody(Did(method, name[: -len(bridge) - 1]))
    if name == "eth" or name == "did":
        raise BadWire(f"{name!r} alone is nobody's name")
    if name.endswith(".eth"):
        return Did("ens", name)
    if not name.endswith(".did"):
        return _somebody(Did("web", name))
    text, _, method = written[:-4].rpartition(".")
    method = method.lower()
    if not text or _METHOD(method) is None or method in _SENTINELS:
        raise BadWire(f"{untrusted[:80]!r}: names under .did are <id>.<method>.did")
    if method == "dev":
        return _dev_label(text)
    return _somebody(_by_method(method, text))


@lru_cache(_MOST_DEVICES)
def _case_safe(x: str) -> str:
    return f"{to_base32(read_x(x).raw)}.dev.did"


@lru_cache(_MOST_DEVICES)
def _dev_label(label: str) -> Did:
    if len(label) == 52:
        return dev_did(PublicKey(from_base32(label, "device key")))
    if len(label) == 43 and label in (label.lower(), label.upper()):
        raise BadWire(f"{label}.dev.did {_LOST_CASE}")
    return dev_did(read_x(label))


def subject(untrusted: str, bridges: Bridges | None = None) -> Did:
    """What a person typed, a DID or a host name, as an identity.  Raises ``BadWire``."""
    return parse_did(untrusted) if untrusted.startswith("did:") else did_of_host(untrusted, bridges)


def short_form(did: Did) -> str:
    """``did`` in few characters, as :func:`subject` reads it with any bridges: of ``did:web`` the host."""
    return did.id if did.method == "web" and not did.path and "%" not in did.id else str(did)


def host_suffix(untrusted: str, bridges: Bridges | None = None) -> str:
    """What ends the host names of an identity and all below it, or of a whole method (``dev.did``); in the form that
    :func:`host_of_did` gives them, case-safe.  Raises ``BadWire``."""
    try:
        return host_of_did(did_of_host(untrusted, bridges).canonical, bridges, case_safe=True)
    except BadWire:
        name = names.name(untrusted)
        method, dot, rest = name.partition(".")
        if name in ("eth", "did"):
            return name
        if not dot or rest != "did":
            raise
        return (bridges or {}).get(method, name)

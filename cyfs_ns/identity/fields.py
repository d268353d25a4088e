"""Typed fields of a stranger's JSON object: each is taken once, what remains is kept as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, parse_did
from cyfs_ns.identity.keys import PublicKey, read_jwk, read_multikey, read_x
from cyfs_ns.identity.strictjson import Json

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\Z").match
_MOST_METHODS = 32
_MOST_IPS = 64
_UNKNOWN = frozenset({"did:undefined:undefined", "did:null:null"})
"""How the forerunner writes "no identity"."""


class Fields:
    """The fields of ``what``, for errors.  Every method raises ``BadWire`` for a value of another type."""

    def __init__(self, values: dict[str, Json], what: str) -> None:
        self.what = what
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def wrong(self, name: str, fault: str) -> BadWire:
        return BadWire(f"{self.what}: {name} {fault}")

    def take(self, name: str) -> Json:
        return self._values.pop(name, None)

    def rest(self) -> Mapping[str, Json]:
        """All that nobody took; one may still take from it."""
        return MappingProxyType(dict(self._values))

    def text_or_none(self, name: str, most: int = 512) -> str | None:
        value = self.take(name)
        if value is None or (isinstance(value, str) and len(value) <= most):
            return value
        raise self.wrong(name, f"is not a text of at most {most} characters")

    def text(self, name: str) -> str:
        if value := self.text_or_none(name):
            return value
        raise self.wrong(name, "is missing")

    def label(self, name: str) -> str:
        """A name that fits in a DNS label, in lower case."""
        value = self.text(name)
        if _LABEL(value) is None:
            raise self.wrong(name, f"{value[:80]!r} does not fit in a host name")
        return value.lower()

    def texts(self, name: str, most: int) -> list[str]:
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > most or not all(isinstance(one, str) for one in value):
            raise self.wrong(name, f"is not a list of at most {most} texts")
        return [str(one) for one in value]

    def number_or_none(self, name: str) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise self.wrong(name, "is not a whole number of seconds")

    def number(self, name: str) -> int:
        value = self.number_or_none(name)
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def port_or_none(self, name: str) -> int | None:
        value = self.take(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536):
            return value
        raise self.wrong(name, "is not a port")

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise self.wrong(name, "is neither true nor false")

    def did_or_none(self, name: str) -> Did | None:
        value = self.text_or_none(name)
        if value is None or value in _UNKNOWN:
            return None
        try:
            return parse_did(value)
        except BadWire as bad:
            raise self.wrong(name, f"is no identity: {bad}") from None

    def did(self, name: str) -> Did:
        value = self.did_or_none(name)
        if value is None:
            raise self.wrong(name, "is missing")
        return value

    def ips(self, name: str) -> tuple[str, ...]:
        """A list of addresses, or the one address that old documents have."""
        if isinstance(self._values.get(name), str):
            self._values[name] = [self._values[name]]
        found = []
        for text in self.texts(name, most=_MOST_IPS):
            if not names.is_ip(text):
                raise self.wrong(name, f"{text[:60]!r} is no address")
            found.append(names.ip(text))
        return tuple(found)

    def x(self, name: str) -> PublicKey:
        return read_x(self.text(name))

    def jwk_or_none(self, name: str) -> PublicKey | None:
        value = self.take(name)
        return None if value is None else read_jwk(value)

    def main_key(self, subject: Did) -> PublicKey | None:
        """The key of ``verificationMethod`` that ``subject`` signs with: ``#main_key``, else the only Ed25519 one."""
        methods = self.take("verificationMethod")
        if methods is None:
            return None
        if not isinstance(methods, list) or len(methods) > _MOST_METHODS:
            raise self.wrong("verificationMethod", f"is not a list of at most {_MOST_METHODS}")
        keys: dict[str, PublicKey] = {}
        for method in methods:
            if not isinstance(method, dict) or not isinstance(name := method.get("id"), str):
                raise self.wrong("verificationMethod", "has an entry without id")
            if (key := self._key_of(method)) is None:
                continue
            whose, mark, fragment = name.rpartition("#")
            if not all(_is(one, subject) for one in (method.get("controller"), whose)):
                continue
            if (fragment := mark + fragment) in keys:
                raise self.wrong("verificationMethod", f"has two keys {fragment[:40]!r}")
            keys[fragment] = key
        if "#main_key" in keys:
            return keys["#main_key"]
        return next(iter(keys.values())) if len(keys) == 1 else None

    def _key_of(self, method: Mapping[str, Json]) -> PublicKey | None:
        """The Ed25519 key of one entry; None for kinds we do not use."""
        jwk, multibase = method.get("publicKeyJwk"), method.get("publicKeyMultibase")
        if isinstance(jwk, dict):
            return read_jwk(jwk) if jwk.get("crv") == "Ed25519" else None
        if isinstance(multibase, str) and multibase.startswith("z6Mk"):
            return PublicKey(read_multikey(multibase).raw)
        return None


def _is(untrusted: Json, subject: Did) -> bool:
    """Whether what may be said of whom is not said, or is ``subject`` in any spelling."""
    if not untrusted:
        return True
    try:
        return isinstance(untrusted, str) and parse_did(untrusted).canonical == subject.canonical
    except BadWire:
        return False

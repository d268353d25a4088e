"""What the owner wants certificates for, and how they are come by: the section ``certificates:``, read once.

Each entry of ``names`` is one certificate: a name, several, or a mapping that says more.  The file a certificate is
kept in is named after what it is for, so that a change of the configuration starts a new one and never overwrites
another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault

Challenge: TypeAlias = Literal["dns-01", "tls-alpn-01", "http-01"]
"""How a name is proven: RFC 8555 sections 8.4 and 8.3, RFC 8737."""
CHALLENGES: Final[tuple[Challenge, ...]] = get_args(Challenge)
LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
MOST_NAMES: Final = 100
"""Of one certificate, as public authorities have it."""
MOST_WANTED: Final = 1000

_LABELS = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))+").fullmatch
_CONTACT = re.compile(r"(mailto:)?[^\s@:/]+@[^\s@:/]+").fullmatch
_KEYS = frozenset(
    {"agree", "challenge", "contact", "directory", "eab", "files", "listen", "names", "on-demand", "serve-dns", "trust"}
)
_PLAIN_FILE: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One certificate to have."""

    names: tuple[str, ...]
    """Canonical, at least one; ``*.`` may stand in front."""
    challenge: Challenge

    @property
    def label(self) -> str:
        """Its name for people and files; a wildcard is ``_.example``."""
        first = self.names[0].replace("*", "_")
        if len(self.names) == 1 and len(first) <= _PLAIN_FILE:
            return first
        return f"{first[:_PLAIN_FILE]}+{hashlib.sha256(' '.join(sorted(self.names)).encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """An account that exists elsewhere already, RFC 8555 section 7.3.4.  ``hmac`` is base64url, as it was given."""

    kid: str
    hmac: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """Names that get a certificate when somebody first asks for them."""

    allow: tuple[str, ...]
    """Names, and ``*.NAME`` for all that are one label below it."""
    challenge: Challenge
    most: int = 50
    """Certificates at a time."""

    def allows(self, name: str) -> bool:
        return name in self.allow or f"*.{name.partition('.')[2]}" in self.allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The section as it is meant."""

    directory: str = LETS_ENCRYPT
    trust: str = ""
    """File with who vouches for the directory's own certificate; empty: whom the system trusts."""
    contact: tuple[str, ...] = ()
    """URLs."""
    binding: Binding | None = None
    wanted: tuple[Wanted, ...] = ()
    on_demand: OnDemand | None = None
    files: tuple[tuple[str, str], ...] = ()
    """Certificate and key of others' making; both may be one file."""
    serve_dns: bool = False
    """Whether this gateway's name server answers for the names at which dns-01 looks for proofs."""
    http: tuple[str, int] | None = None
    """Where HTTP-01 is answered by ourselves."""
    tls: tuple[str, int] | None = None
    """Where TLS-ALPN-01 is answered by ourselves."""

    @property
    def proves_by_dns(self) -> tuple[str, ...]:
        """The names that are proven by DNS, without ``*.``."""
        orders = [each.names for each in self.wanted if each.challenge == "dns-01"]
        demand = self.on_demand
        orders += [demand.allow] if demand is not None and demand.challenge == "dns-01" else []
        return tuple(dict.fromkeys(name.removeprefix("*.") for each in orders for name in each))


def read_settings(section: Any) -> Settings:
    """What a section means.  Raises ``ConfigFault`` with everything that is wrong, each with its place."""
    reader = _Reader()
    settings = reader.read(section)
    if reader.faults:
        raise ConfigFault("\n".join(reader.faults))
    return settings


class _Reader:
    def __init__(self) -> None:
        self.faults: list[str] = []

    def read(self, section: Any) -> Settings:
        if not isinstance(section, Mapping):
            self._wrong("", "expected a mapping")
            return Settings()
        for key in section.keys() - _KEYS:
            self._wrong(str(key), f"is not known; there is {', '.join(sorted(_KEYS))}")
        challenge = self._challenge(section.get("challenge", "dns-01"), "challenge")
        wanted = self._all_wanted(section.get("names", ()), challenge)
        on_demand = self._on_demand(section.get("on-demand"), challenge)
        if (wanted or on_demand) and section.get("agree") is not True:
            self._wrong("agree", "must be true: authorities give certificates to who agrees to their terms of service")
        listen = self._mapping(section.get("listen"), "listen", {"http", "tls"})
        if type(section.get("serve-dns", False)) is not bool:
            self._wrong("serve-dns", "must be true or false")
        return Settings(
            directory=self._directory(section.get("directory", LETS_ENCRYPT)),
            trust=self._text(section.get("trust", ""), "trust"),
            contact=self._contact(section.get("contact", ())),
            binding=self._binding(section.get("eab")),
            wanted=wanted,
            on_demand=on_demand,
            files=self._files(section.get("files", ())),
            serve_dns=section.get("serve-dns") is True,
            http=self._address(listen.get("http"), "listen/http"),
            tls=self._address(listen.get("tls"), "listen/tls"),
        )

    def _wrong(self, at: str, what: str) -> None:
        self.faults.append(f"certificates{'/' if at else ''}{at}: {what}")

    def _text(self, value: Any, at: str) -> str:
        if isinstance(value, str):
            return value
        self._wrong(at, "expected a text")
        return ""

    def _list(self, value: Any, at: str) -> list[Any]:
        if isinstance(value, str | Mapping):
            return [value]
        if isinstance(value, list | tuple):
            return list(value)
        if value is not None:
            self._wrong(at, "expected a list")
        return []

    def _mapping(self, value: Any, at: str, known: set[str]) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._wrong(at, "expected a mapping")
            return {}
        for key in value.keys() - known:
            self._wrong(f"{at}/{key}", f"is not known; there is {', '.join(sorted(known))}")
        return value

    def _directory(self, value: Any) -> str:
        text = self._text(value, "directory")
        try:
            parts = urlsplit(text)
            usable = parts.scheme == "https" and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable:
            self._wrong("directory", "must be an https:// URL")
        return text

    def _contact(self, value: Any) -> tuple[str, ...]:
        found = []
        for at, each in enumerate(self._list(value, "contact")):
            text = self._text(each, f"contact/{at}")
            if _CONTACT(text) is None:
                self._wrong(f"contact/{at}", f"{text[:80]!r} is no mail address")
            found.append(f"mailto:{text.removeprefix('mailto:')}")
        return tuple(found)

    def _binding(self, value: Any) -> Binding | None:
        given = self._mapping(value, "eab", {"kid", "hmac"})
        if not given:
            return None
        binding = Binding(kid=self._text(given.get("kid"), "eab/kid"), hmac=self._text(given.get("hmac"), "eab/hmac"))
        if re.fullmatch(r"[A-Za-z0-9_-]+=*", binding.hmac) is None:
            self._wrong("eab/hmac", "is no base64url")
        return binding

    def _challenge(self, value: Any, at: str) -> Challenge:
        for known in CHALLENGES:
            if value == known:
                return known
        self._wrong(at, f"must be one of {', '.join(CHALLENGES)}")
        return "dns-01"

    def _all_wanted(self, value: Any, usual: Challenge) -> tuple[Wanted, ...]:
        entries = self._list(value, "names")
        if len(entries) > MOST_WANTED:
            self._wrong("names", f"are {len(entries)} certificates, at most {MOST_WANTED} are kept")
            return ()
        found: dict[str, Wanted] = {}
        for at, entry in enumerate(entries):
            place, challenge = f"names/{at}", usual
            if isinstance(entry, Mapping):
                given = self._mapping(entry, place, {"names", "challenge"})
                challenge = self._challenge(given.get("challenge", usual), f"{place}/challenge")
                entry = given.get("names")
            certified = self._names(self._list(entry, place), place)
            if not certified:
                self._wrong(place, "names nothing")
                continue
            if challenge != "dns-01" and any(name.startswith("*") for name in certified):
                self._wrong(place, "a wildcard is proven by dns-01 only (RFC 8555 section 7.1.3)")
            wanted = Wanted(names=certified, challenge=challenge)
            if wanted.label in found:
                self._wrong(place, "is there twice")
            found[wanted.label] = wanted
        return tuple(found.values())

    def _names(self, entries: Iterable[Any], at: str) -> tuple[str, ...]:
        found = []
        for entry in entries:
            text = self._text(entry, at)
            star = "*." if text.startswith("*.") else ""
            try:
                name = names.name(text.removeprefix(star))
            except BadWire as fault:
                self._wrong(at, str(fault))
                continue
            if _LABELS(name) is None:
                self._wrong(at, f"{name} is no public host name, and only those get certificates")
            found.append(star + name)
        if len(found) > MOST_NAMES:
            self._wrong(at, f"has {len(found)} names, at most {MOST_NAMES} fit one certificate")
        return tuple(dict.fromkeys(found))

    def _on_demand(self, value: Any, usual: Challenge) -> OnDemand | None:
        given = self._mapping(value, "on-demand", {"allow", "challenge", "most"})
        if not given:
            return None
        allow = self._names(self._list(given.get("allow"), "on-demand/allow"), "on-demand/allow")
        most = given.get("most", 50)
        if not allow:
            self._wrong("on-demand/allow", "names nothing; without it everybody could order certificates here")
        if type(most) is not int or not 0 < most <= MOST_WANTED:
            self._wrong("on-demand/most", f"must be a number from 1 to {MOST_WANTED}")
            most = 1
        return OnDemand(
            allow=allow, challenge=self._challenge(given.get("challenge", usual), "on-demand/challenge"), most=most
        )

    def _files(self, value: Any) -> tuple[tuple[str, str], ...]:
        found = []
        for at, entry in enumerate(self._list(value, "files")):
            given = self._mapping(entry, f"files/{at}", {"certificate", "key"}) if not isinstance(entry, str) else {}
            certificate = self._text(given.get("certificate", entry), f"files/{at}/certificate")
            found.append((certificate, self._text(given.get("key", certificate), f"files/{at}/key")))
        return tuple(found)

    def _address(self, value: Any, at: str) -> tuple[str, int] | None:
        if value is None:
            return None
        host, colon, port = str(value).rpartition(":")
        try:
            found = names.ip(host.strip("[]")) if host else "::"
        except BadWire:
            found = ""
        if not colon or not found or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self._wrong(at, f"{str(value)[:80]!r} is no address and port, such as [::]:80")
            return None
        return found, int(port)

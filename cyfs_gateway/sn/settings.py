"""The section ``sn`` of the configuration, as it is written and as it is meant.

``domain`` is all that is needed; every other key has a default that lets in nobody but the owner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cyfs_gateway.sn.admission import OWN, USUAL, Policy
from cyfs_gateway.sn.ingress import IngressSettings, read_ingress
from cyfs_gateway.sn.names import RESERVED
from cyfs_gateway.sn.quota import Quota, read_quota
from cyfs_gateway.sn.relay import RelayBounds
from cyfs_gateway.sn.zonerecords import ZoneSettings, own_labels
from cyfs_gateway.sn.zoneupdate import is_label
from cyfs_ns import names
from cyfs_ns.config.written import split_host_port
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.did import Did, parse_did
from rtcp.party import Address

SECTION: Final = "sn"
DEFAULT_PORT: Final = 3478
"""Of STUN (RFC 8489 section 18.6), which the relay shares."""

_DAY: Final = 86_400
_SIZE = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?\Z", re.IGNORECASE).match
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_MOST_WORDS: Final = 100_000
_ANY: Final = ("192.0.2.1",)
"""Stands for the addresses that this machine turns out to have."""


class Opened(StrEnum):
    """Who may get an account, beside the owners."""

    NOBODY = "none"
    INVITED = "invited"
    """Whoever has an invitation code."""
    ANYONE = "anyone"


_OPENED: Final = {False: Opened.NOBODY, True: Opened.ANYONE, None: Opened.NOBODY}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnSettings:
    """What the operator wants.

    ``listen``: the literal address (empty: all) and the port of STUN and the UDP relay.  ``addresses`` are those at
    which the SN is reached from the internet, none: those that this machine has.  ``nameservers`` are those of the
    domain with their addresses (none: ``ns1`` below it, here).  ``owners`` are DIDs beside the owner of this machine.
    """

    domain: str
    listen: Address = ("", DEFAULT_PORT)
    addresses: tuple[str, ...] = ()
    nameservers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    ttl: int = 60
    private: bool = False
    opened: Opened = Opened.NOBODY
    owners: frozenset[Did] = frozenset()
    reserved: frozenset[str] = RESERVED
    quota: Quota = USUAL
    own_quota: Quota = OWN
    grace: int = 90 * _DAY
    hourly: int = 8
    accounts: int = 100_000
    guests: int = 512
    """Strangers who may have a tunnel at a time, to ask for an account."""
    streams: int = 1024
    """Streams to other devices that one device may have open through here."""
    relay: RelayBounds = field(default_factory=RelayBounds)
    ingress: IngressSettings | None = None

    def policy(self, owners: Collection[Did]) -> Policy:
        """``owners``: with that of this machine; looked at anew for each request."""
        return Policy(
            domain=self.domain,
            owners=owners,
            invites=self.opened is not Opened.NOBODY,
            open=self.opened is Opened.ANYONE,
            quota=self.quota,
            own_quota=self.own_quota,
            reserved=self.reserved | own_labels(self.zone(self.addresses or _ANY, ())),
            grace=self.grace,
            hourly=self.hourly,
            most_accounts=self.accounts,
        )

    def zone(self, found: Iterable[str], texts: Iterable[str]) -> ZoneSettings:
        """The zone, where ``found`` are the addresses of this machine.  Raises ``ConfigFault``."""
        addresses = self.addresses or tuple(found)
        if not addresses:
            raise _fault("addresses", "this machine has no public one; say by which it is reached")
        servers = self.nameservers or {f"ns1.{self.domain}": addresses}
        try:
            return ZoneSettings(
                origin=self.domain,
                nameservers={
                    name: told or (addresses if _is_below(name, self) else ()) for name, told in servers.items()
                },
                ingress=addresses,
                addresses=addresses,
                hosts=self.hosts,
                reserved=self.reserved,
                texts=(*texts, *self.texts),
                issuers=self.issuers,
                ttl=self.ttl,
                private=self.private,
            )
        except ConfigFault as fault:
            raise ConfigFault(f"{SECTION}: {fault}") from None


def read_settings(written: Any) -> SnSettings:
    """The section as plain data.  Raises ``ConfigFault``, which names the key."""
    told = _Told(written, SECTION)
    domain = told.name("domain")
    if "." not in domain:
        raise told.fault("domain", "a domain such as sn.example.org is needed, that is delegated to this machine")
    settings = SnSettings(
        domain=domain,
        listen=_listen(told),
        addresses=told.addresses("addresses"),
        nameservers=told.hosts("nameservers", domain),
        hosts={name.removesuffix(f".{domain}"): found for name, found in told.hosts("hosts", domain).items()},
        texts=told.texts("texts", 64),
        issuers=told.texts("issuers", 8),
        ttl=told.number("ttl", 60, 5, _DAY),
        private=told.flag("private-addresses"),
        opened=_opened(told),
        owners=frozenset(map(told.did("owners"), told.texts("owners", 256))),
        reserved=RESERVED | _labels(told),
        quota=told.quota("quota", USUAL),
        own_quota=told.quota("own-quota", OWN),
        grace=told.number("grace-days", 90, 1, 3650) * _DAY,
        hourly=told.number("names-per-hour", 8, 1, 10_000),
        accounts=told.number("accounts", 100_000, 1, 10_000_000),
        guests=told.number("guests", 512, 1, 100_000),
        streams=told.number("streams", 1024, 1, 100_000),
        relay=_relay(told),
        ingress=None if (ingress := told.take("ingress", False)) is False else read_ingress(ingress, domain),
    )
    told.finish()
    settings.zone(settings.addresses or _ANY, ())
    return settings


def _is_below(name: str, settings: SnSettings) -> bool:
    return name == settings.domain or name.endswith(f".{settings.domain}")


def _listen(told: _Told) -> Address:
    value = told.take("listen", DEFAULT_PORT)
    where = split_host_port(f":{value}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    if where is None or (where[0] and not names.is_ip(where[0])):
        raise told.fault("listen", f"a UDP port, or an address and a port, and not {str(value)[:60]!r}")
    return names.ip(where[0]) if where[0] else "", where[1]


def _opened(told: _Told) -> Opened:
    value = told.take("open", False)
    if value is None or isinstance(value, bool):
        return _OPENED[value]
    if value in list(Opened):
        return Opened(value)
    raise told.fault("open", f"one of {', '.join(Opened)}, and not {str(value)[:60]!r}")


def _labels(told: _Told) -> frozenset[str]:
    words = told.texts("reserved", _MOST_WORDS)
    for word in words:
        if not is_label(word):
            raise told.fault("reserved", f"{word[:60]!r} is no label of a host name, in lower case")
    return frozenset(words)


def _relay(told: _Told) -> RelayBounds:
    inner = _Told(told.take("relay", {}), f"{SECTION}/relay")
    usual = RelayBounds()
    bounds = RelayBounds(
        sessions=inner.number("sessions", usual.sessions, 0, 1 << 20),
        of_account=inner.number("sessions-of-account", usual.of_account, 1, 1 << 16),
        rate=inner.size("rate", usual.rate, 16 << 10),
    )
    inner.finish()
    return bounds


def _fault(key: str, why: str, section: str = SECTION) -> ConfigFault:
    return ConfigFault(f"{section}/{key}: {why}")


class _Told:
    """One mapping as it is written: each key is taken once."""

    def __init__(self, written: Any, section: str) -> None:
        self._section = section
        if not isinstance(written, Mapping) or not all(isinstance(key, str) for key in written):
            raise ConfigFault(f"{section}: expected a mapping")
        self._left = dict(written)
        self._known: list[str] = []

    def fault(self, key: str, why: str) -> ConfigFault:
        return _fault(key, why, self._section)

    def take(self, key: str, default: Any = None) -> Any:
        self._known.append(key)
        return self._left.pop(key, default)

    def finish(self) -> None:
        for key in self._left:
            raise self.fault(key[:60], f"not known; there are {', '.join(sorted(set(self._known)))}")

    def flag(self, key: str) -> bool:
        value = self.take(key, False)
        if not isinstance(value, bool):
            raise self.fault(key, f"true or false, and not {str(value)[:60]!r}")
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.fault(key, f"a whole number from {least} to {most}, and not {str(value)[:60]!r}")
        return value

    def size(self, key: str, default: int, least: int) -> int:
        value = _octets(self.take(key, default))
        if value is None or value < least:
            raise self.fault(key, f"a number of bytes from {least}, such as 50 GiB")
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        value = self.take(key, ())
        value = [value] if isinstance(value, str) else value or ()
        if not isinstance(value, Collection) or len(value) > most or not all(isinstance(one, str) for one in value):
            raise self.fault(key, f"a list of at most {most} texts")
        return tuple(value)

    def name(self, key: str) -> str:
        value = self.take(key)
        try:
            return names.name(value if isinstance(value, str) else "")
        except BadWire as bad:
            raise self.fault(key, str(bad) if value else "is missing") from None

    def addresses(self, key: str) -> tuple[str, ...]:
        return self._ips(key, self.texts(key, 16))

    def hosts(self, key: str, domain: str) -> dict[str, tuple[str, ...]]:
        """Names with their addresses; a label is one below ``domain``, and a list of names has none."""
        if isinstance(self._left.get(key), str | list | tuple):
            value: Any = dict.fromkeys(self.texts(key, 64), ())
        else:
            value = self.take(key, {})
        if not isinstance(value, Mapping) or len(value) > 64:
            raise self.fault(key, "names with their addresses")
        found = {}
        for name, told in value.items():
            try:
                whole = names.name(str(name))
            except BadWire as bad:
                raise self.fault(key, str(bad)) from None
            some = (told,) if isinstance(told, str) else () if told is None else told
            if not isinstance(some, list | tuple):
                raise self.fault(f"{key}/{name}", "a list of addresses")
            found[whole if "." in whole else f"{whole}.{domain}"] = self._ips(f"{key}/{name}", some)
        return found

    def _ips(self, key: str, texts: Iterable[Any]) -> tuple[str, ...]:
        found = []
        for text in texts:
            if not isinstance(text, str) or not names.is_ip(text):
                raise self.fault(key, f"{str(text)[:60]!r} is no address")
            found.append(names.ip(text))
        return tuple(dict.fromkeys(found))

    def did(self, key: str) -> Any:
        def read(text: str) -> Did:
            try:
                return parse_did(text).canonical
            except BadWire as bad:
                raise self.fault(key, str(bad)) from None

        return read

    def quota(self, key: str, usual: Quota) -> Quota:
        """What is written, and for the rest the ``usual``; ``none`` lifts a bound."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise self.fault(key, "a mapping of what an account may use")
        claims = dict(usual.claims())
        for name, told in value.items():
            claim = str(name).replace("-", "_")
            octets = _octets(told)
            if told is None or told == "none":
                claims.pop(claim, None)
            elif octets is None:
                raise self.fault(f"{key}/{name}", f"a number, a size such as 50 GiB, or none; not {str(told)[:60]!r}")
            else:
                claims[claim] = octets
        try:
            return read_quota(claims)
        except BadWire as bad:
            raise self.fault(key, str(bad)) from None


def _octets(written: Any) -> int | None:
    if isinstance(written, int) and not isinstance(written, bool):
        return written
    found = _SIZE(written.strip()) if isinstance(written, str) else None
    return int(found[1]) << _UNITS[found[2].lower()] if found else None

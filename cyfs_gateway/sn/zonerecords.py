"""Which records stand in the zone of an SN: at its top, and at and below the name of each person.

::

    sn.example.                           SOA, NS, A, AAAA, CAA, TXT
    ns1, www, …                           A, AAAA             the SN's own machines
    alice.sn.example.                     A, AAAA, CAA, TXT   PKX=…, BOOT=…, DEV=… (docs/identity.md)
    *.alice                               A, AAAA             her services: photos.alice
    ood1.alice, *.ood1.alice              A, AAAA             each of her machines
    _acme-challenge.alice                 TXT                 for certificates of alice and *.alice
    _acme-challenge.photos.alice          TXT

The addresses of a name are those of the machine that answers for it, if that machine exposes itself; of a family in
which it tells none, and of everybody else, they are those of the SN's ingress.  So whoever asks reaches the house,
whichever family they speak.

A challenge for ``photos.alice`` makes that name exist, and an existing name is no longer covered by the wildcard (RFC
4592 section 2.2.1): it would be without addresses just while its certificate is made.  So it gets, with the names
between and the wildcards below, what the wildcard said.

CAA for a name is looked for upwards (RFC 8659 section 3), so that at the top holds for all who chose none themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from cyfs_gateway.sn.zoneupdate import ZoneUpdate, is_label
from cyfs_ns import names
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.publish import TTL as DOCUMENT_TTL
from cyfs_ns.identity.txt import read_published
from cyfs_ns.message import NS, SOA, TXT
from cyfs_ns.records import CAA, txt_data
from cyfs_ns.special import address_data
from cyfs_ns.wire import Record, is_under, name_wire

MOST_TEXTS = 16
"""TXT records of documents at one name."""

_CHALLENGE = "_acme-challenge"
_MOST_ORIGIN = 120  # characters: a device of somebody, both with the longest labels, still has a wildcard below it
_MOST_NAME = 253
_MOST_ISSUERS = 8
_ISSUER = re.compile(r"[!-~][ -~]{0,199}\Z").match
_MOST_DOCUMENTS = 8192  # octets of them at one name
_APEX_TTL = 3600
_REFRESH, _RETRY, _EXPIRE = 7200, 900, 1_209_600


class Holder(Protocol):
    """Who has a name, as far as the zone goes by it.  Equal when nothing of that has changed."""

    @property
    def devices(self) -> Mapping[str, PublicKey]:
        """The keys of their machines, by label."""

    @property
    def chosen(self) -> str:
        """The machine that answers for the name itself; empty: none does."""

    @property
    def texts(self) -> Sequence[str]:
        """What is published of their documents: ``PKX=…;``, ``BOOT=…;``, ``DEV=…;``
        (:func:`cyfs_ns.identity.publish.publication`)."""

    @property
    def issuers(self) -> Sequence[str]:
        """The certificate authorities they want, as CAA says it (RFC 8659 section 4.2), each for wildcards too; none:
        those of the zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneSettings:
    """A zone as its operator wants it.  Names are canonical; TTLs are seconds.  Raises ``ConfigFault``."""

    origin: str
    nameservers: Mapping[str, tuple[str, ...]]
    """The zone's servers by name, with the addresses of those that stand in it (the glue)."""
    ingress: tuple[str, ...]
    """Where visitors of the people's services are received."""
    addresses: tuple[str, ...] = ()
    """Of the SN itself; none: the ingress."""
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other machines of the SN by label."""
    reserved: frozenset[str] = frozenset()
    """Labels that are nobody's, whatever the registry says."""
    texts: tuple[str, ...] = ()
    """TXT at the top."""
    issuers: tuple[str, ...] = ()
    contact: str = "hostmaster"
    """The mailbox at the domain."""
    ttl: int = 60
    """Of addresses: devices move."""
    challenge_ttl: int = 5
    negative_ttl: int = 30
    """For which others remember that there is nothing."""
    unpublished_ttl: int = 5
    """The same at and below a name whose owner has published nothing yet, and of the documents that stand there by
    then: what is published next is the whole point of the name."""
    private: bool = False
    """Whether devices may tell addresses that mean nothing in the internet, or something else at each visitor's."""

    def __post_init__(self) -> None:
        faults = []
        try:
            apex = name_wire(names.name(self.origin))
            for host, addresses in self.nameservers.items():
                inside = is_under(name_wire(names.name(host)), apex)
                if inside != bool(addresses):
                    told = "stands in the zone, so its addresses are needed" if inside else "stands elsewhere"
                    faults.append(f"nameserver {host} {told}")
            for label in (*self.hosts, self.contact):
                if not is_label(label):
                    faults.append(f"{label!r} is no label of a host name")
            faults += [f"{issuer!r} is no certificate authority" for issuer in self.issuers if not _ISSUER(issuer)]
            for address in chain(self.ingress, self.addresses, *self.nameservers.values(), *self.hosts.values()):
                names.ip(address)
        except BadWire as bad:
            faults.append(str(bad))
        if len(self.origin) > _MOST_ORIGIN:
            faults.append(f"a name of {len(self.origin)} characters leaves too little room below it")
        if not self.nameservers:
            faults.append("a zone has name servers")
        if not self.ingress:
            faults.append("without an address of an ingress people's names lead nowhere")
        if faults:
            raise ConfigFault(f"zone {self.origin}: " + "; ".join(faults))

    @property
    def apex(self) -> bytes:
        """The origin as a wire name."""
        return name_wire(self.origin)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a device says now: ``challenges`` are those that have not ended."""

    update: ZoneUpdate
    addresses: tuple[str, ...]
    challenges: Mapping[str, tuple[str, ...]]


def soa_record(settings: ZoneSettings, serial: int) -> Record:
    """The zone's SOA (RFC 1035 section 3.3.13)."""
    first = next(iter(settings.nameservers))
    numbers = (serial, _REFRESH, _RETRY, _EXPIRE, settings.negative_ttl)
    data = name_wire(first) + name_wire(f"{settings.contact}.{settings.origin}")
    return settings.apex, SOA, _APEX_TTL, data + b"".join(number.to_bytes(4, "big") for number in numbers)


def own_labels(settings: ZoneSettings) -> frozenset[str]:
    """The labels below the top that lead to machines of the SN."""
    servers = (host.removesuffix(f".{settings.origin}") for host, told in settings.nameservers.items() if told)
    return frozenset(host.rpartition(".")[2] for host in (*settings.hosts, *servers))


def own_records(settings: ZoneSettings) -> Iterator[Record]:
    """What is the SN's own, without the SOA."""
    apex = settings.apex
    for server in settings.nameservers:
        yield apex, NS, _APEX_TTL, name_wire(server)
    yield from _addresses(apex, settings.addresses or settings.ingress, settings.ttl)
    yield from _authorities(apex, settings.issuers)
    for text in settings.texts:
        yield apex, TXT, DOCUMENT_TTL, txt_data(text.encode())
    glue = {server: told for server, told in settings.nameservers.items() if told}
    hosts = {f"{label}.{settings.origin}": told for label, told in settings.hosts.items()}
    for host, told in {**hosts, **glue}.items():
        if host != settings.origin:
            yield from _addresses(name_wire(host), told, _APEX_TTL if host in glue else settings.ttl)


def name_records(settings: ZoneSettings, name: str, holder: Holder, spoken: Sequence[Spoken]) -> Iterator[Record]:
    """What stands at and below the label ``name``; ``spoken`` is of the holder's devices."""
    base = f"{name}.{settings.origin}"
    by_device = {each.update.device: each for each in spoken}
    front = _told(settings, by_device.get(holder.chosen), straight=False)
    hosts = {"": front, **{label: _told(settings, by_device.get(label), straight=True) for label in holder.devices}}
    challenges: dict[str, dict[str, None]] = {}
    for each in spoken:
        for host, values in each.challenges.items():
            challenges.setdefault(host, {}).update(dict.fromkeys(values))
            while host:
                hosts.setdefault(host, hosts.get(host.rpartition(".")[2], front))
                host = host.partition(".")[2]
    for host, addresses in hosts.items():
        owner = f"{host}.{base}" if host else base
        yield from _addresses(name_wire(owner), addresses, settings.ttl)
        yield from _addresses(name_wire(f"*.{owner}"), addresses, settings.ttl)
    document_ttl = DOCUMENT_TTL if is_published(holder) else settings.unpublished_ttl
    for text in believed_texts(holder.texts):
        yield name_wire(base), TXT, document_ttl, txt_data(text.encode())
    yield from _authorities(name_wire(base), holder.issuers)
    for host, told in challenges.items():
        for value in told:
            yield name_wire(challenge_name(settings, name, host)), TXT, settings.challenge_ttl, txt_data(value.encode())


def is_published(holder: Holder) -> bool:
    """Whether its owner has said what is to stand beside the name."""
    return bool(holder.issuers) or any(text.startswith("BOOT=") for text in holder.texts)


def challenge_name(settings: ZoneSettings, name: str, host: str) -> str:
    """Where the values for ``host``, relative to the label ``name``, stand.  Raises ``BadWire``: that is too long."""
    whole = ".".join(filter(None, (_CHALLENGE, host, name, settings.origin)))
    if len(whole) > _MOST_NAME:
        raise BadWire(f"{whole[:80]!r}… is no name, it is too long")
    return whole


def believed_texts(texts: Iterable[str]) -> Iterator[str]:
    """Those of ``texts`` that are documents as :mod:`cyfs_ns.identity.txt` reads them, as many as there is room for."""
    size = 0
    for text in list(texts)[:MOST_TEXTS]:
        published = read_published([text.encode("utf-8", "replace")])
        size += len(text)
        if published and not published.faults and size <= _MOST_DOCUMENTS:
            yield text


def _told(settings: ZoneSettings, device: Spoken | None, *, straight: bool) -> tuple[str, ...]:
    """Where a device is reached; ``straight``: at its own name, where it need not expose itself to the name's."""
    own = device.addresses if device is not None and (straight or device.update.exposed) else ()
    families = {":" in address for address in own}
    return (*own, *(address for address in settings.ingress if (":" in address) not in families))


def _addresses(owner: bytes, addresses: Iterable[str], ttl: int) -> Iterator[Record]:
    for address in addresses:
        yield owner, *address_data(names.ip(address), ttl)


def _authorities(owner: bytes, issuers: Iterable[str]) -> Iterator[Record]:
    for issuer in filter(_ISSUER, list(issuers)[:_MOST_ISSUERS]):
        yield owner, CAA, _APEX_TTL, b"\0\5issue" + issuer.encode()

"""What an owner publishes in DNS, from the documents at hand, as name servers and their web forms want it.

All records stand at the zone's own name: ``PKX`` the owner's key, ``BOOT`` the boot document, one ``DEV`` for each
device.  Nothing is written that would not be believed when it is read back: every document must hold by the one key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Bridges, Did, host_of_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, OwnerDoc, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.identity.txt import MOST_TXT, character_strings, txt_record
from cyfs_ns.special import IDENTITY_DOMAINS

TTL = 600
"""Seconds, as the forerunner publishes."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The TXT records of ``name``, each as one text.  ``notes`` are for the person who publishes them."""

    name: str
    records: tuple[str, ...]
    notes: tuple[str, ...] = ()


def publication(
    tokens: Sequence[tuple[str, Token]],
    key: PublicKey,
    now: float,
    zone: Did | None = None,
    bridges: Bridges | None = None,
) -> Publication:
    """What to publish of ``tokens`` (each with the file it is from), all signed with ``key`` and in force at ``now``.

    ``zone``: where no document says it; ``bridges``: where those of other methods stand in DNS.  Raises ``BadWire``,
    which names the file.
    """
    boot: tuple[str, str, ZoneBoot] | None = None
    devices: dict[str, tuple[str, str]] = {}
    for source, token in _unfolded(tokens):
        try:
            document = verify(token, kind_of(token.claims), key, now)
            if isinstance(document, ZoneBoot):
                zone = _agreed(zone, document.id)
                if boot is not None and boot[1] != token.text:
                    raise BadWire(f"another boot document than in {boot[0]}; name only one")
                boot = source, token.text, document
            elif isinstance(document, ZoneDoc):
                zone = _agreed(zone, document.id)
            elif isinstance(document, DeviceDoc):
                zone = _agreed(zone, document.zone)
            elif isinstance(document, DeviceMini):
                zone = _agreed(zone, document.zone(bridges))
                if devices.setdefault(document.name, (source, token.text))[1] != token.text:
                    raise BadWire(f"another document of {document.name!r} than in {devices[document.name][0]}")
        except BadWire as bad:
            raise BadWire(f"{source}: {bad}") from None
    if zone is None:
        raise BadWire("nothing here says which zone it is for; say it with --zone")
    name = host_of_did(zone, bridges)
    if name.rpartition(".")[2] in IDENTITY_DOMAINS:
        raise BadWire(
            f"{zone}: nothing says where in the DNS it stands; a configuration with identity.bridges does: -c"
        )
    records = [txt_record("PKX", key.x)]
    if boot is not None:
        records.append(txt_record("BOOT", boot[1]))
    records += [txt_record("DEV", text) for _, (_, text) in sorted(devices.items())]
    for record in records:
        if len(record) > MOST_TXT:
            raise BadWire(
                f"a record of {len(record)} bytes is longer than the {MOST_TXT} that are read; name less in it"
            )
    return Publication(name, tuple(records), _notes(boot and boot[2], frozenset(devices)))


def as_zone(published: Publication) -> str:
    """Lines of a zone file (RFC 1035 §5.1)."""
    return "".join(f"{published.name}. {TTL} IN TXT {_quoted(record)}\n" for record in published.records)


def as_records(published: Publication) -> str:
    """Name, type and whole value with tabs between, for forms that cut long values themselves."""
    return "".join(f"{published.name}\tTXT\t{record}\n" for record in published.records)


def as_dnsmasq(published: Publication) -> str:
    """Lines of a dnsmasq configuration."""
    return "".join(
        f"txt-record={published.name},{','.join(character_strings(record))}\n" for record in published.records
    )


def as_cyfs_ns(published: Publication) -> str:
    """The ``dns`` section for this project's own name server."""
    lines = "".join(f"    - '{published.name} {TTL} TXT {_quoted(record)}'\n" for record in published.records)
    return f"dns:\n  records:\n{lines}"


def _quoted(record: str) -> str:
    return " ".join(f'"{piece}"' for piece in character_strings(record))


def _unfolded(tokens: Sequence[tuple[str, Token]]) -> list[tuple[str, Token]]:
    """``tokens``, with what stands inside device and zone documents in its own right."""
    found = []
    for source, token in tokens:
        document = read_document(token.claims)
        inside = ""
        if isinstance(document, DeviceDoc):
            if not document.mini_jwt:
                raise BadWire(f"{source}: without its short form for DNS; sign it again, with a zone")
            inside = document.mini_jwt
        elif isinstance(document, ZoneDoc):
            inside = document.boot_jwt
        elif not isinstance(document, OwnerDoc | DeviceMini | ZoneBoot):
            raise BadWire(f"{source}: a document of kind {document.kind!r} is not published in DNS")
        found.append((source, token))
        if inside:
            found.append((source, read_token(inside, f"{document.kind} document: the short form inside")))
    return found


def _agreed(zone: Did | None, told: Did | None) -> Did | None:
    if zone is not None and told is not None and zone.canonical != told.canonical:
        raise BadWire(f"it is for {told}, and the others are for {zone}; publish each zone by itself")
    return zone or told


def _notes(boot: ZoneBoot | None, devices: frozenset[str]) -> tuple[str, ...]:
    if boot is None:
        return ("no boot document: machines cannot find the zone by DNS; make one: id sign boot",)
    listed = {ood.name for ood in boot.oods}
    return tuple(
        f"{name} stands in the boot document and has no DEV record: its key cannot be learnt from DNS"
        for name in sorted(listed - devices)
    )

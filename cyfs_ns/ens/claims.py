"""From what is asked about somebody to the records of a name that may tell it, and from what they hold to claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cyfs_ns.ens import asks
from cyfs_ns.ens.asks import RecordAsk
from cyfs_ns.ens.contenthash import read_contenthash
from cyfs_ns.ens.records import read_addresses, stored_for
from cyfs_ns.identity.did import parse_did
from cyfs_ns.identity.txt import joined_txt, read_published
from cyfs_ns.message import AAAA, TXT, A, rtype_number, rtype_text
from cyfs_ns.trust.evidence import Claim, Evidence, Kind, Value
from cyfs_ns.trust.plan import Ask
from cyfs_ns.wire import name_wire

_DNS_TYPES = ("A", "AAAA", "CNAME", "MX", "TXT", "SRV", "SSHFP", "TLSA", "HTTPS", "CAA")


def called(record: RecordAsk) -> str:
    """The record, as evidence names it."""
    return f"{record.kind} {record.key}".strip()


def wanted_records(ask: Ask, coins: Iterable[int], texts: Iterable[str]) -> list[RecordAsk]:
    """The records of a name that can hold what is asked for; ``coins`` and ``texts`` are those worth asking for."""
    wanted, kinds = wanted_dns(ask, ask.subject.id), ask.kinds
    if "address" in kinds:
        wanted += [asks.blob("ip"), asks.text("ip")]
    if "content" in kinds:
        wanted.append(asks.contenthash())
    if "did" in kinds:
        wanted += [asks.blob("did"), asks.text("did")]
    if "text" in kinds:
        wanted += [asks.coin_address(coin) for coin in coins]
        wanted += [asks.text(key) for key in texts]
        wanted.append(asks.pubkey())
    return wanted


def wanted_dns(ask: Ask, owner: str) -> list[RecordAsk]:
    """The DNS records under ``owner`` that can hold what is asked for."""
    types: dict[str, None] = {}
    if ask.kinds & {"key", "document"}:
        types["TXT"] = None
    if "address" in ask.kinds:
        types |= {"A": None, "AAAA": None}
    if "record" in ask.kinds:
        types |= dict.fromkeys(_DNS_TYPES)
    return [asks.dns_record(name_wire(owner), rtype_number(rtype)) for rtype in types]


def claims_of(
    ask: Ask, record: RecordAsk, value: str | bytes, evidence: Evidence, faults: list[str]
) -> Iterator[Claim]:
    """What a record says.  Raises ``BadWire`` if that is nothing sensible."""

    def claim(kind: Kind, said: Value, key: str = "") -> Claim:
        return Claim(about=ask.subject, kind=kind, key=key, value=said, evidence=evidence)

    match record.kind, record.key:
        case (("text" | "data"), "ip"):
            yield from (claim("address", address) for address in read_addresses(value))
        case (("text" | "data"), "did"):
            yield claim("did", str(parse_did(value if isinstance(value, str) else value.decode("ascii", "replace"))))
        case "contenthash", _:
            yield claim("content", str(read_contenthash(_octets(value))))
        case "addr", coin:
            yield claim("text", value, f"a.{coin}")
        case "pubkey", _:
            yield claim("text", _octets(value).hex(), "pubkey")
        case "dns", rtype:
            stored = stored_for(ask.subject.id, int(rtype), _octets(value))
            if "record" in ask.kinds:
                yield claim("record", value, rtype_text(int(rtype)))
            if "address" in ask.kinds and int(rtype) in (A, AAAA):
                yield from (claim("address", each.text) for each in stored)
            if int(rtype) != TXT or not ask.kinds & {"key", "document"}:
                return
            # As a zone publishes itself in DNS, it may here.
            published = read_published(joined_txt(each.data) for each in stored)
            faults.extend(published.faults)
            if published.key is not None:
                # Of the name alone: whoever has one must not say, as surely as a chain does, who somebody else is.
                yield claim("key", published.key, "owner")
            for token in (published.boot, published.zone, *published.devices):
                if token is not None:
                    yield claim("token", token)
        case _:
            yield claim("text", value, record.key)


def _octets(value: str | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value

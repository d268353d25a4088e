"""How a record of a name is found on a chain (ENSIP-1, 10, 21, 23; ERC-3668), as steps that somebody else takes.

Each lookup is a generator: it yields what it wants to know, a ``Call`` of a contract, a ``Fetch`` of a gateway, or
several lookups ``Together``, is sent what came back, and returns its result.  It has no socket and no clock, so the
whole algorithm, each of its traps included, is tested with plain lists.

There are two ways to one record.  The *direct* one asks the registry for the resolver of the name or, failing that, of
the nearest parent (who must say that it speaks for names below it), and then that resolver.  The *universal* one asks a
contract that does the same on the chain: one call instead of four, and one more party to trust.  Either may answer
"ask this web gateway and bring me what it says" (CCIP-Read); what it says counts only as far as the contract that sent
us there accepts it, which is why such records are worth as much as others.

Errors: ``BadWire`` for what breaks the rules, ``Unreachable`` when no gateway helped.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cyfs_ns.ens.abi import Array, Fields, decode, encode
from cyfs_ns.ens.namehash import dns_encoded, namehash
from cyfs_ns.errors import BadWire, Unreachable

MAX_HOPS = 4
"""Gateways that one lookup may be sent to, one after another (ERC-3668 recommends this)."""

_MAX_URLS = 8
_MAX_BATCH = 16
_MAX_NESTED = 3  # batches within batches
_ANCESTORS_AT_ONCE = 4
_MAX_BRACKETS = 100

_RESOLVER_OF = bytes.fromhex("0178b8bf")  # resolver(bytes32)
_SUPPORTS = bytes.fromhex("01ffc9a7")  # supportsInterface(bytes4)
_RESOLVE = bytes.fromhex("9061b923")  # resolve(bytes,bytes), and the interface of ENSIP-10

_OFFCHAIN = bytes.fromhex("556f1830")  # OffchainLookup(address,string[],bytes,bytes4,bytes)
_OFFCHAIN_FIELDS = ("address", Array("string"), "bytes", "bytes4", "bytes")
_BATCH = bytes.fromhex("a780bab6")  # query((address,string[],bytes)[])
_BATCH_FIELDS = (Array(Fields(("address", Array("string"), "bytes"))),)
_MULTICALL = bytes.fromhex("ac9650d8")  # multicall(bytes[])
_BATCH_URL = "x-batch-gateway:true"
_HTTP_ERROR = bytes.fromhex("01800152")  # HttpError(uint16,string)
_UNSUPPORTED = bytes.fromhex("7b1c461b")  # UnsupportedResolverProfile(bytes4)
_NO_RESOLVER = {
    bytes.fromhex("77209fe8"): "the registry knows no resolver for it",  # ResolverNotFound(bytes)
    bytes.fromhex("1e9535f2"): "its resolver is no contract",  # ResolverNotContract(bytes,address)
}
_NOBODY = "0x" + 40 * "0"


@dataclass(frozen=True, slots=True)
class Call:
    """Ask a contract, changing nothing (``eth_call``).  Answered by ``Returned`` or ``Reverted``."""

    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Returned:
    """The call's result, empty where there is no contract."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Reverted:
    """The contract said no; ``data`` is its error, selector and all."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a URL, or post ``body`` (JSON) to it.  Answered by ``Fetched``, also if nobody was reached."""

    url: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An HTTP response; status 0: there was none, and ``why`` says so."""

    status: int
    body: bytes = b""
    why: str = ""


_T = TypeVar("_T")
Steps: TypeAlias = "Generator[Call | Fetch | Together, Any, _T]"
"""A lookup under way."""


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Lookups to carry out at the same time.  Answered by the list of their results, with the error
    (``BadWire``, ``Unreachable``) of one that failed in its place."""

    lookups: Sequence[Steps[Any]]


@dataclass(frozen=True, slots=True)
class Resolver:
    """Who answers for a name."""

    address: str
    of: str
    """The name it is set for: the one asked, or a parent."""
    extended: bool
    """Whether it speaks ENSIP-10; if not, it is the name's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a resolver said of one record."""

    data: bytes
    """The result as the contract encoded it; empty if it has no such record, or does not know the kind."""
    resolver: str
    gateways: tuple[str, ...] = ()
    """The hosts that were asked on the way, for the evidence."""


class NoResolver(Exception):
    """Nobody answers for the name: it is not there.  Says why."""


def find_resolver(name: str, registry: str) -> Steps[Resolver]:
    """The resolver of a normal name.  Raises ``NoResolver``."""
    labels = name.split(".")
    names = [".".join(labels[at:]) for at in range(len(labels))]
    for at in range(0, len(names), _ANCESTORS_AT_ONCE):
        some = names[at : at + _ANCESTORS_AT_ONCE]
        found = yield Together([_ask(Call(registry, _RESOLVER_OF + namehash(each))) for each in some])
        for current, reply in zip(some, _all(found), strict=True):
            if isinstance(reply, Reverted) or not reply.data:
                raise BadWire(f"there is no registry of ENS at {registry} on this chain")
            (address,) = decode(("address",), reply.data)
            if address == _NOBODY:
                continue
            query = encode(("bytes4",), (_RESOLVE,))
            says = yield Call(address, _SUPPORTS + query)
            extended = isinstance(says, Returned) and len(says.data) >= 32 and int.from_bytes(says.data[:32]) == 1
            if not extended and current != name:
                raise NoResolver(f"the resolver of {current!r} does not answer for names below it")
            return Resolver(address, current, extended)
    raise NoResolver("neither it nor a name above it has a resolver")


def ask_resolver(name: str, data: bytes, resolver: Resolver) -> Steps[Answer]:
    """One record of a normal name; ``data`` is the call that a resolver of its own would get."""
    gateways: list[str] = []
    if resolver.extended:
        wrapped = _RESOLVE + encode(("bytes", "bytes"), (dns_encoded(name), data))
        reply = yield from _through(Call(resolver.address, wrapped), gateways)
        if isinstance(reply, Returned) and reply.data:
            reply = Returned(decode(("bytes",), reply.data)[0])
    else:
        reply = yield from _through(Call(resolver.address, data), gateways)
    return Answer(reply.data if isinstance(reply, Returned) else b"", resolver.address, tuple(dict.fromkeys(gateways)))


def ask_universal(name: str, data: bytes, universal: str) -> Steps[Answer]:
    """The same by a universal resolver (ENSIP-23).  Raises ``NoResolver``."""
    gateways: list[str] = []
    wrapped = _RESOLVE + encode(("bytes", "bytes"), (dns_encoded(name), data))
    reply = yield from _through(Call(universal, wrapped), gateways)
    if isinstance(reply, Reverted):
        why = _NO_RESOLVER.get(reply.data[:4])
        if why is not None:
            raise NoResolver(why)
        return Answer(b"", universal, tuple(dict.fromkeys(gateways)))
    result, resolver = decode(("bytes", "address"), reply.data)
    return Answer(result, resolver, tuple(dict.fromkeys(gateways)))


def ask_universal_many(name: str, records: Sequence[bytes], universal: str) -> Steps[list[Answer | Unreachable]]:
    """Several records of one name in one call; in the place of one whose gateway failed, the error.  Raises
    ``NoResolver``."""
    answer = yield from ask_universal(name, _MULTICALL + encode((Array("bytes"),), (records,)), universal)
    if not answer.data:
        raise BadWire(f"the universal resolver {universal} does not take several questions at once")
    (results,) = decode((Array("bytes"),), answer.data)
    if len(results) != len(records):
        raise BadWire(f"the universal resolver {universal} gives {len(results)} answers to {len(records)} questions")
    found: list[Answer | Unreachable] = []
    for data in results:
        # A result is whole words; what is not is an error, mostly that of a resolver that has no such record.
        fault = _unreached(data, answer.resolver)
        found.append(fault or Answer(data if len(data) % 32 == 0 else b"", answer.resolver, answer.gateways))
    return found


def _ask(call: Call) -> Steps[Returned | Reverted]:
    reply: Returned | Reverted = yield call
    return reply


def _all(found: Iterable[Any]) -> list[Any]:
    """The results, or the first error among them."""
    for result in found:
        if isinstance(result, Exception):
            raise result
    return list(found)


def _through(call: Call, gateways: list[str]) -> Steps[Returned | Reverted]:
    """A call, by way of as many gateways as the contract sends us to (ERC-3668)."""
    for hop in range(MAX_HOPS + 1):
        reply: Returned | Reverted = yield call
        if isinstance(reply, Returned):
            return reply
        if reply.data[:4] != _OFFCHAIN:
            if (fault := _unreached(reply.data, call.to)) is not None:
                raise fault
            if hop and reply.data[:4] != _UNSUPPORTED:
                raise BadWire(f"{call.to} does not accept what {gateways[-1]} said: {_reason(reply.data)}")
            return reply
        sender, urls, data, callback, extra = decode(_OFFCHAIN_FIELDS, reply.data[4:])
        if hop == MAX_HOPS:
            break
        if sender != call.to.lower():
            raise BadWire(f"{call.to} sends us to a gateway in the name of another contract, {sender}")
        answer = yield from _gateways(sender, urls, data, gateways, _MAX_NESTED)
        call = Call(call.to, callback + encode(("bytes", "bytes"), (answer, extra)))
    raise BadWire(f"{call.to} sends us to more than {MAX_HOPS} gateways, one after another")


def _gateways(sender: str, urls: tuple[str, ...], data: bytes, seen: list[str], nested: int) -> Steps[bytes]:
    """What the first gateway that helps says.  4xx is an answer and ends it, anything else tries the next."""
    if _BATCH_URL in urls:
        return (yield from _batch(data, seen, nested))
    faults = []
    for url in urls[:_MAX_URLS]:
        host = _host(url)
        seen.append(host)
        fetched: Fetched = yield _request(url, sender, data)
        if 200 <= fetched.status < 300:
            try:
                return _read_gateway(fetched.body)
            except BadWire as fault:
                faults.append(f"{host}: {fault}")
                continue
        faults.append(f"{host}: {fetched.why or f'status {fetched.status}'}")
        if 400 <= fetched.status < 500:
            break
    raise Unreachable(f"no gateway of {sender} helps: {'; '.join(faults) or 'it names none'}")


def _batch(data: bytes, seen: list[str], nested: int) -> Steps[bytes]:
    """Several lookups asked of their own gateways at once, here and not by a service that would see all (ENSIP-21)."""
    if data[:4] != _BATCH or not nested:
        raise BadWire("a batch of gateways that is none" if nested else "batches of gateways within each other")
    (requests,) = decode(_BATCH_FIELDS, data[4:])
    if len(requests) > _MAX_BATCH:
        raise BadWire(f"a batch of {len(requests)} gateways")
    results = yield Together([_gateways(sender, urls, each, seen, nested - 1) for sender, urls, each in requests])
    failures = [isinstance(result, Exception) for result in results]
    responses = [
        _HTTP_ERROR + encode(("uint256", "string"), (502, str(result)[:200]))
        if isinstance(result, Exception)
        else result
        for result in results
    ]
    return encode((Array("bool"), Array("bytes")), (failures, responses))


def _request(url: str, sender: str, data: bytes) -> Fetch:
    hexed = "0x" + data.hex()
    if "{data}" in url:
        return Fetch(url.replace("{sender}", sender).replace("{data}", hexed))
    return Fetch(url.replace("{sender}", sender), json.dumps({"data": hexed, "sender": sender}).encode())


def _read_gateway(untrusted: bytes) -> bytes:
    """The ``data`` of a gateway's JSON."""
    try:
        if untrusted.count(b"[") + untrusted.count(b"{") > _MAX_BRACKETS:
            raise ValueError
        said = json.loads(untrusted)
        text = said["data"]
        if not text.startswith("0x"):
            raise ValueError
        return bytes.fromhex(text[2:])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadWire('no JSON of the form {"data": "0x..."}') from None


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "?")[:255]
    except ValueError:
        return "?"


def _unreached(error: bytes, whose: str) -> Unreachable | None:
    """The error that a contract raises for a gateway that failed, as ours."""
    if error[:4] != _HTTP_ERROR or len(error) % 32 != 4:
        return None
    try:
        status, said = decode(("uint256", "string"), error[4:])
    except BadWire:
        status, said = 0, ""
    return Unreachable(f"no gateway of {whose} helps: status {status}, {said[:200]!a}")


def _reason(data: bytes) -> str:
    """A contract's error, for people: ``Error(string)`` says it, of others the selector is all there is."""
    if data[:4] == bytes.fromhex("08c379a0"):
        try:
            return repr(decode(("string",), data[4:])[0][:200])
        except BadWire:
            pass
    return f"error 0x{data[:4].hex()}" if data else "no reason given"

"""Ethereum nodes, several at once: the one place that knows web3.

web3 blocks and is heavy (a second and 40 MB), so it is imported when the first chain name is asked for, and lives
in worker threads behind deadlines.  Only its transport is used: a call's revert is data to us, and its own CCIP client
must never run (``ccipgate.py`` tells why).  What a node sends is bounded, whatever it sends.

A ``View`` is the chain as one lookup sees it: one block, and the nodes that have it.  A node that contradicts the
others or is slow loses its voice for the rest of the lookup, and its name goes into the answer.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import trio

from cyfs_ns import names
from cyfs_ns.ens.lookup import Call, Returned, Reverted
from cyfs_ns.ens.quorum import Agreed, Endpoint, Fault, TooFew, common_block, judge, level, voice
from cyfs_ns.errors import BadWire, ConfigFault, Unreachable
from cyfs_ns.trust.level import Trust

_READ = 65536
_PORTS = {"http": 80, "https": 443}
_THREADS = 4
"""Requests to one node at the same time."""
_OK_TO_SHOW = 120
_SHORT = {
    "ConnectTimeout": "no answer",
    "ReadTimeout": "no answer",
    "ConnectionError": "no connection",
    "SSLError": "its certificate is not accepted",
    "HTTPError": "not a reply of an Ethereum node",
    "JSONDecodeError": "not JSON",
}
_REVERTED = (3, -32015)
_FAILED = ("revert", "invalidopcode", "invalidfeopcode", "outofgas", "stackunderflow", "invalidjump", "badinstruction")
"""How nodes say, blanks apart, that a contract failed; those of ENS's first years do for what they do not know."""
_IMPORTING = threading.Lock()
"""web3's modules import each other in circles, which several threads at once would run into."""

_Header: TypeAlias = tuple[str, int]
"""A block's hash and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """Which nodes, and how patient."""

    endpoints: tuple[str, ...]
    """JSON-RPC URLs; https, or http to this machine for a level above plain."""
    chain: int = 1
    quorum: int = 0
    """How many nodes must agree; 0: more than half of them."""
    timeout: float = 5.0
    """Seconds for one request."""
    grace: float = 0.4
    """Seconds that the others are waited for once enough agree."""
    most_age: float = 3600.0
    """Seconds that the newest block may be old."""
    most_bytes: int = 4 << 20
    """Of one reply."""
    tls_ca: str = ""
    """A file of certificates to trust instead of the system's."""
    keep: float = 6.0
    """Seconds for which one block serves further lookups."""

    @property
    def needed(self) -> int:
        return self.quorum or len(self.endpoints) // 2 + 1


class Node:
    """One node.  Its requests run in threads; whoever waits for one may give up at any time."""

    def __init__(self, url: str, config: ChainConfig) -> None:
        try:
            parts = urlsplit(url)
            host, port = names.host(parts.hostname or ""), parts.port
        except (ValueError, BadWire):
            raise ConfigFault(f"not the URL of an Ethereum node: {url[:80]!r}") from None
        if parts.scheme not in ("http", "https"):
            raise ConfigFault(f"the URL of an Ethereum node begins with https:// or http://: {url[:80]!r}")
        local = host == "::1" or host == "localhost" or (names.is_ip(host) and host.startswith("127."))
        # The path of such a URL is often a secret.
        shown = f"{host}:{port}" if port and port != _PORTS[parts.scheme] else host
        self.endpoint = Endpoint(shown, parts.scheme == "https" or local)
        self.host, self.voice = host, voice(host)
        self.chain: int | None = None
        self._url, self._config = url, config
        self._threads = trio.CapacityLimiter(_THREADS)
        self._provider: Any = None

    async def request(self, method: str, params: list[Any]) -> Any:
        """The ``result`` of one JSON-RPC request, or the ``Reverted`` call.  Raises ``Unreachable``."""
        with trio.move_on_after(self._config.timeout):
            return await trio.to_thread.run_sync(
                self._request, method, params, abandon_on_cancel=True, limiter=self._threads
            )
        raise Unreachable(f"no answer in {self._config.timeout:g} s", "connect_timeout")

    def _request(self, method: str, params: list[Any]) -> Any:
        if self._provider is None:
            self.voice = _resolved_voice(self.host)
            with _IMPORTING:
                self._provider = self._provider or _provider(self._url, self._config)
        try:
            reply = self._provider.make_request(method, params)
        except Unreachable:
            raise
        except OSError as fault:  # those of requests are among them
            raise Unreachable(_short(fault)) from None
        except Exception as fault:  # what web3 raises for a reply that is no JSON is its own affair
            raise Unreachable(f"not a reply of an Ethereum node: {_short(fault)}") from None
        if not isinstance(reply, dict):
            raise Unreachable("not a reply of an Ethereum node")
        if (error := reply.get("error")) is not None:
            return _reverted(error)
        if "result" not in reply:
            raise Unreachable("a reply without a result")
        return reply["result"]


class Chain:
    """All nodes that are set, and the block they were last found to share."""

    def __init__(self, config: ChainConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self._clock = clock
        nodes = [Node(url, config) for url in config.endpoints]
        if not nodes:
            raise ConfigFault("Ethereum nodes are needed")
        voices = Counter(node.voice for node in nodes)
        if twice := next((node for node in nodes if voices[node.voice] > 1), None):
            others = " and ".join(node.endpoint.name for node in nodes if node.voice == twice.voice)
            raise ConfigFault(
                f"Ethereum nodes {others} are one host: one that counts twice is no quorum; name one of them"
            )
        self._nodes = {node.endpoint: node for node in nodes}
        if config.needed > len(self._nodes):
            raise ConfigFault(f"{config.needed} of {len(self._nodes)} Ethereum nodes can never agree")
        self._pinning = trio.Lock()
        self._last: tuple[float, _Pinned] | None = None

    async def view(self) -> View:
        """The chain now, at one block that enough nodes have and agree on.  Raises ``Unreachable``."""
        async with self._pinning:
            now = self._clock()
            if self._last is None or not 0 <= now - self._last[0] < self.config.keep:
                self._last = (now, await self._pin(now))
            pinned = self._last[1]
        nodes = {end: self._nodes[end] for end in pinned.nodes}
        return View(self.config, pinned.block, pinned.hash, nodes, pinned.nodes, dict(pinned.faults))

    async def _pin(self, now: float) -> _Pinned:
        faults: dict[str, str] = {}
        heads = await _everybody(self._nodes, self._head, self.config, lambda said: len(said) >= self.config.needed)
        known = {}
        for end, head in heads.items():
            if isinstance(head, Fault):
                faults[end.name] = head.why
            else:
                known[end] = head
        first: dict[str, Endpoint] = {}
        for end in list(known):
            other = first.setdefault(self._nodes[end].voice, end)
            if other is not end:
                faults[end.name] = f"is this machine, as {other.name} is"
                del known[end]
        if len(known) < self.config.needed:
            told = tuple(f"{name}: {why}" for name, why in faults.items())
            raise Unreachable(TooFew(told, self.config.needed).why)
        block, behind = common_block(known)
        faults |= {end.name: f"is at block {known[end]}, far behind the others" for end in behind}
        nodes = {end: self._nodes[end] for end in known if end not in behind}

        async def header(node: Node) -> _Header:
            return _read_header(await node.request("eth_getBlockByNumber", [hex(block), False]))

        verdict = await _agree(nodes, header, self.config, faults, "has another block of that number: another fork")
        block_hash, when = verdict.value
        age = now - when
        if age > self.config.most_age:
            raise Unreachable(f"block {block} is {age:.0f} s old: the Ethereum nodes have stopped following the chain")
        return _Pinned(block, block_hash, verdict.backers, faults)

    async def _head(self, node: Node) -> int:
        faults: list[Unreachable | BadWire] = []

        async def learn_chain() -> None:
            try:
                node.chain = _read_number(await node.request("eth_chainId", []))
            except (Unreachable, BadWire) as fault:
                faults.append(fault)

        async with trio.open_nursery() as nursery:
            if node.chain is None:
                nursery.start_soon(learn_chain)
            try:
                head = _read_number(await node.request("eth_blockNumber", []))
            except (Unreachable, BadWire) as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
        if node.chain != self.config.chain:
            raise Unreachable(f"is of chain {node.chain}, not {self.config.chain}")
        return head


@dataclass(frozen=True, slots=True)
class _Pinned:
    block: int
    hash: str
    nodes: tuple[Endpoint, ...]
    faults: dict[str, str]


@dataclass(slots=True)
class View:
    """The chain at one block, for one lookup."""

    config: ChainConfig
    block: int
    hash: str
    nodes: dict[Endpoint, Node]
    """Those that are still asked."""
    backers: tuple[Endpoint, ...]
    """Who stands behind all that was learnt so far."""
    faults: dict[str, str]
    """By node, why its voice did not count."""

    @property
    def trust(self) -> Trust:
        return level(self.backers, len(self.config.endpoints))

    async def call(self, call: Call) -> Returned | Reverted:
        """What the contract says, by enough nodes.  Raises ``Unreachable`` (too few) or ``BadWire`` (contradiction)."""
        params = [{"to": call.to, "data": "0x" + call.data.hex()}, hex(self.block)]

        async def ask(node: Node) -> Returned | Reverted:
            result = await node.request("eth_call", params)
            return result if isinstance(result, Reverted) else Returned(_read_bytes(result))

        verdict = await _agree(self.nodes, ask, self.config, self.faults, "says otherwise, and is outvoted")
        self.backers = tuple(end for end in self.backers if end in verdict.backers)
        value: Returned | Reverted = verdict.value
        return value


async def _agree(
    nodes: dict[Endpoint, Node],
    ask: Callable[[Node], Any],
    config: ChainConfig,
    faults: dict[str, str],
    dissent: str,
) -> Agreed[Any]:
    """What enough nodes say; who does not say it is taken out of ``nodes`` and told in ``faults``."""

    def enough(said: dict[Endpoint, Any]) -> bool:
        return isinstance(judge(said, config.needed), Agreed)

    said = await _everybody(nodes, ask, config, enough)
    verdict = judge(said, config.needed)
    for end, answer in said.items():
        if isinstance(answer, Fault):
            faults[end.name] = answer.why
            nodes.pop(end, None)
    if isinstance(verdict, TooFew):
        told = tuple(f"{name}: {why}" for name, why in faults.items())
        raise Unreachable(TooFew(told, config.needed).why)
    if not isinstance(verdict, Agreed):
        raise BadWire(verdict.why)
    for end in verdict.dissenters:
        faults[end.name] = dissent
        nodes.pop(end, None)
    return verdict


async def _everybody(
    nodes: dict[Endpoint, Node],
    ask: Callable[[Node], Any],
    config: ChainConfig,
    enough: Callable[[dict[Endpoint, Any]], bool],
) -> dict[Endpoint, Any]:
    """What each node says, or its ``Fault``.  Once what was said is enough, the others have little time left."""
    said: dict[Endpoint, Any] = {}
    asked = list(nodes.items())  # a lookup beside this one may take some out

    async def one(end: Endpoint, node: Node) -> None:
        try:
            said[end] = await ask(node)
        except (Unreachable, BadWire) as fault:
            said[end] = Fault(str(fault))
        answered = {end: answer for end, answer in said.items() if not isinstance(answer, Fault)}
        if len(answered) >= config.needed and enough(answered):
            scope.deadline = min(scope.deadline, trio.current_time() + config.grace)

    with trio.move_on_after(2 * config.timeout) as scope:
        async with trio.open_nursery() as nursery:
            for end, node in asked:
                nursery.start_soon(one, end, node)
    return {end: said.get(end, Fault("is slower than the others")) for end, _ in asked}


def _resolved_voice(host: str) -> str:
    """:func:`voice`, once the system has said whether a name is only another one of this machine."""
    if names.is_ip(host):
        return voice(host)
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return voice(host)  # who asks there hears of it
    loopback = all(address == "::1" or address.startswith("127.") for address in found)
    return voice("localhost") if found and loopback else voice(host)


def _provider(url: str, config: ChainConfig) -> Any:
    """web3's HTTP provider, on a session that reads so much and no more, goes nowhere else, and takes no proxy from the
    environment."""
    limit = sys.getrecursionlimit()
    try:
        import requests
        from requests.adapters import HTTPAdapter
        from web3 import HTTPProvider
    finally:
        # One of its parts raises this a hundredfold for the whole process.  Then a few thousand brackets in anybody's
        # JSON end in a broken stack instead of an error.
        sys.setrecursionlimit(limit)

    class Bounded(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
            response = super().send(request, **{**options, "stream": True})
            body, deadline = bytearray(), time.monotonic() + config.timeout
            while piece := response.raw.read1(_READ, decode_content=False):
                body += piece
                if len(body) > config.most_bytes:
                    response.close()
                    raise Unreachable(f"a reply of more than {config.most_bytes} bytes")
                if time.monotonic() > deadline:
                    response.close()
                    raise Unreachable("a reply that does not end")
            if response.is_redirect:
                raise Unreachable("it redirects elsewhere")
            response._content, response._content_consumed = bytes(body), True
            return response

    paths = ssl.get_default_verify_paths()  # the system's; requests would take a list of its own
    session = requests.Session()
    session.trust_env = False
    for scheme in ("https://", "http://"):
        session.mount(scheme, Bounded(pool_maxsize=_THREADS))
    return HTTPProvider(
        url,
        session=session,
        request_kwargs={
            "timeout": config.timeout,
            "verify": config.tls_ca or paths.cafile or paths.capath or True,
            # Packed, a small reply could become a huge one.
            "headers": {
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": "cyfs-gateway",
            },
        },
        exception_retry_configuration=None,
    )


def _reverted(error: Any) -> Reverted:
    """The contract's own failure in a JSON-RPC error.  Raises ``Unreachable`` for an error that is the node's.

    Nodes write it in several ways: code 3 with the data, -32015 with ``Reverted 0x...``, -32000 and words.
    """
    if not isinstance(error, dict):
        raise Unreachable(f"it says {str(error)[:_OK_TO_SHOW]!a}")
    message, data = str(error.get("message", "")), error.get("data")
    words = f"{message} {data if isinstance(data, str) else ''}".lower().replace(" ", "")
    if error.get("code") not in _REVERTED and not any(word in words for word in _FAILED):
        raise Unreachable(f"it says {message[:_OK_TO_SHOW]!a}")
    try:
        return Reverted(bytes.fromhex(data.rpartition("0x")[2]) if isinstance(data, str) and "0x" in data else b"")
    except ValueError:
        raise Unreachable("a revert that is no hexadecimal") from None


def _read_bytes(result: Any) -> bytes:
    try:
        if result[:2] == "0x":
            return bytes.fromhex(result[2:])
    except (TypeError, ValueError):
        pass
    raise BadWire("a result that is no hexadecimal")


def _read_number(result: Any) -> int:
    try:
        if result[:2] == "0x" and len(result) <= 18:
            return int(result, 16)
    except (TypeError, ValueError):
        pass
    raise BadWire("a result that is no number")


def _read_header(result: Any) -> _Header:
    if not isinstance(result, dict) or not isinstance(result.get("hash"), str):
        raise BadWire("it does not have the block")
    return result["hash"].lower()[:66], _read_number(result.get("timestamp"))


def _short(fault: BaseException) -> str:
    """An error without the URL in it, which may hold a secret."""
    return _SHORT.get(type(fault).__name__, type(fault).__name__)

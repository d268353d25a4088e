"""A gateway of paper behind the real control server, and the two clients that look at it: curl, and a WebSocket."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
import wsproto
from wsproto.events import CloseConnection, Event, Message, RejectConnection, Request

from cyfs_gateway.config.model import Config, ControlConfig
from cyfs_gateway.facade import (
    Arrival,
    ConnectionView,
    Explanation,
    PeerView,
    ProviderView,
    ProxyView,
    TunnelView,
    WayView,
)
from cyfs_gateway.flow import Flow, Identity
from cyfs_gateway.rules.table import RuleView
from cyfs_ns.config.written import Fault
from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.errors import BadWire, ConfigFault, Misuse, Refused, Unreachable
from cyfs_ns.logline import LogLine
from cyfs_ns.message import Answer, Question, Record
from cyfs_ns.metrics import Metric, single
from cyfs_ns.trust.level import Trust
from tunnels.endpoint import Endpoint
from tunnels.io.stream import EndpointStream

SECRET = "correct horse battery staple"
FAR: dict[str, Any] = {
    "way": "SN sn.example",
    "why": "relayed because the far NAT is random-symmetric",
    "ways": (
        WayView(name="SN sn.example", kind="relay", state="in use", rtt=21.5, loss=0.0, heard=0.5),
        WayView(name="udp 192.0.2.7:4", kind="host", state="never answered", rtt=None, loss=0.1, heard=None),
    ),
}
"""Of a peer with a choice of ways."""


async def greet_and_echo(endpoint: Endpoint) -> None:
    """Speak first, then say again what was said."""
    async with EndpointStream(endpoint) as stream:
        try:
            await stream.send_all(b"220 welcome\n")
            while data := await stream.receive_some():
                await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            return


class PaperRules:
    def __init__(self) -> None:
        self.rules = [
            RuleView(0, "DomainSuffix", "example.com", "auto", -1, False, 3, 1_700_000_000.5, 1, 1_700_000_001.0),
            RuleView(1, "GeoIP", "CN", "DIRECT", 8000, False, 0, 0.0, 0, 0.0),
            RuleView(2, "Match", "", "pick", -1, False, 0, 0.0, 0, 0.0),
        ]
        self.changes: list[Mapping[int, bool]] = []

    def view(self) -> list[RuleView]:
        return self.rules

    def disable(self, changes: Mapping[int, bool]) -> None:
        self.changes.append(changes)


def leaf(name: str, kind: str = "Socks5") -> ProxyView:
    history = ({"time": "2023-11-14T22:13:20.000Z", "delay": 12},)
    return ProxyView(name=name, kind=kind, udp=True, alive=True, history=history, up=10, down=20)


def group(name: str, kind: str, members: Sequence[str]) -> ProxyView:
    extra = {
        "now": members[0],
        "all": list(members),
        "testUrl": "https://probe.example/204",
        "hidden": False,
        "icon": "",
    }
    return ProxyView(name=name, kind=kind, udp=True, alive=True, history=(), up=0, down=0, extra=extra)


def flow(**changed: Any) -> Flow:
    known: dict[str, Any] = {
        "network": "tcp",
        "kind": "Socks5",
        "src_ip": "192.0.2.7",
        "src_port": 50000,
        "host": "www.example.com",
        "dst_ip": "203.0.113.5",
        "dst_port": 443,
        "in_name": "DEFAULT-MIXED",
        "in_ip": "127.0.0.1",
        "in_port": 7890,
    }
    return Flow(**{**known, **changed})


def connection(number: int) -> ConnectionView:
    return ConnectionView(
        id=f"00000000-0000-4000-8000-{number:012d}",
        flow=flow(src_port=50000 + number % 1000),
        up=100,
        down=2000,
        start=1_700_000_000.25,
        chains=("a", "auto"),
        provider_chains=("", ""),
        rule="DomainSuffix",
        rule_payload="example.com",
        remote="203.0.113.5",
    )


class PaperGateway:
    """Answers from fixed values and remembers what it was told to do."""

    def __init__(self, home: Path, control: ControlConfig) -> None:
        self.config = Config(home=str(home), control=control)
        self.config_path = str(home / "config.yaml")
        self.rules = PaperRules()
        self.started = time.time() - 5
        self.told: list[Any] = []
        self.nursery: trio.Nursery
        self.live = [connection(1), connection(2)]
        self.bytes = (7, 9)
        self.loglines = [LogLine(1_700_000_000.0, "warning", "one\r\ntwo \x1b[31m", {"host": "h"})]
        self.ways = {
            v.name: v
            for v in (
                leaf("DIRECT", "Direct"),
                leaf("a"),
                leaf("b/ü 🚀"),
                group("pick", "Selector", ["a", "DIRECT"]),
                group("auto", "URLTest", ["a", "b/ü 🚀"]),
            )
        }

    def connections(self) -> Sequence[ConnectionView]:
        return self.live

    def totals(self) -> tuple[int, int]:
        return self.bytes

    def memory(self) -> int:
        return 50_000_000

    def close_connection(self, id: str) -> bool:
        self.told.append(("close", id))
        return True

    def close_connections(self) -> int:
        self.told.append("close all")
        return 2

    def proxies(self) -> Mapping[str, ProxyView]:
        return self.ways

    def select(self, group: str, member: str) -> None:
        view = self.ways[group]
        if view.kind != "Selector":
            raise Refused("it chooses by itself")
        if member not in view.extra["all"]:
            raise KeyError(member)
        self.told.append(("select", group, member))

    def unfix(self, group: str) -> None:
        if self.ways[group].kind != "URLTest":
            raise Refused("nothing is fixed")
        self.told.append(("unfix", group))

    async def delay(self, name: str, url: str, timeout: float, expected: str) -> int:
        self.told.append(("delay", name, url, timeout, expected))
        if "slow" in url:
            raise TimeoutError
        if "down" in url:
            raise Unreachable("refused", "connect_refused")
        return 42

    async def group_delay(self, name: str, url: str, timeout: float, expected: str) -> Mapping[str, int]:
        if "slow" in url:
            raise TimeoutError
        return {"a": 10, "b/ü 🚀": 20}

    def proxy_providers(self) -> Mapping[str, ProviderView]:
        body = {"name": "sub", "type": "Proxy", "vehicleType": "HTTP", "proxies": [], "testUrl": "", "updatedAt": "x"}
        return {"sub": ProviderView(name="sub", body=body)}

    def rule_providers(self) -> Mapping[str, ProviderView]:
        body = {"name": "ads", "type": "Rule", "behavior": "Domain", "format": "MrsRule", "ruleCount": 3}
        return {"ads": ProviderView(name="ads", body={**body, "vehicleType": "HTTP", "updatedAt": "x"})}

    def provider_proxy(self, provider: str, name: str) -> ProxyView:
        return {("sub", "a"): leaf("a")}[provider, name]

    async def update_proxy_provider(self, name: str) -> None:
        self.told.append(("update", self.proxy_providers()[name].name))

    async def update_rule_provider(self, name: str) -> None:
        self.rule_providers()[name]
        raise Unreachable("the server is away")

    async def check_provider(self, name: str) -> None:
        self.told.append(("check", self.proxy_providers()[name].name))

    async def reload(self, *, path: str = "", payload: str = "") -> Sequence[Fault]:
        if "broken" in payload:
            raise ConfigFault("config.yaml:1:1: broken")
        if "puzzling" in payload:
            raise Misuse("internal error: nobody thought of that")
        self.told.append(("reload", path, payload))
        return [Fault("/colour", 2, 1, "unknown key", "warning")]

    async def patch(self, changes: Mapping[str, Any]) -> Sequence[Fault]:
        if changes.get("mode") == "wrong":
            raise ConfigFault("mode: rule, global or direct")
        self.told.append(("patch", dict(changes)))
        return []

    async def probe(self, url: str) -> TunnelView:
        if "://" not in url:
            raise ConfigFault("not a tunnel URL")
        return replace(self.tunnel_statuses()[0], url=url)

    def tunnel_statuses(self) -> Sequence[TunnelView]:
        return [
            TunnelView(
                url="socks://***@p.example/t:1",
                state="reachable",
                source="fresh_probe",
                reason="",
                rtt=1.5,
                learnt_at=1.0,
            )
        ]

    def peers(self) -> Sequence[PeerView]:
        return [
            PeerView(
                peer="did:web:photos.home.example",
                device="did:dev:x",
                owner="did:dev:y",
                zone="did:web:home.example",
                trust="owner-signed",
                version=5,
                dialled=False,
                way="192.0.2.7",
                silent=1.5,
            )
        ]

    async def ping(self, peer: str) -> PeerView:
        faults = {"nobody": BadWire("nobody"), "stranger": Refused("a stranger"), "away": Unreachable("away")}
        if peer in faults:
            raise faults[peer]
        seen = replace(self.peers()[0], peer=peer, rtt=2.5)
        return replace(seen, **FAR) if peer == "far.example" else seen

    async def call_peer(
        self, peer: str, host: str, port: int, near: Callable[[], Awaitable[Endpoint]], *, network: str = "tcp"
    ) -> None:
        await self.ping(peer)
        self.told.append(("call", peer, host, port, network))
        self.nursery.start_soon(greet_and_echo, await near())

    @asynccontextmanager
    async def receive_from_peers(self, allow: Sequence[str]) -> AsyncIterator[AsyncIterator[Arrival]]:
        if "nonsense" in allow:
            raise ConfigFault("no condition")

        async def arrivals() -> AsyncIterator[Arrival]:
            owner = self.peers()[0].owner
            did, host, zone = "did:web:laptop.home.example", "laptop.home.example", "did:web:home.example"
            yield Arrival(
                id="arrival", peer=Identity(did=did, host=host, owner=owner, zone=zone, trust=Trust.OWNER_SIGNED)
            )
            await trio.sleep_forever()

        try:
            yield arrivals()
        finally:
            self.told.append(("received", list(allow)))

    def awaits(self, id: str) -> bool:
        return id == "arrival"

    def claim(self, id: str, near: Endpoint) -> None:
        self.nursery.start_soon(greet_and_echo, near)

    async def forget_peer(self, peer: str) -> int:
        await self.ping(peer)
        self.told.append(("forget", peer))
        return 1

    async def explain(
        self, host: str, port: int, *, network: str = "tcp", source: str = "127.0.0.1", process: str = ""
    ) -> Explanation:
        return Explanation(
            flow=flow(host=host, dst_port=port, network=network, src_ip=source, process=process),
            rule="DOMAIN-SUFFIX,example.com,auto",
            index=0,
            why="host is example.com or below it",
            resolution="not needed",
            addresses=(),
            chain=("auto", "a"),
            way="socks5 proxy 10.0.0.1:1080",
        )

    name_server = None

    async def show_identity(self, wanted: PageWanted) -> Page | None:
        return Page(200, "application/did+ld+json", wanted.target.encode(), 60)

    async def dns_query(self, name: str, rtype: str) -> Answer:
        if rtype == "NONSENSE":
            raise ValueError("unknown type")
        if name == "away.example":
            raise Unreachable("no server answered")
        record = Record(name, 1, 60, "192.0.2.1")
        return Answer(question=Question(name, 1), rcode=0, flags=0x8180, answer=(record,))

    def flush_dns(self) -> None:
        self.told.append("flush dns")

    def flush_fake_ip(self) -> None:
        self.told.append("flush fake-ip")

    async def logs(self, level: str) -> AsyncIterator[LogLine]:
        for line in self.loglines:
            yield line
        await trio.sleep_forever()

    def stop(self) -> None:
        self.told.append("stop")

    def status(self) -> Mapping[str, Any]:
        return {"listeners": [{"name": "DEFAULT-MIXED", "kind": "mixed", "address": "127.0.0.1:7890"}], "modules": {}}

    def look_at_sns(self) -> None:
        """There are none."""

    def module_metrics(self) -> tuple[Metric, ...]:
        return (single("cyfs_health_pings_total", "counter", "Pings.", 3),)

    async def control(self, module: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if method == "forbidden":
            raise Refused("not for you")
        return {("health", "ping"): {"pong": dict(body)}}[module, method]


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class House:
    """A served gateway."""

    gateway: PaperGateway
    home: Path
    socket: str
    port: int
    tls_port: int = 0
    ca: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def unix(self, path: str, *options: str) -> Answered:
        return await curl("--unix-socket", self.socket, f"http://localhost{path}", *options)

    async def tcp(self, path: str, *options: str, secret: str = SECRET) -> Answered:
        key = ("-H", f"Authorization: Bearer {secret}") if secret else ()
        return await curl(f"http://127.0.0.1:{self.port}{path}", *key, *options)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def raw(self, request: bytes) -> bytes:
        """Everything the server says to ``request`` until it closes."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            heard = b""
            try:
                while data := await stream.receive_some(65536):
                    heard += data
            except trio.BrokenResourceError:
                pass
            return heard


async def curl(*options: str) -> Answered:
    command = ["curl", "-sS", "-i", "--globoff", "--path-as-is", "--max-time", "20", *options]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    head, body = done.stdout, b""
    while True:
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        if status != 100:
            break
        head = body
    pairs = (line.partition(":") for line in lines[1:])
    return Answered(status, {name.lower(): value.strip() for name, _, value in pairs}, body)


class WebSocket:
    """A client of its own making, so that headers can be wrong on purpose."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._machine = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._events: list[Event] = []

    @classmethod
    async def open(
        cls, stream: trio.abc.Stream, target: str, *, host: str, headers: Mapping[str, str] | None = None
    ) -> WebSocket | int:
        """A WebSocket, or the status of the refusal."""
        self = cls(stream)
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await stream.send_all(self._machine.send(Request(host=host, target=target, extra_headers=extra)))
        first = await self._next()
        return first.status_code if isinstance(first, RejectConnection) else self

    async def message(self) -> Any:
        """The next message's JSON, or ``None`` when the server closes."""
        text = ""
        while True:
            event = await self._next()
            if isinstance(event, CloseConnection):
                return None
            assert isinstance(event, Message)
            text += str(event.data)
            if event.message_finished:
                return json.loads(text)

    async def send(self, event: Event) -> None:
        await self._stream.send_all(self._machine.send(event))

    async def next_event(self) -> Event:
        return await self._next()

    async def has_left(self) -> bool:
        """Whether the server lets go without a word more than it has under way."""
        try:
            while await self._stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        return True

    async def _next(self) -> Event:
        while not self._events:
            self._machine.receive_data(await self._stream.receive_some(65536) or None)
            self._events = list(self._machine.events())
        return self._events.pop(0)

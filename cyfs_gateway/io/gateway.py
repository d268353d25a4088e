"""The running gateway: starts everything, stops everything, and changes configurations as a transaction.

A change is prepared completely before anything is given up: the new world is built, new listeners are bound, new
control addresses are served, the kernel's rules are exchanged (atomically, by nftables itself).  Each step can still be
taken back; after the last one the swap itself cannot fail.  So either all of the new configuration runs or all of the
old, and connections never notice either way.
"""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cyfs_gateway.config.load import load, patched
from cyfs_gateway.config.model import Config, ControlConfig, ListenerConfig, Loaded
from cyfs_gateway.facade import Arrival, ConnectionView, Explanation, PeerView, ProviderView, ProxyView, TunnelView
from cyfs_gateway.flow import Flow
from cyfs_gateway.host import Changed
from cyfs_gateway.io.configfile import read_config
from cyfs_gateway.io.control.server import serve_control
from cyfs_gateway.io.engine import Engine
from cyfs_gateway.io.errands import Errands
from cyfs_gateway.io.explain import explain
from cyfs_gateway.io.inbound import Inbound
from cyfs_gateway.io.listeners import Listeners, Staged
from cyfs_gateway.io.modules import Modules
from cyfs_gateway.io.names import Desk
from cyfs_gateway.io.netfilter import Netfilter, run_command
from cyfs_gateway.io.offers import Offers
from cyfs_gateway.io.rtcp import PeerDesk
from cyfs_gateway.io.state import Home
from cyfs_gateway.io.views import ProxyViews
from cyfs_gateway.io.world import Around, World, build_world, instance_of
from cyfs_gateway.netfilter import NetfilterPlan, interception, plan
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.config.written import Fault
from cyfs_ns.conversation import Page, PageWanted
from cyfs_ns.errors import ConfigFault, CyfsError, Misuse, Refused, Unreachable
from cyfs_ns.io import logs
from cyfs_ns.io.process import Begun, resident_bytes
from cyfs_ns.logline import LogLine
from cyfs_ns.message import Answer
from cyfs_ns.metrics import Metric
from tunnels.endpoint import Endpoint
from tunnels.group import Health, StatusRanges
from tunnels.io.reactor import Reactor
from tunnels.io.registry import Tunnels
from tunnels.io.statusfile import keep_saved, load_status
from tunnels.outbound import Outbound
from tunnels.status import UrlStatus
from tunnels.url import parse as parse_url

if TYPE_CHECKING:
    from cyfs_gateway.io.myself import Myself
    from cyfs_ns.authority import Authority
    from cyfs_ns.io.serving import Serving, StagedHouse
    from cyfs_ns.io.trusted.resolver import TrustedNames

_DRAIN_SECONDS: Final = 0.2
_CHANGE_SECONDS: Final = 5.0
_FENCED_MOST: Final = 512
"""Connections of one program behind the fence."""
_STATUS_FILE: Final = "tunnels.json"

_log = logging.getLogger("cyfs.gateway")


@dataclass(slots=True)
class _Served:
    """One address of the control API that is being served."""

    scope: trio.CancelScope
    done: trio.Event
    urls: tuple[str, ...] = ()


class RunningGateway:
    """Implements ``cyfs_gateway.facade.Gateway``."""

    def __init__(self, home: Home, nursery: trio.Nursery, reactor: Reactor) -> None:
        self._begun = Begun()
        self.config_path = ""
        self._home = home
        self._nursery = nursery
        self._engine = Engine(reactor, nursery)
        self._listeners = Listeners(self._engine)
        self._reactor = reactor
        self._netfilter = Netfilter(instance_of(home.path), self._run_program)
        self._intercepted: NetfilterPlan | None = None
        self._health = Health()
        self._desk = Desk(home.path / "dns", nursery)
        self._peers = PeerDesk(self._engine, nursery, lambda: self.trusted, self._listeners.peer_ports)
        self._errands = Errands(self._engine, self._peers, lambda: self._world)
        self._around = Around(
            house=self._desk.addresses,
            name_sets_changed=self._desk.judge_anew,
            questions=self._desk,
            peers=self._peers,
            guard=self._engine.refuse_dial,
            witness=self._engine.remember_dial,
        )
        self._modules = Modules(self, nursery, self._around)
        self._engine.call_by_name = self._desk.call_by_name
        self._engine.is_fake = self._desk.is_fake
        self._controls: dict[tuple[Any, ...], _Served] = {}
        self._changing = trio.Lock()
        self._saving = trio.Lock()
        self._ending = False
        self._adopted: World | None = None
        self._loaded: Loaded
        self._views: ProxyViews
        self._world_scope = trio.CancelScope()
        self._stopping = trio.Event()
        self._courtesy = trio.CancelScope()
        """Around what the end waits for on behalf of others."""
        self._building = trio.CancelScope()
        """Around what may wait for servers before a change begins."""
        self._choices = home.choices()
        load_status(home.path / _STATUS_FILE, self._around.status)

    # Changing configurations

    async def begin(self, loaded: Loaded, path: str) -> None:
        """Start by this configuration.  Raises ``ConfigFault``."""

        async def find() -> Loaded:
            return loaded

        await self._switch(find, path)

    async def reload(self, *, path: str = "", payload: str = "") -> Sequence[Fault]:
        """Read and adopt a configuration: ``payload``, else the file ``path``, else the file in force."""
        path = self.config_path if payload else path or self.config_path

        async def find() -> Loaded:
            if not payload:
                return await self.read(path or None)
            home, sections = str(self._home.path), self._modules.sections
            return await trio.to_thread.run_sync(lambda: load(payload.encode(), home=home, module_sections=sections))

        return await self._adopt(find, path)

    async def read(self, path: str | None) -> Loaded:
        """Load a file without adopting it."""
        return await trio.to_thread.run_sync(read_config, path, self._home.path, self._modules.sections)

    async def patch(self, changes: Mapping[str, Any]) -> Sequence[Fault]:
        async def find() -> Loaded:
            return await trio.to_thread.run_sync(patched, self._loaded, changes)

        return await self._adopt(find, self.config_path, lightly=True)

    async def _adopt(
        self, find: Callable[[], Awaitable[Loaded]], path: str, *, lightly: bool = False
    ) -> Sequence[Fault]:
        """Switch in a task of the gateway's own: whoever asked may lose its connection by it, the change must not."""
        outcome: list[ConfigFault | Misuse | Loaded] = []
        done = trio.Event()

        async def work() -> None:
            try:
                outcome.append(await self._switch(find, path, lightly=lightly))
            except ConfigFault as fault:
                outcome.append(fault)
            except Exception as fault:
                _log.exception("the change failed in a way nobody foresaw")
                outcome.append(Misuse(f"internal error: {str(fault) or type(fault).__name__}; see the log"))
            finally:
                done.set()

        self._nursery.start_soon(work)
        await done.wait()
        if not outcome:
            raise ConfigFault("the gateway is stopping")
        if isinstance(outcome[0], ConfigFault | Misuse):
            _log.warning("the configuration was not changed: %s", outcome[0])
            raise outcome[0]
        _log.info("the new configuration runs")
        return outcome[0].faults

    async def _switch(self, find: Callable[[], Awaitable[Loaded]], path: str, *, lightly: bool = False) -> Loaded:
        """Run what ``find`` finds; it is asked when all earlier changes are done, so that it may build on them.

        ``lightly``: where only the mode changes nothing else is touched.  A reload has files to read again and does
        not want that.
        """
        async with self._changing:
            loaded = await find()
            config = loaded.config
            if config is None:
                raise ConfigFault("\n".join(str(fault) for fault in loaded.errors))
            if self._ending or self._stopping.is_set():
                raise ConfigFault("the gateway is stopping")
            if lightly and self._adopted is not None and _same_but_for_mode(config, self._adopted.config):
                self._adopted.change_mode(config)
                self._loaded, self.config_path = loaded, path
                logs.set_level(config.log_level)
                return loaded
            modules = self._modules.meant(config.modules)
            self._modules.check(modules)
            self._building = trio.CancelScope()
            with self._building:
                world = await build_world(
                    config, health=self._health, choose_inner=self._choose_inner, around=self._around
                )
            if self._building.cancelled_caught:
                raise ConfigFault("the gateway was stopped before the configuration was ready")
            staged: Staged | None = None
            names: tuple[Serving, StagedHouse] | None = None
            added: list[tuple[Any, ...]] = []
            try:
                me = await self._peers.stage(config)
                names = await self._desk.stage(config, world)
                staged = self._listeners.stage(config.listeners, config.keep_alive)
                asked = interception(config, instance_of(self._home.path))
                intercepted = plan(asked) if asked is not None else None
                if self._adopted is not None:
                    added = await self._add_controls(config)
                await self._intercept(intercepted)
            except BaseException as fault:
                with trio.CancelScope(shield=True):
                    if staged is not None:
                        staged.abandon()
                    self._desk.abandon(names)
                    await self._drop_controls(added)
                    await self._restore_controls()
                world.close()
                if isinstance(fault, OSError):
                    raise ConfigFault(str(fault)) from fault
                raise
            self._modules.expect(modules)
            self._commit(loaded, path, world, staged, names, me)
            # At the first start there must be something to answer about before anyone is answered.
            await self._add_controls(config)
            wanted = self._control_parts(config)
            await self._drop_controls([key for key in self._controls if key not in wanted])
            self._modules.switch(modules)
            return loaded

    def _commit(
        self,
        loaded: Loaded,
        path: str,
        world: World,
        staged: Staged,
        names: tuple[Serving, StagedHouse] | None,
        me: Myself | None,
    ) -> None:
        """Nothing here can fail or wait."""
        config = world.config
        old = self._adopted
        self._choices.update(self._current_choices())
        for name, group in world.groups.items():
            if name in self._choices:
                group.restore(self._choices[name])
        self._world_scope.cancel()
        self._adopted, self._loaded, self.config_path = world, loaded, path
        self._views = ProxyViews(world, self._engine.tracker)
        world.forget_strangers()
        logs.set_level(config.log_level)
        staged.commit()
        self._desk.commit(names)
        world.hand_to(self._engine, own_ports=self._listeners.ports())
        self._peers.commit(world, me)
        self._world_scope = trio.CancelScope()
        self._nursery.start_soon(self._live, world, self._world_scope)
        if old is not None:
            old.close()
        # Rules and caches live long: the collector need not look at them again with every few connections.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    @staticmethod
    async def _live(world: World, scope: trio.CancelScope) -> None:
        with scope:
            await world.run()

    # The kernel's part

    async def _run_program(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        with self._reactor.forking():
            return await run_command(argv, stdin)

    async def _intercept(self, wanted: NetfilterPlan | None) -> None:
        if wanted is not None:
            await self._netfilter.apply(wanted)
        else:
            await self._netfilter.remove()
        self._intercepted = wanted

    # The control API

    @staticmethod
    def _control_parts(config: Config) -> dict[tuple[Any, ...], ControlConfig]:
        """One entry for each address; the key is all that what is served there depends on."""
        control = config.control
        tls = replace(control, unix="", tcp=None)
        tcp = replace(tls, tls=None, certificate="", private_key="", tcp=control.tcp)
        parts = [
            ("unix", control.unix, replace(tcp, unix=control.unix, tcp=None, secret="")),
            ("tcp", control.tcp, tcp),
            ("tls", control.tls, tls),
        ]
        return {(kind, address, part): part for kind, address, part in parts if address}

    async def _add_controls(self, config: Config) -> list[tuple[Any, ...]]:
        """Serve the addresses that are not served yet.  An address whose rules changed is exchanged."""
        added: list[tuple[Any, ...]] = []
        secret = config.control.secret or (self._home.secret() if config.control.secret_wanted else "")
        try:
            for key, part in self._control_parts(config).items():
                if key in self._controls:
                    continue
                await self._drop_controls([other for other in self._controls if other[:2] == key[:2]])
                served = _Served(trio.CancelScope(), trio.Event())
                served.urls = await self._nursery.start(self._serve_control, part, secret, served)
                self._controls[key] = served
                added.append(key)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._drop_controls(added)
            raise
        return added

    async def _restore_controls(self) -> None:
        """Serve again what a change that failed had exchanged already."""
        if self._adopted is not None:
            try:
                await self._add_controls(self._adopted.config)
            except CyfsError as fault:
                _log.error("the control API could not be restored: %s", fault)

    async def _serve_control(
        self,
        part: ControlConfig,
        secret: str,
        served: _Served,
        *,
        task_status: trio.TaskStatus[tuple[str, ...]],
    ) -> None:
        try:
            with served.scope:
                await serve_control(self, part, secret=secret, task_status=task_status)
        finally:
            served.done.set()

    async def _drop_controls(self, keys: Sequence[tuple[Any, ...]]) -> None:
        for key in keys:
            served = self._controls.pop(key, None)
            if served is not None:
                served.scope.cancel()
                await served.done.wait()

    # The gateway's own flows

    async def _choose_inner(self, flow: Flow) -> Outbound:
        decision = await self._engine.decide(flow, None)
        if decision.leaf.kind in ("Reject", "RejectDrop"):
            raise Refused(f"{decision.verdict.why}: {decision.leaf.name}")
        return decision.leaf

    # What the facade promises

    @property
    def _world(self) -> World:
        if self._adopted is None:
            raise Misuse("the gateway has not started")
        return self._adopted

    @property
    def config(self) -> Config:
        return self._world.config

    @property
    def rules(self) -> RuleTable:
        return self._world.table

    @property
    def started(self) -> float:
        return self._begun.at

    @property
    def tunnels(self) -> Tunnels:
        """What opens tunnel URLs now."""
        return self._world.tunnels

    async def probe(self, url: str) -> TunnelView:
        parsed = parse_url(url)
        return _tunnel_view(parsed.redacted, await self.tunnels.probe(parsed))

    def tunnel_statuses(self) -> Sequence[TunnelView]:
        now = time.time()
        table = self._around.status
        return [_tunnel_view(url.redacted, table.ask(url, now)) for url in table.urls()]

    def peers(self) -> Sequence[PeerView]:
        return self._peers.peers()

    async def ping(self, peer: str) -> PeerView:
        return await self._peers.ping(peer, self.config.identity.bridges)

    async def call_peer(
        self, peer: str, host: str, port: int, near: Callable[[], Awaitable[Endpoint]], *, network: str = "tcp"
    ) -> None:
        await self._errands.call(peer, host, port, near, network=network)

    def receive_from_peers(self, allow: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Arrival]]:
        return self._errands.receiving(allow)

    def awaits(self, id: str) -> bool:
        return self._errands.awaits(id)

    def claim(self, id: str, near: Endpoint) -> None:
        self._errands.claim(id, near)

    async def forget_peer(self, peer: str) -> int:
        return await self._errands.forget(peer)

    def connections(self) -> Sequence[ConnectionView]:
        return self._engine.tracker.views()

    def totals(self) -> tuple[int, int]:
        return self._engine.tracker.totals()

    def memory(self) -> int:
        return resident_bytes()

    def close_connection(self, id: str) -> bool:
        return self._engine.tracker.close(id)

    def close_connections(self) -> int:
        return self._engine.tracker.close_all()

    def proxies(self) -> Mapping[str, ProxyView]:
        return self._views.all()

    def select(self, group: str, member: str) -> None:
        chosen = self._world.groups[group]
        if member not in chosen.all:
            raise KeyError(member)
        chosen.select(member)
        self._keep_choices()

    def unfix(self, group: str) -> None:
        chosen = self._world.groups[group]
        if chosen.kind in ("URLTest", "Fallback"):
            chosen.select("")
            self._choices.pop(group, None)
            self._keep_choices()

    def _current_choices(self) -> dict[str, str]:
        world = self._adopted
        return {name: group.snapshot() for name, group in world.groups.items() if group.snapshot()} if world else {}

    def _keep_choices(self) -> None:
        self._choices.update(self._current_choices())
        if self.config.profile.store_selected:
            self._nursery.start_soon(self._save_choices)

    async def _save_choices(self) -> None:
        async with self._saving:
            await trio.to_thread.run_sync(self._home.save_choices, dict(self._choices))

    async def delay(self, name: str, url: str, timeout: float, expected: str) -> int:
        return await self._delay(self._find(name), url, timeout, expected)

    async def _delay(self, outbound: Outbound, url: str, timeout: float, expected: str) -> int:
        try:
            return await self._world.checker.check(
                outbound, url, timeout=timeout, expected=StatusRanges(expected or "*")
            )
        except Unreachable as fault:
            if fault.reason == "connect_timeout":
                raise TimeoutError(str(fault)) from fault
            raise

    def _find(self, name: str) -> Outbound:
        try:
            return self._world.find(name)
        except Unreachable:
            raise KeyError(name) from None

    async def group_delay(self, name: str, url: str, timeout: float, expected: str) -> Mapping[str, int]:
        group = self._world.groups[name]
        return await self._world.checker.check_all(
            group.members, url, timeout=timeout, expected=StatusRanges(expected or "*")
        )

    def proxy_providers(self) -> Mapping[str, ProviderView]:
        return {
            name: ProviderView(name=name, body=provider.view(self._views.of_provider(name)))
            for name, provider in self._world.proxy_providers.items()
        }

    def rule_providers(self) -> Mapping[str, ProviderView]:
        return {
            name: ProviderView(name=name, body=provider.view()) for name, provider in self._world.rule_providers.items()
        }

    def provider_proxy(self, provider: str, name: str) -> ProxyView:
        return self._views.view(self._world.provided[provider][name], provider)

    async def update_proxy_provider(self, name: str) -> None:
        await self._world.proxy_providers[name].update()

    async def update_rule_provider(self, name: str) -> None:
        await self._world.rule_providers[name].update()

    async def check_provider(self, name: str) -> None:
        check = self._world.proxy_providers[name].config.health_check
        await self._world.checker.check_all(
            self._world.provided[name].values(),
            check.url,
            timeout=check.timeout,
            expected=StatusRanges(check.expected_status),
        )

    async def explain(
        self, host: str, port: int, *, network: str = "tcp", source: str = "127.0.0.1", process: str = ""
    ) -> Explanation:
        return await explain(self._engine, self._world, host, port, network=network, source=source, process=process)

    @property
    def name_server(self) -> Serving | None:
        return self._desk.serving if self._desk.is_on else None

    @property
    def has_authority(self) -> bool:
        """Whether somebody speaks for a domain of the public DNS."""
        return self._desk.authority is not None

    # What modules touch

    @property
    def offers(self) -> Offers:
        """What is answered to peers."""
        return self._engine.offers

    @property
    def peer_desk(self) -> PeerDesk:
        """The way to peers."""
        return self._peers

    @property
    def reactor(self) -> Reactor:
        return self._reactor

    @property
    def home(self) -> Path:
        """The state directory."""
        return self._home.path

    def take_peer(self, sock: Endpoint, host: str, port: int) -> None:
        """As :meth:`cyfs_gateway.host.Host.take_peer`."""
        self._engine.take_peer(sock, host, port)

    async def serve_fenced(self, name: str, door: socket.socket) -> None:
        """As :meth:`cyfs_gateway.host.Host.serve_fenced`."""
        door.setblocking(False)
        host, port = door.getsockname()[:2]
        config = ListenerConfig(
            name=name, kind="mixed", listen=host, port=port, udp=False, fenced=True, most=_FENCED_MOST
        )
        inbound = Inbound(self._engine, config, door)
        inbound.start()
        try:
            await trio.sleep_forever()
        finally:
            inbound.close()
            for guest in tuple(inbound.guests):
                guest.close("its listener is closed")

    async def serve_questions(self, door: socket.socket, datagrams: socket.socket) -> None:
        """As :meth:`cyfs_gateway.host.Host.serve_questions`."""
        await self._desk.serve_questions(door, datagrams)

    def look_at_sns(self) -> None:
        self._peers.look_at_sns()

    def module_metrics(self) -> tuple[Metric, ...]:
        return tuple(self._modules.metrics())

    def speak_for(self, authority: Authority | None) -> Changed:
        """As :meth:`cyfs_gateway.host.Host.register_authority`; None: nobody does any more."""
        return self._desk.speak_for(authority)

    @property
    def trusted(self) -> TrustedNames:
        """Who knows who somebody is."""
        serving = self.name_server
        return self._world.trusted if serving is None else serving.trusted

    async def show_identity(self, wanted: PageWanted) -> Page | None:
        from cyfs_ns.io.trusted.service import DidService

        identity = self._world.config.identity
        service = DidService(self.trusted, self._home.path, serve=identity.serve, bridges=identity.bridges)
        return await service.page(wanted, owner=True)

    async def dns_query(self, name: str, rtype: str) -> Answer:
        return await self._world.resolver.query(name, rtype)

    def flush_dns(self) -> None:
        self._world.resolver.flush()
        self._desk.flush()

    def flush_fake_ip(self) -> None:
        self._desk.flush_fake_ip()

    def logs(self, level: str) -> AsyncIterator[LogLine]:
        return logs.log_bus().subscribe(level)

    def stop(self) -> None:
        """Ask the gateway to end; asked again, it does so without waiting for others to take notice."""
        if self._stopping.is_set():
            self._courtesy.cancel()
        self._stopping.set()
        self._building.cancel()

    def status(self) -> Mapping[str, Any]:
        up, down = self.totals()
        return {
            "uptime": round(time.time() - self.started, 1),
            "home": str(self._home.path),
            "identity": self._home.identity(),
            "config": self.config_path,
            "mode": self.config.mode,
            "connections": len(self._engine.tracker),
            "seen": self._engine.tracker.seen,
            "up": up,
            "down": down,
            "memory": self.memory(),
            "listeners": self._listeners.view(),
            "control": [url for served in self._controls.values() for url in served.urls],
            "intercepts": self._intercepted is not None,
            "memberships": self._peers.memberships(),
            "modules": self._modules.status(),
        }

    async def control(self, module: str, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._modules.control(module, method, body)

    # Life

    async def keep_status(self) -> None:
        """Save what is learnt of tunnel URLs, until cancelled."""
        await keep_saved(self._home.path / _STATUS_FILE, self._around.status)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked the gateway to stop."""
        return self._stopping.is_set()

    async def wait_stopped(self) -> None:
        """Until somebody asks the gateway to stop."""
        await self._stopping.wait()

    async def end(self) -> None:
        """Give everything back: listeners, connections, the kernel's rules, the control socket.  Twice is once."""
        if self._ending:
            return
        self._ending = True
        with trio.move_on_after(_CHANGE_SECONDS, shield=True):
            # A change under way would bind listeners and set rules that nobody removes any more.
            async with self._changing:
                pass
        with trio.move_on_after(20, shield=True):
            with self._courtesy:
                await self._desk.drain()
            self._listeners.close()
            has_something_to_say = bool(self._engine.tracker.close_all("the gateway stops") or self._peers.peers())
            self._peers.close()
            if has_something_to_say:
                await trio.sleep(_DRAIN_SECONDS)
            # After the connections: when they had taken all descriptors, no program could be run before.
            try:
                await self._netfilter.remove()
            except (CyfsError, OSError) as fault:
                _log.error("the kernel's rules could not be removed, try cyfs-gateway cleanup: %s", fault)
            await self._drop_controls(list(self._controls))
        if self._adopted is not None:
            self._choices.update(self._current_choices())
            if self.config.profile.store_selected:
                with trio.CancelScope(shield=True):
                    await self._save_choices()
            self._adopted.close()


def _same_but_for_mode(new: Config, old: Config) -> bool:
    """Whether only mode and log level differ: people switch these all day, and counters should survive it."""
    return replace(new, mode=old.mode, log_level=old.log_level) == old


def _tunnel_view(url: str, status: UrlStatus) -> TunnelView:
    return TunnelView(
        url=url,
        state=str(status.state),
        source=str(status.source or ""),
        reason=status.reason,
        rtt=status.rtt,
        learnt_at=status.learnt_at,
    )

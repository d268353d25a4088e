"""What the gateway answers to peers itself: services with names of their own, beside those of the configuration.

A peer asks for one by its name as the host of a stream.  The names end in ``.invalid`` (RFC 6761 section 6.4), so
whoever does not know them finds nothing, and no service of a configuration or host in the world is hidden by them.

Each of the gateway's own has a guard, which is asked before anything is opened.  By default it lets in the devices of
the owner of this one, as far as a pin says who that is; strangers never.  What a module serves is for whoever has a
tunnel, and the module judges.

Here is also what modules think of strangers who want a tunnel at all (``wants``), whom they bar, stranger or not, where
they say that somebody may be met (``search``), and who somebody is (``vouched``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

import trio

from cyfs_gateway.config.model import ServiceConfig
from cyfs_gateway.decide import Decision
from cyfs_gateway.flow import ANSWERED, Flow, Identity
from cyfs_gateway.host import Bar, Barred, Judge, Offer, Search, Vouch, Vouched, Whereabouts
from cyfs_gateway.rules.model import Verdict
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.errors import CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Did
from rtcp.io.pipe import break_off
from tunnels.endpoint import Endpoint, PacketEndpoint, Target
from tunnels.outbound import FlowHint, Outbound

RECEIVE: Final = "receive.cyfs.invalid"
SPEEDTEST: Final = "speedtest.cyfs.invalid"
PORT: Final = 1
"""What is asked for by name has no port; something has to stand there."""

_log = logging.getLogger("cyfs.peers")

Open = Callable[[Identity], Awaitable[Endpoint]]
"""Opens the near end for a peer.  Raises ``Refused`` and ``Unreachable``, which the peer hears of."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Who is let in: whoever meets one of the conditions; devices of the same owner when there are none (None)."""

    conditions: Callable[[], RuleTable | None]
    owner: Callable[[], Awaitable[str]]
    """The owner of this device; empty when nobody is known."""

    async def judge(self, flow: Flow, name: str) -> str:
        """Why ``flow`` may come in.  Raises ``Refused``."""
        identity, conditions = flow.identity, self.conditions()
        if conditions is None:
            owner = await self.owner()
            if owner and identity is not None and identity.owner == owner:
                return f"a device of {owner}"
        else:
            verdict = conditions.match(flow, 0, True, True)
            if isinstance(verdict, Verdict) and verdict.index >= 0:
                return verdict.why
        raise Refused(f"{_short(name)} is not for {identity.did if identity else 'whoever this is'}")


class Handed:
    """One stream in the hands of a module, as the tracker sees it.  ``ended`` is told of its end once, and why."""

    up = down = 0

    def __init__(self, serve: Offer, identity: Identity, pipe: Endpoint, ended: Callable[[Handed, str], None]) -> None:
        self._serve, self._identity, self._pipe, self._ended = serve, identity, pipe, ended
        self._scope = trio.CancelScope()
        self._why = "the module has ended"

    async def run(self) -> None:
        try:
            with self._scope:
                await self._serve(self._identity, self._pipe)
                self._why = ""
        except (CyfsError, OSError) as fault:
            self._why = str(fault)
        except Exception:
            _log.exception("what a module serves to peers failed")
            self._why = "it failed"
        finally:
            if self._why:
                break_off(self._pipe)
            self._pipe.close()
            self._ended(self, self._why)

    def remote(self) -> str:
        return ""

    def close(self, why: str) -> None:
        self._why = why
        self._scope.cancel()


class Hosted:
    """The way to what a module serves: for a stream that is handed over, instead of being joined with another."""

    kind = "Inner"
    udp = False

    def __init__(self, name: str, serve: Offer, nursery: trio.Nursery) -> None:
        self.name = name
        self._serve, self._nursery = serve, nursery

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    def hand(self, identity: Identity, pipe: Endpoint, ended: Callable[[Handed, str], None]) -> Handed:
        """Have ``pipe`` served; it is taken over."""
        handed = Handed(self._serve, identity, pipe, ended)
        self._nursery.start_soon(handed.run)
        return handed

    async def open_stream(self, target: Target) -> Endpoint:
        raise Unreachable(f"{self.name} is served to peers alone", "unsupported_scheme")

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name} carries no UDP", "unsupported_scheme")


class Offers:
    """What there is at the moment, by name."""

    def __init__(self) -> None:
        self._offered: dict[str, tuple[Guard, Open]] = {}
        self._hosted: dict[str, Hosted] = {}
        self.welcomes: list[Judge] = []
        self.bars: dict[str, list[Bar]] = {}
        """By the section of the module that has said them last, be it that it has failed, or begins anew."""
        self.searches: list[Search] = []
        self.vouches: list[Vouch] = []
        self.ports: dict[int, Judge] = {}
        """Of this machine's loopback, and who may reach them."""
        self.expected: set[object] = set()
        """Modules that will judge who is wanted, and have not begun: until then nobody is turned away for long."""
        self.named: Collection[str] = ()
        """DIDs that the owner named in a command: a tunnel from one of them is not a stranger's."""

    def add(self, name: str, guard: Guard, open_: Open) -> None:
        """Answer to ``name`` from now on.  Raises ``Refused`` when somebody does already."""
        self._check_free(name)
        self._offered[name] = guard, open_

    def host(self, name: str, serve: Offer, nursery: trio.Nursery) -> None:
        """A module answers to ``name`` from now on, by tasks in ``nursery``.  Raises as :meth:`add`."""
        self._check_free(name)
        self._hosted[name] = Hosted(_short(name), serve, nursery)

    def _check_free(self, name: str) -> None:
        if name in self._offered or name in self._hosted:
            raise Refused(f"somebody answers to {_short(name)} already")

    def remove(self, name: str) -> None:
        """Nobody answers to ``name`` any more."""
        if self._hosted.pop(name, None) is None:
            del self._offered[name]

    def port(self, flow: Flow) -> tuple[ServiceConfig, Verdict] | None:
        """The port of this machine that ``flow`` asks for, if a module lets its peer reach that."""
        judge, port = self.ports.get(flow.dst_port), flow.dst_port
        if judge is None or flow.network != "tcp" or flow.identity is None or not judge(flow.identity):
            return None
        name = f"port {port}"
        service = ServiceConfig(name=name, port=port, network="tcp", target=Target("127.0.0.1", port), allow=())
        return service, Verdict(-1, "Service", name, "DIRECT", f"{name}, which a module opens to this peer")

    def search(self, did: Did, device: Did) -> Whereabouts:
        """Where modules say that ``did``, whose key is ``device``, may be met."""
        found = [search(name) for name in dict.fromkeys((did.canonical, device)) for search in self.searches]
        return Whereabouts(
            tuple(address for one in found for address in one.addresses),
            tuple(relay for one in found for relay in one.relays),
        )

    def vouched(self, did: Did) -> Vouched | None:
        """What a module has verified of ``did``; None: nothing."""
        return next((said for vouch in self.vouches if (said := vouch(did)) is not None), None)

    def wants(self, identity: Identity) -> bool:
        """Whether a module wants a tunnel from somebody whom the rules would not let in.

        Raises ``Barred`` if none does, and one says why not.
        """
        if self._is_wanted(identity):
            return True
        if why := self._against(identity):
            raise Barred(why)
        return False

    def check_not_barred(self, identity: Identity) -> None:
        """Raises ``Barred`` for whom a module speaks against, and none wants."""
        if (why := self._against(identity)) and not self._is_wanted(identity):
            raise Barred(why)

    def _is_wanted(self, identity: Identity) -> bool:
        return any(judge(identity) for judge in self.welcomes)

    def _against(self, identity: Identity) -> str:
        """What the first module says that bars somebody; empty: none does."""
        return next(filter(None, (bar(identity) for bars in self.bars.values() for bar in bars)), "")

    async def find(self, flow: Flow) -> Decision | None:
        """What ``flow`` asks for; None: nothing of ours.  Raises ``Refused``."""
        name = flow.host
        if not name.endswith(ANSWERED):
            return None
        offered, hosted = self._offered.get(name), self._hosted.get(name)
        if (offered is None and hosted is None) or flow.network != "tcp" or flow.identity is None:
            raise Refused(f"nobody answers to {_short(name)} here")
        if offered is None:
            assert hosted is not None
            verdict = Verdict(-1, "Service", hosted.name, name, f"{hosted.name}, which is a module's to judge")
            return Decision(verdict, hosted, (hosted.name,), None)
        guard, open_ = offered
        why = await guard.judge(flow, name)
        verdict = Verdict(-1, "Service", _short(name), name, f"{_short(name)}, {why}")
        return Decision(verdict, _Given(verdict.payload, open_, flow.identity), (verdict.payload,), None)


def _short(name: str) -> str:
    """As people call it."""
    return name.removesuffix(ANSWERED).removesuffix(".cyfs")


class _Given:
    """The way to one of them, for one peer."""

    kind = "Inner"
    udp = False

    def __init__(self, name: str, open_: Open, identity: Identity) -> None:
        self.name = name
        self._open, self._identity = open_, identity

    def pick(self, hint: FlowHint) -> Outbound:
        return self

    async def open_stream(self, target: Target) -> Endpoint:
        return await self._open(self._identity)

    async def open_packets(self, target: Target) -> PacketEndpoint:
        raise Unreachable(f"{self.name} carries no UDP", "unsupported_scheme")

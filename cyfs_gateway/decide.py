"""The decision: which outbound carries a flow, and why.  Nothing here waits, dials or looks anything up.

A :class:`Router` is one configuration's whole policy, immutable but for hit counters and group choices.  ``route`` goes
as far as it can with what the flow already knows; when a rule asks for an address or a process it says so with a
``Pending``, the caller satisfies it (or fails to) and calls again from the same rule.  So a flow is resolved once at
most, and the everyday flow is decided in one synchronous call on the hot path.

Semantics are mihomo's: the listener's own proxy or sub-rule comes first, then the mode, then the rules; a verdict that
ends in PASS, or that leads UDP to an outbound without UDP, is passed over and the next rule is asked.

What a peer asks for through its tunnel goes by the rules alone, whatever the mode is, and is let through only by rules
that speak of peers; any rule may refuse it, and so does the end of the list.

What a program asks for that is kept apart from this house (a container) goes only by ways that lead out of it, unless a
rule that names its listener says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cyfs_gateway.flow import ANSWERED, PEER, Flow
from cyfs_gateway.rules.model import Need, Verdict
from cyfs_gateway.rules.table import RuleTable
from tunnels.outbound import FlowHint, Outbound

_DEPTH = 16
"""Groups within groups; the configuration reader refuses circles, this stops what a provider could still build."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A verdict that matched and was passed over."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a flow goes: the verdict, the leaf that carries it, and the names from the leaf up to the rule's choice."""

    verdict: Verdict
    leaf: Outbound
    chain: tuple[str, ...]
    table: RuleTable | None
    """The rules that decided; None when the mode or the listener did."""
    passed: tuple[Passed, ...] = ()
    """What matched before and was passed over."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A decision that waits for something to be found out; hand it back to ``route`` afterwards."""

    need: Need
    router: Router
    """The one that stopped; it means nothing to another."""
    passed: tuple[Passed, ...] = ()


Fence = Callable[[Outbound, Flow], Outbound | None]
"""A leaf as it may be used from behind the fence; None: not at all."""

_DECISIONS_KEPT = 4096
"""Ready-made decisions for verdicts whose outbound is no group, by the verdict's identity."""


class Router:
    """``mode`` is rule, global or direct; ``tables`` are sub-rule lists that listeners may use instead of ``table``.

    ``routes`` are names that modules carry themselves, before any rule: a host, or ``.name`` for all below a name.  The
    mapping may change while the router lives.  Without a ``fence`` nothing leads out from behind it.
    """

    def __init__(
        self,
        *,
        mode: str,
        table: RuleTable,
        tables: Mapping[str, RuleTable],
        outbounds: Mapping[str, Outbound],
        find_process: str,
        routes: Mapping[str, Outbound] | None = None,
        fence: Fence = lambda _leaf, _flow: None,
    ) -> None:
        self.mode = mode
        self.table = table
        self.tables = tables
        self.outbounds = outbounds
        self._routes = routes if routes is not None else {}
        self._fence = fence
        self._never_process = find_process == "off"
        self._always_process = find_process == "always"
        self._plain: dict[str, tuple[Outbound, tuple[str, ...]]] = {}
        self._known: dict[int, Decision] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def route(
        self,
        flow: Flow,
        *,
        proxy: str = "",
        rule: str = "",
        after: Pending | None = None,
        resolved: bool = False,
        process_known: bool = False,
    ) -> Decision | Pending:
        """Decide, or say what is missing.

        ``after`` is what was missing last time; ``resolved`` and ``process_known`` say that it has been looked for.
        A client whose listener went with an earlier configuration may still ask by a ``proxy`` or ``rule`` that is no
        more: it is refused.
        """
        if flow.dns_mode == "fake-ip" and not flow.host:
            return self._refused(
                f"{flow.dst_ip} is a fake address that stands for no known name: ask for the name again"
            )
        if flow.rule_host.endswith(ANSWERED):
            return self._refused(f"{flow.rule_host} is for commands of the owner to ask for")
        process_known = process_known or flow.fenced  # its addresses are those of another network
        if self._always_process and not process_known:
            return Pending(Need("process", 0), self)
        of_peer = flow.kind == PEER
        if self._routes and not of_peer and flow.rule_host and (route := self._route_of(flow.rule_host)) is not None:
            return Decision(
                Verdict(-1, "", "", route.name, f"{route.name} is served by a module"), route, (route.name,), None
            )
        if (proxy or self.mode != "rule") and not of_peer:
            return self._fixed(proxy or ("GLOBAL" if self.mode == "global" else "DIRECT"), bool(proxy), flow)
        table = self.tables.get(rule) if rule else self.table
        if table is None:
            return self._gone(rule)
        since, passed = (after.need.at, after.passed) if after is not None else (0, ())
        process_known = process_known or self._never_process
        while True:
            found = table.match(flow, since, resolved, process_known)
            if isinstance(found, Need):
                return Pending(found, self, passed)
            known = self._known.get(id(found))
            free = not (of_peer or flow.fenced)
            if known is not None and not passed and (known.leaf.udp or flow.network == "tcp") and free:
                return known
            leaf, chain = self._descend(found.outbound, flow)
            behind = leaf if not flow.fenced or table.is_for_listener(found) else self._fence(leaf, flow)
            if leaf.kind == "Pass":
                why = "it leads to PASS"
            elif flow.network == "udp" and not leaf.udp:
                why = f"{leaf.name} carries no UDP"
            elif of_peer and leaf.kind not in ("Reject", "RejectDrop") and not table.is_for_peers(found):
                why = "it does not speak of peers"
            elif behind is None:
                why = f"{leaf.name} leads into this house, and it does not name {flow.in_name}"
            else:
                decision = Decision(found, behind, chain, table, passed)
                # The verdict "no rule matched" is one for all tables, so it would bring the wrong one.
                if (
                    found.index >= 0
                    and not passed
                    and behind is leaf
                    and found.outbound in self._plain
                    and len(self._known) < _DECISIONS_KEPT
                ):
                    self._known[id(found)] = decision  # which keeps the verdict, and so its identity, alive
                return decision
            if found.index < 0:
                return Decision(found, self.outbounds["REJECT"], ("REJECT",), table, passed)
            passed = (*passed, Passed(found, why))
            since = found.index + 1

    def _route_of(self, host: str) -> Outbound | None:
        """The route of the host itself or of the nearest name above it (``.name`` in the book)."""
        found = self._routes.get(host)
        while found is None and "." in host:
            host = host.partition(".")[2]
            found = self._routes.get("." + host)
        return found

    def _gone(self, name: str) -> Decision:
        return self._refused(f"{name} went with the configuration of its listener")

    def _refused(self, why: str) -> Decision:
        return Decision(Verdict(-1, "", "", "REJECT", why), self.outbounds["REJECT"], ("REJECT",), None)

    def _fixed(self, name: str, by_listener: bool, flow: Flow) -> Decision:
        if name not in self.outbounds:
            return self._gone(name)
        leaf, chain = self._descend(name, flow)
        key = (name, self.mode)
        verdict = self._verdicts.get(key)
        if verdict is None:
            why = f"the listener sends everything to {name}" if by_listener else f"mode is {self.mode}"
            verdict = self._verdicts[key] = Verdict(-1, "", "", name, why)
        behind = self._fence(leaf, flow) if flow.fenced else leaf
        if behind is None:
            return self._refused(f"{leaf.name} leads into this house, and no rule that names {flow.in_name} lets it")
        leaf = behind
        return Decision(verdict, leaf, chain, None)

    def _descend(self, name: str, flow: Flow) -> tuple[Outbound, tuple[str, ...]]:
        plain = self._plain.get(name)
        if plain is not None:
            return plain
        outbound = self.outbounds[name]
        host, udp = flow.rule_host or flow.dst_ip, flow.network == "udp"
        hint = FlowHint(source=flow.src_ip, source_port=flow.src_port, host=host, udp=udp)
        names = [outbound.name]
        for _ in range(_DEPTH):
            below = outbound.pick(hint)
            if below is outbound:
                break
            if below.name != outbound.name:
                names.append(below.name)
            outbound = below
        chain = tuple(reversed(names))
        if outbound is self.outbounds[name]:
            self._plain[name] = (outbound, chain)
        return outbound, chain

"""The rule table of a configuration: verdicts, and what people and dashboards ask about them.

A verdict is made once for each rule and handed out again.  Where no rule looks at the client, flows to the same place
by the same listener get the same verdict, so the last few thousand are remembered.

Hits are counted where they happen; misses are not: a rule is missed by every flow that a later rule (or none) decided,
so sums from the end tell them when somebody looks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cyfs_gateway.flow import Flow
from cyfs_gateway.rules.index import ADDRESS, YES, Geo, Index, SetSlot, Surroundings, View
from cyfs_gateway.rules.model import NO_MATCH, InSet, Logic, Need, Place, Rule, SubRule, Text, Verdict, Words
from cyfs_gateway.rules.sets import RuleSet


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule as GET /rules shows it.  Times are Unix seconds, 0 for never."""

    index: int
    type: str
    payload: str
    proxy: str
    size: int
    """Entries behind a GEOSITE, GEOIP or RULE-SET rule (0 when a database does not tell); -1 for all other rules."""
    disabled: bool
    hit_count: int
    hit_at: float
    miss_count: int
    miss_at: float


_VERDICTS_KEPT = 16_384
_BEYOND_DESTINATION = frozenset({"UID", "DSCP", "REMATCH-NAME", "DID", "DID-SUFFIX", "OWNER", "ZONE", "TRUST"})


def _looks_at_destination(rule: Rule) -> bool:
    """Whether a rule asks for nothing but where a flow goes and by which listener it came."""
    if isinstance(rule, InSet) and rule.swap:
        return False
    parts = rule.parts if isinstance(rule, Logic) else (rule.condition,) if isinstance(rule, SubRule) else ()
    beyond = rule.word in _BEYOND_DESTINATION or rule.word.startswith(("SRC-", "PROCESS-"))
    return not beyond and all(_looks_at_destination(part) for part in parts)


_OF_PEERS = frozenset({"DID", "DID-SUFFIX", "OWNER", "ZONE", "TRUST"})


def speaks_of_peers(rule: Rule) -> bool:
    """Whether a rule can hold for nobody but peers, and so was written for them: ``MATCH,DIRECT`` at the end of a list
    means the people of the house, and must not open it to everybody with a tunnel."""
    return _speaks(rule, _names_peers)


def speaks_of_listener(rule: Rule) -> bool:
    """Whether a rule names the listeners for which it holds, and so was written for who comes by them."""
    return _speaks(rule, lambda part: part.word == "IN-NAME")


def _names_peers(rule: Rule) -> bool:
    if isinstance(rule, Words) and rule.word == "IN-TYPE":
        return rule.words == ("RTCP",)
    return rule.word in _OF_PEERS


def _speaks(rule: Rule, names: Callable[[Rule], bool]) -> bool:
    match rule:
        case Logic(word="AND"):
            return any(_speaks(part, names) for part in rule.parts)
        case Logic(word="OR"):
            return all(_speaks(part, names) for part in rule.parts)
        case SubRule():
            return _speaks(rule.condition, names)
    return names(rule)


class RuleTable:
    """Compiled rules, immutable but for counters, disabled rules and the content of rule sets."""

    def __init__(self, rules: Sequence[Rule], around: Surroundings, slots: Mapping[str, SetSlot]) -> None:
        self._rules = tuple(rules)
        self._slots, self._geo = slots, around.geo
        self._index = Index(self._rules, around)
        self._around = around
        self._verdicts: list[Verdict | None] = [None] * len(self._rules)
        self._inner: dict[tuple[int, ...], Verdict] = {}
        self._off: frozenset[int] = frozenset()
        self._hits = array("Q", bytes(8 * len(self._rules) + 8))  # the last place is for "no rule matched"
        self._hit_at = array("d", bytes(8 * len(self._rules) + 8))
        self._passes: dict[int, int] = {}
        self._unseen: dict[int, int] = {}
        self._memo: dict[tuple[str | int, ...], Verdict] | None = None
        self._owns_sets = False

    @classmethod
    def compile(
        cls,
        rules: Sequence[Rule],
        *,
        sub_rules: Mapping[str, Sequence[Rule]],
        sets: Mapping[str, RuleSet],
        geo: Geo,
    ) -> RuleTable:
        """Raises ConfigFault: an unknown rule set or rule list, a circle of SUB-RULE, a missing database."""
        slots = {name: SetSlot(content, geo) for name, content in sets.items()}
        around = Surroundings(sub_rules, slots, geo)
        for name in sub_rules:
            around.sub_index(name)
        table = cls(rules, around, slots)
        table._owns_sets = True
        table._remember()
        return table

    def for_list(self, name: str) -> RuleTable:
        """A table of one sub-rule list, for a listener of its own; rule sets are shared.  KeyError: no such list."""
        return RuleTable(self._around.sub_rules[name], self._around, self._slots)

    def match(self, flow: Flow, start: int = 0, resolved: bool = False, process_known: bool = False) -> Verdict | Need:
        """The first rule at or after ``start`` that holds, or what must be found out before one can be judged.

        After a Need the caller finds out, successfully or not, and calls again with ``start=need.at`` and ``resolved``
        or ``process_known`` set.  To pass over a verdict, call again with ``start=verdict.index + 1``.
        """
        memo = self._memo
        if memo is None or start or resolved:
            return self._find(flow, start, resolved, process_known)
        key = (
            *(flow.host, flow.dst_ip, flow.dst_port, flow.network, flow.sniff_host),
            *(flow.in_name, flow.in_port, flow.in_user, flow.kind),
        )
        known = memo.get(key)
        if known is None:
            found = self._find(flow, 0, False, process_known)
            if isinstance(found, Need):
                return found
            if len(memo) >= _VERDICTS_KEPT:
                memo.clear()
            known = memo[key] = found
        return known

    def _remember(self) -> None:
        """Keep verdicts for flows that look the same, if no rule looks at more than the key in ``match``."""
        lists = [self._rules, *self._around.sub_rules.values(), *(slot.content.rules for slot in self._slots.values())]
        self._memo = {} if all(_looks_at_destination(rule) for rules in lists for rule in rules) else None

    def _find(self, flow: Flow, start: int, resolved: bool, process_known: bool) -> Verdict | Need:
        found = self._index.first(View(flow, resolved, process_known), start, self._off)
        if found < 0:
            return NO_MATCH
        at, answer = found >> 2, found & 3
        if answer != _YES:
            return Need("address" if answer == ADDRESS else "process", at)
        return self._verdicts[at] or self._verdict(at, View(flow, resolved, process_known))

    def _verdict(self, at: int, view: View) -> Verdict:
        rule = self._rules[at]
        if isinstance(rule, SubRule):
            return self._inner_verdict(at, rule, view)
        why = f"rule {at}: {rule}"
        verdict = self._verdicts[at] = Verdict(at, rule.type, rule.payload, rule.outbound, why)
        return verdict

    def _inner_verdict(self, at: int, rule: SubRule, view: View) -> Verdict:
        """The verdict of a SUB-RULE depends on where its list, or a list that one leads to, came to an end."""
        path = [at]
        inner: Rule = rule
        while isinstance(inner, SubRule):
            place = self._around.sub_index(inner.outbound).first(view) >> 2
            path.append(place)
            inner = self._around.sub_rules[inner.outbound][place]
        key = tuple(path)
        verdict = self._inner.get(key)
        if verdict is None:
            why = f"rule {at}: {rule}, and there {inner}"
            verdict = self._inner[key] = Verdict(at, rule.type, rule.payload, inner.outbound, why)
        return verdict

    def is_for_peers(self, verdict: Verdict) -> bool:
        """Whether the rule behind ``verdict`` was written for peers."""
        return verdict.index >= 0 and speaks_of_peers(self._rules[verdict.index])

    def is_for_listener(self, verdict: Verdict) -> bool:
        """Whether the rule behind ``verdict`` names the listener that the flow came by."""
        return verdict.index >= 0 and speaks_of_listener(self._rules[verdict.index])

    def count(self, verdict: Verdict, now: float, passed_over: bool = False) -> None:
        """Note that ``verdict`` decided a flow at Unix time ``now``, or that it held and was passed over."""
        at = verdict.index
        self._hits[at] += 1
        self._hit_at[at] = now
        if passed_over:
            self._passes[at] = self._passes.get(at, 0) + 1

    def disable(self, changes: Mapping[int, bool]) -> None:
        """Switch rules off (True) or on again; an index that no rule has is passed over.  Forgotten with the table."""
        real = {at: off for at, off in changes.items() if 0 <= at < len(self._rules)}
        for at in [at for at, off in real.items() if off != (at in self._off)]:
            missed = self._decided_after(at)  # while it is off nothing misses it: keep the difference
            self._unseen[at] = self._unseen.get(at, 0) + (-missed if real[at] else missed)
        self._off = (self._off | {at for at, off in real.items() if off}) - {at for at, off in real.items() if not off}
        if self._memo is not None:
            self._memo.clear()

    def _decided_after(self, at: int) -> int:
        passes = sum(count for place, count in self._passes.items() if place > at)
        return sum(self._hits[at + 1 :]) - passes - self._passes.get(at, 0)

    def set_has_name(self, name: str, host: str) -> bool:
        """Whether a condition of a classical rule set holds for a name of which nothing else is known.  KeyError."""
        flow = Flow(network="tcp", kind="Inner", src_ip="", src_port=0, host=host, dst_ip="", dst_port=0)
        found = self._slots[name].classical.first(View(flow, True, True))
        return found >= 0 and found & 3 == YES

    def fill_set(self, name: str, content: RuleSet) -> None:
        """Exchange the content of a rule set.  KeyError: no such set; ConfigFault: unusable, and the old one stays."""
        self._slots[name].fill(content)
        if self._owns_sets:
            self._remember()

    def outbounds(self) -> frozenset[str]:
        """Every outbound that a verdict of this table can name, DIRECT for "no rule matched" included."""
        lists = [self._rules, *self._around.sub_rules.values()]
        named = {rule.outbound for rules in lists for rule in rules if not isinstance(rule, SubRule)}
        return frozenset(named | {NO_MATCH.outbound})

    def view(self) -> list[RuleView]:
        """All rules with their counters, in order."""
        views = []
        decided, last = self._hits[-1], self._hit_at[-1]
        for at in range(len(self._rules) - 1, -1, -1):
            rule, off, passes = self._rules[at], at in self._off, self._passes.get(at, 0)
            unseen = self._unseen.get(at, 0) + (decided - passes if off else 0)
            missed = decided - passes - unseen
            views.append(
                RuleView(
                    index=at,
                    type=rule.type,
                    payload=rule.payload,
                    proxy=rule.outbound,
                    size=self._size(rule),
                    disabled=off,
                    hit_count=self._hits[at],
                    hit_at=self._hit_at[at],
                    miss_count=missed,
                    miss_at=last if missed else 0.0,
                )
            )
            decided += self._hits[at] - passes
            last = max(last, self._hit_at[at])
        views.reverse()
        return views

    def _size(self, rule: Rule) -> int:
        match rule:
            case InSet():
                return self._slots[rule.name].content.count
            case Text(word="GEOSITE"):
                return len(self._geo.site(rule.text))
            case Place(word="GEOIP"):
                addresses = None if rule.code == "lan" else self._geo.country_set(rule.code)
                return 0 if addresses is None else len(addresses)
        return -1


_YES = 1

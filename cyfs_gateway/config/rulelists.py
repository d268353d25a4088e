"""``rules`` and ``sub-rules``: every line parsed, and every outbound, rule set and list it names looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from cyfs_gateway.config.outbounds import find_circle, find_deepest
from cyfs_gateway.rules.model import MAX_SUB_RULES, Always, InSet, Logic, Rule, SubRule
from cyfs_gateway.rules.parse import RuleFault, parse_rule
from cyfs_ns.config.source import Scalar, Seq
from cyfs_ns.config.written import Section, shown

RuleLists = tuple[tuple[Rule, ...], dict[str, tuple[Rule, ...]]]
"""``rules``, and the named lists of ``sub-rules``."""


def read_rules(top: Section, names: Collection[str], sets: Collection[str], bridges: Mapping[str, str]) -> RuleLists:
    below = top.table("sub-rules")
    sub_names = frozenset(below) if below is not None else frozenset()

    def listed(section: Section, key: str) -> tuple[Rule, ...]:
        return _rule_list(section, key, names, sets, sub_names, bridges)

    rules = listed(top, "rules")
    sub_rules = {name: listed(below, name) for name in below} if below is not None else {}
    edges = {name: [rule.outbound for rule in found if isinstance(rule, SubRule)] for name, found in sub_rules.items()}
    circle = find_circle(edges)
    if circle is not None:
        top.error("sub-rules", f"these lead to one another in a circle: {' -> '.join(circle)[:500]}")
        return rules, sub_rules
    deepest, depth = find_deepest(edges)
    if depth > MAX_SUB_RULES:
        top.error("sub-rules", f"{deepest[:60]!r} leads through {depth} lists; at most {MAX_SUB_RULES}")
    return rules, sub_rules


def _rule_list(
    section: Section,
    key: str,
    names: Collection[str],
    sets: Collection[str],
    sub_names: Collection[str],
    bridges: Mapping[str, str],
) -> tuple[Rule, ...]:
    node = section.node(key)
    if node is None:
        return ()
    if not isinstance(node, Seq):
        section.error(key, f"expected a list of rules, found {shown(node)}")
        return ()
    reader, place = section.reader, section.at(key)
    found: list[Rule] = []
    last = len(node.items) - 1
    for index, item in enumerate(node.items):
        text = item.text if type(item) is Scalar and not item.tag else reader.text(f"{place}/{index}", item)
        if text is None:
            continue
        try:
            rule = parse_rule(text, bridges)
        except RuleFault as fault:
            reader.error(f"{place}/{index}", item, str(fault))
            continue
        found.append(rule)
        known = sub_names if type(rule) is SubRule else names
        if rule.outbound not in known:
            what = "sub-rule list" if type(rule) is SubRule else "proxy or group"
            message = f"there is no {what} {rule.outbound[:60]!r}{reader.near(rule.outbound, known)}"
            reader.error(f"{place}/{index}", item, message)
        if rule.ignored:
            reader.warn(
                f"{place}/{index}", item, f"{rule.word} takes no option {', '.join(rule.ignored)[:60]!r}, ignored"
            )
        if type(rule) in _HOLDS_SETS:
            for name in _sets_in(rule):
                if name not in sets:
                    message = f"there is no rule provider {name[:60]!r}{reader.near(name, sets)}"
                    reader.error(f"{place}/{index}", item, message)
        if type(rule) is Always and index < last:
            reader.warn(f"{place}/{index}", item, "no rule below MATCH is ever reached")
    return tuple(found)


_HOLDS_SETS = frozenset((InSet, Logic, SubRule))


def _sets_in(rule: Rule) -> Iterator[str]:
    if isinstance(rule, InSet):
        yield rule.name
    elif isinstance(rule, Logic):
        for part in rule.parts:
            yield from _sets_in(part)
    elif isinstance(rule, SubRule):
        yield from _sets_in(rule.condition)

"""A provider's bytes to a RuleSet: names and addresses by ``cyfs_ns.setfiles``, classical conditions line by line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from cyfs_gateway.rules.model import Rule
from cyfs_gateway.rules.parse import RuleFault, parse_condition
from cyfs_gateway.rules.sets import Behavior, RuleSet
from cyfs_ns.errors import BadWire
from cyfs_ns.setfiles import (
    MAX_BYTES,
    Format,
    cidr_set,
    domain_set,
    entry_lines,
    kept_entries,
    parse_cidrs,
    parse_domains,
)

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Bridges


def parse_rule_set(
    untrusted: bytes,
    behavior: Behavior,
    format: Format,
    max_bytes: int = MAX_BYTES,
    bridges: Bridges | None = None,
) -> RuleSet:
    """What a rule-provider of this behaviour and format delivered.  Raises BadWire."""
    match behavior:
        case "domain":
            domains, faults = parse_domains(untrusted, format, max_bytes)
            return RuleSet(behavior=behavior, domains=domains, faults=faults)
        case "ipcidr":
            cidrs, faults = parse_cidrs(untrusted, format, max_bytes)
            return RuleSet(behavior=behavior, cidrs=cidrs, faults=faults)
    if format == "mrs":
        raise BadWire("mrs holds domains or addresses, never classical rules")
    return _conditions(entry_lines(untrusted, format, max_bytes), bridges)


def inline_rule_set(payload: Iterable[str], behavior: Behavior, bridges: Bridges | None = None) -> RuleSet:
    """A rule-provider whose list stands in the configuration itself.  Raises BadWire when no entry is good."""
    lines = (line.strip().encode(errors="replace") for line in payload)
    match behavior:
        case "domain":
            domains, faults = domain_set(lines)
            return RuleSet(behavior=behavior, domains=domains, faults=faults)
        case "ipcidr":
            cidrs, faults = cidr_set(lines)
            return RuleSet(behavior=behavior, cidrs=cidrs, faults=faults)
    return _conditions(lines, bridges)


def _conditions(lines: Iterable[bytes], bridges: Bridges | None) -> RuleSet:
    faults: list[str] = []
    rules = tuple(kept_entries(lines, partial(_condition, bridges=bridges), faults))
    if faults and not rules:
        raise BadWire(f"no line is an entry of a classical rule set: {faults[0]}")
    return RuleSet(behavior="classical", rules=rules, faults=tuple(faults))


def _condition(line: bytes, bridges: Bridges | None) -> Rule:
    try:
        return parse_condition(line.decode(), bridges)
    except UnicodeDecodeError:
        raise RuleFault(f"{line[:80].decode(errors='replace')!r} is not UTF-8") from None

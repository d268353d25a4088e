"""One rule line to one rule: ``TYPE,payload,outbound[,option...]``.

Payloads are put into the form flows are compared in: names lower-case with A-labels (IDNA, UTS 46 mapping), addresses
as numbers.  Regexes run on RE2, which cannot be made to run for ever; those that need look-around or back-references
run under a time limit (``cyfs_ns.patterns``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import idna

from cyfs_gateway.rules.model import (
    TYPE_NAMES,
    Always,
    Cidr,
    InSet,
    Logic,
    Numbers,
    Place,
    Rule,
    SubRule,
    Text,
    Words,
)
from cyfs_ns.address import parse_prefix
from cyfs_ns.errors import BadWire, ConfigFault
from cyfs_ns.patterns import backtracks, check_regex
from cyfs_ns.trust.level import read_trust

if TYPE_CHECKING:
    from cyfs_ns.identity.did import Bridges

MAX_TEXT = 65_536
"""Longest rule line in characters; long OR lists are real, longer ones are not."""
MAX_DEPTH = 16
"""How deep AND, OR and NOT may nest."""


class RuleFault(ConfigFault):
    """A rule line that cannot be used; the message says what is wrong and what to write instead."""


class _Scope(NamedTuple):
    """Where a condition stands."""

    bridges: Bridges | None
    depth: int = MAX_DEPTH
    """How much deeper AND, OR and NOT may nest."""


def parse_rule(text: str, bridges: Bridges | None = None) -> Rule:
    """The rule that a line of ``rules:`` or ``sub-rules:`` spells; ``bridges`` say whose DIDs hosts stand for.

    Raises RuleFault.
    """
    if len(text) > MAX_TEXT:
        raise RuleFault(f"a rule of {len(text)} characters is too long (limit {MAX_TEXT}): use a rule-provider")
    word, rest = _word(text)
    if word == "MATCH":
        outbound, *extra = [part.strip() for part in rest.split(",")]
        return Always(word=word, outbound=_outbound(outbound, text), ignored=tuple(filter(None, extra)))
    if word in _WITH_COMMAS:
        payload, comma, outbound = rest.rpartition(",")
        if not comma or (word in _LOGIC and ")" in outbound):
            raise RuleFault(f"{text!r} names no outbound: write {word},<payload>,<outbound>")
        return _condition(word, payload.strip(), (), _outbound(outbound.strip(), text), _Scope(bridges))
    payload, *tail = [part.strip() for part in rest.split(",")]
    outbound = tail[0] if tail else ""
    return _condition(word, payload, tuple(tail[1:]), _outbound(outbound, text), _Scope(bridges))


def parse_whom(text: str, bridges: Bridges | None = None) -> Rule:
    """A peer's DID or host name alone, or a condition such as ``OWNER,did:web:alice.example``.  Raises as below."""
    return parse_condition(text if "," in text else f"DID,{text}", bridges)


def parse_condition(text: str, bridges: Bridges | None = None) -> Rule:
    """A bare condition, as a classical rule set lists them: no outbound, and no MATCH, RULE-SET or SUB-RULE."""
    if len(text) > MAX_TEXT:
        raise RuleFault(f"a condition of {len(text)} characters is too long (limit {MAX_TEXT})")
    word, rest = _word(text)
    if word in {"MATCH", "RULE-SET", "SUB-RULE"}:
        raise RuleFault(f"{word} has no place inside a rule set: put it in rules:")
    rule = _bare(word, rest, _Scope(bridges))
    _check_bare(rule)
    return rule


def _check_bare(rule: Rule) -> None:
    match rule:
        case InSet() | SubRule():
            raise RuleFault(f"{rule.word} has no place inside a condition here: put it in rules:")
        case Logic():
            for part in rule.parts:
                _check_bare(part)


def _bare(word: str, rest: str, scope: _Scope) -> Rule:
    if word in _WITH_COMMAS:
        return _condition(word, rest.strip(), (), "", scope)
    payload, *options = [part.strip() for part in rest.split(",")]
    return _condition(word, payload, tuple(options), "", scope)


def _word(text: str) -> tuple[str, str]:
    head, _, rest = text.partition(",")
    word = head.strip().upper()
    word = _SAME_AS.get(word, word)
    if word not in TYPE_NAMES:
        raise RuleFault(
            f"unknown rule type {head.strip()[:40]!r} in {text[:80]!r}: see the list of rule types in the manual"
        )
    if not rest.strip():
        raise RuleFault(
            f"{text[:80]!r} has no payload: write {word},<outbound>"
            if word == "MATCH"
            else f"{text[:80]!r} has no payload: write {word},<payload>,<outbound>"
        )
    return word, rest.strip()


def _outbound(name: str, text: str) -> str:
    if not name:
        raise RuleFault(f"{text[:80]!r} names no outbound: add one, for example DIRECT")
    return name


def _condition(word: str, payload: str, options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    if not payload:
        raise RuleFault(f"{word} needs a payload: write {word},<payload>,<outbound>")
    return _BUILD[word](word, payload, options, outbound, scope)


def _unused(options: tuple[str, ...], *used: str) -> tuple[str, ...]:
    if not options:
        return ()
    return tuple(option for option in options if option and option not in used)


# one builder for each shape of payload


def _host(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    return Text(word=word, text=host_name(payload), outbound=outbound, ignored=_unused(options))


def _suffix(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    # ".example.com" is how other programs write it; taken literally it could never match
    return Text(word=word, text=host_name(payload.lstrip(".") or payload), outbound=outbound, ignored=_unused(options))


def _fragment(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    text = payload.lower() if payload.isascii() else host_name(payload)
    return Text(word=word, text=text, outbound=outbound, ignored=_unused(options))


def _regex(word: str, payload: str, _options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    fault = check_regex(payload)
    if fault and not backtracks(payload):
        raise RuleFault(f"{payload[:80]!r} is no regex: {fault[:120]}")
    return Text(word=word, text=payload, outbound=outbound)


def _verbatim(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    return Text(word=word, text=payload, outbound=outbound, ignored=_unused(options))


def _in_type(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    words = tuple(part.strip().upper() for part in payload.split("/"))
    for part in words:
        if part not in _IN_TYPES:
            raise RuleFault(f"IN-TYPE does not know {part!r}: use {'/'.join(sorted(_IN_TYPES))}")
    return Words(word=word, words=words, outbound=outbound, ignored=_unused(options))


def _names(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    return Words(word=word, words=tuple(payload.split("/")), outbound=outbound, ignored=_unused(options))


def _network(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    if payload.lower() not in {"tcp", "udp"}:
        raise RuleFault(f"NETWORK is tcp or udp, not {payload!r}")
    return Words(word=word, words=(payload.lower(),), outbound=outbound, ignored=_unused(options))


def _numbers(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    limit, ranges = NUMBER_LIMITS[word], []
    for part in filter(None, payload.split("/")):
        low, dash, high = (piece.strip("[ ]") for piece in part.partition("-"))
        ends = (low, high) if dash else (low, low)
        if not all(end.isascii() and end.isdecimal() and len(end) <= 10 and int(end) <= limit for end in ends):
            raise RuleFault(f"{word} takes numbers 0-{limit} and ranges such as 80/443/8000-8010, not {part!r}")
        first, last = sorted(map(int, ends))
        ranges.append((first, last))
    if not ranges:
        raise RuleFault(f"{word} lists no number: write for example {word},80/443")
    return Numbers(word=word, ranges=tuple(ranges), outbound=outbound, ignored=_unused(options))


def _did(word: str, payload: str, options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    # Most configurations do without identities, and what reads them brings a library for keys along.
    from cyfs_ns.identity.did import subject

    try:
        text = str(subject(payload, scope.bridges).canonical)
    except BadWire as fault:
        raise RuleFault(f"{word} takes a DID such as did:web:home.example, or its host name: {fault}") from None
    return Text(word=word, text=text, outbound=outbound, ignored=_unused(options))


def _did_suffix(word: str, payload: str, options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    from cyfs_ns.identity.did import host_suffix

    try:
        text = host_suffix(payload.lstrip(".") or payload, scope.bridges)
    except BadWire as fault:
        raise RuleFault(f"{word} takes the end of a host name such as home.example or dev.did: {fault}") from None
    return Text(word=word, text=text, outbound=outbound, ignored=_unused(options))


def _trust(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    try:
        text = read_trust(payload).label
    except BadWire as fault:
        raise RuleFault(f"{word}: {fault}") from None
    return Text(word=word, text=text, outbound=outbound, ignored=_unused(options))


def _on_address(word: str, options: tuple[str, ...]) -> tuple[str, bool]:
    """The word with the option ``src`` taken into it, and whether to abstain from resolving."""
    if "src" in options and not word.startswith("SRC-"):
        word = "SRC-" + word
    return word, "no-resolve" in options and not word.startswith("SRC-")


def _cidr(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    prefix = parse_prefix(payload)
    if prefix is None:
        raise RuleFault(f"{word} takes address/bits such as 192.0.2.0/24 or 2001:db8::/32, not {payload!r}")
    word, no_resolve = _on_address(word, options)
    unused = _unused(options, "src", "no-resolve")
    return Cidr(word=word, prefix=prefix, no_resolve=no_resolve, outbound=outbound, ignored=unused)


def _country(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    word, no_resolve = _on_address(word, options)
    unused = _unused(options, "src", "no-resolve")
    return Place(word=word, code=payload.lower(), no_resolve=no_resolve, outbound=outbound, ignored=unused)


def _asn(word: str, payload: str, options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    if not (payload.isascii() and payload.isdecimal() and len(payload) <= 10):
        raise RuleFault(f"{word} takes the bare number of an autonomous system such as 13335, not {payload!r}")
    return _country(word, str(int(payload)), options, outbound, scope)


def _rule_set(word: str, payload: str, options: tuple[str, ...], outbound: str, _scope: _Scope) -> Rule:
    swap = "src" in options
    no_resolve = "no-resolve" in options and not swap
    unused = _unused(options, "src", "no-resolve")
    return InSet(word=word, name=payload, swap=swap, no_resolve=no_resolve, outbound=outbound, ignored=unused)


def _logic(word: str, payload: str, _options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    if scope.depth == 0:
        raise RuleFault(f"AND, OR and NOT nest at most {MAX_DEPTH} deep: use SUB-RULE")
    if not _is_group(payload):
        raise RuleFault(f"{word} takes ((TYPE,payload),(TYPE,payload)) with balanced brackets, not {payload[:80]!r}")
    deeper = scope._replace(depth=scope.depth - 1)
    parts = tuple(_part(part, deeper) for part in _groups(payload[1:-1]))
    if not parts:
        raise RuleFault(f"{word} holds no condition: write {word},((TYPE,payload)),<outbound>, with two brackets")
    if word == "NOT" and len(parts) != 1:
        raise RuleFault(f"NOT takes one condition, not {len(parts)}: join them with AND or OR inside")
    return Logic(word=word, parts=parts, outbound=outbound)


def _sub_rule(word: str, payload: str, _options: tuple[str, ...], outbound: str, scope: _Scope) -> Rule:
    if not _is_group(payload):
        raise RuleFault(f"SUB-RULE takes one condition in brackets, (NETWORK,tcp), not {payload[:80]!r}")
    return SubRule(word=word, condition=_part(payload[1:-1], scope), outbound=outbound)


def _part(text: str, scope: _Scope) -> Rule:
    word, rest = _word(text)
    if word in {"MATCH", "SUB-RULE"}:
        raise RuleFault(f"{word} cannot stand inside a logic rule")
    return _bare(word, rest, scope)


def _is_group(text: str) -> bool:
    """True when the first bracket is closed by the last."""
    level = 0
    for at, letter in enumerate(text):
        level += (letter == "(") - (letter == ")")
        if level <= 0:
            return level == 0 and letter == ")" and at == len(text) - 1
    return False


def _groups(text: str) -> list[str]:
    """The contents of the outermost brackets; between them only commas and blanks."""
    groups, level, start = [], 0, 0
    for at, letter in enumerate(text):
        if letter == "(":
            if level == 0:
                start = at + 1
            level += 1
        elif letter == ")":
            level -= 1
            if level == 0:
                groups.append(text[start:at])
        elif level == 0 and letter not in ", ":
            raise RuleFault(f"{text[at : at + 40]!r} stands outside brackets: put each condition in its own")
    return groups


def host_name(text: str) -> str:
    """``text`` as flows spell names: lower case, A-labels, no trailing dot.  Raises RuleFault."""
    text = text.rstrip(".") or text
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError as fault:
        raise RuleFault(f"{text[:80]!r} is not a domain name ({fault}): check its spelling") from None


NUMBER_LIMITS = {"SRC-PORT": 0xFFFF, "DST-PORT": 0xFFFF, "IN-PORT": 0xFFFF, "UID": 0xFFFFFFFF, "DSCP": 63}
"""The largest number each numeric rule can compare with."""

_LOGIC = frozenset({"AND", "OR", "NOT", "SUB-RULE"})
_WITH_COMMAS = _LOGIC | {"DOMAIN-REGEX", "PROCESS-NAME-REGEX", "PROCESS-PATH-REGEX"}
_SAME_AS = {"IP-CIDR6": "IP-CIDR"}
_IN_TYPES = frozenset(
    {
        *("HTTP", "HTTPS", "SOCKS", "SOCKS4", "SOCKS5", "SHADOWSOCKS", "VMESS", "VLESS", "REDIR", "TPROXY", "TROJAN"),
        *("TUNNEL", "TUN", "TUIC", "HYSTERIA2", "ANYTLS", "INNER", "RTCP"),
    }
)

_BUILD: dict[str, Callable[[str, str, tuple[str, ...], str, _Scope], Rule]] = {
    "DOMAIN": _host,
    "DOMAIN-SUFFIX": _suffix,
    "DOMAIN-KEYWORD": _fragment,
    "DOMAIN-WILDCARD": _fragment,
    "DOMAIN-REGEX": _regex,
    "GEOSITE": _verbatim,
    "GEOIP": _country,
    "SRC-GEOIP": _country,
    "IP-ASN": _asn,
    "SRC-IP-ASN": _asn,
    "IP-CIDR": _cidr,
    "SRC-IP-CIDR": _cidr,
    "IP-SUFFIX": _cidr,
    "SRC-IP-SUFFIX": _cidr,
    "SRC-PORT": _numbers,
    "DST-PORT": _numbers,
    "IN-PORT": _numbers,
    "IN-TYPE": _in_type,
    "IN-USER": _names,
    "IN-NAME": _names,
    "REMATCH-NAME": _names,
    "PROCESS-NAME": _verbatim,
    "PROCESS-NAME-REGEX": _regex,
    "PROCESS-NAME-WILDCARD": _verbatim,
    "PROCESS-PATH": _verbatim,
    "PROCESS-PATH-REGEX": _regex,
    "PROCESS-PATH-WILDCARD": _verbatim,
    "UID": _numbers,
    "NETWORK": _network,
    "DSCP": _numbers,
    "DID": _did,
    "DID-SUFFIX": _did_suffix,
    "OWNER": _did,
    "ZONE": _did,
    "TRUST": _trust,
    "RULE-SET": _rule_set,
    "AND": _logic,
    "OR": _logic,
    "NOT": _logic,
    "SUB-RULE": _sub_rule,
}

"""Many rules, one answer: the first rule that holds, found without asking them one after another.

Rules are sorted into *columns*, one for each thing a flow can be looked up by: names in a dict, suffixes by walking up
the labels, keywords in one Aho-Corasick automaton, regexes in one RE2 set, addresses, ports and user ids in dicts of
prefixes.  A column answers with the indexes of rules that hold, and the smallest of them over all columns wins.  What
cannot be looked up (sets, sub-rules, NOT) waits in a list by index and is evaluated only below the best found so far.

An AND is entered under its most selective part and evaluated in full only when that part holds: a hundred thousand of
them cost a flow that meets none of them nothing.  This is allowed only for a part that is looked at before any part
that may *ask*, or a question would be lost.

*Asking.*  A rule may need the address of a name, or the process behind a port, that nobody has found out yet.  Such a
rule takes part as if it held, with a question for an answer; when it is the first, the question is the result.  After
it is answered (or cannot be) the caller starts again from that very rule: rules before it are not asked again and never
see the new address, the asking rule is evaluated afresh with it.  AND and OR look from left to right and stop early, so
they ask only when they get that far.

*Identities.*  Who sent a flow counts only when that is as sure as such rules need (``Purpose.MATCH``); a flow of
somebody unknown, or known less well, meets none of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import ahocorasick

from cyfs_gateway.flow import Flow
from cyfs_gateway.rules.model import (
    MAX_SUB_RULES,
    Always,
    Cidr,
    InSet,
    Logic,
    Numbers,
    OnAddress,
    Place,
    Rule,
    SubRule,
    Text,
    Words,
)
from cyfs_gateway.rules.parse import NUMBER_LIMITS
from cyfs_gateway.rules.sets import RuleSet
from cyfs_ns.address import LAN, WIDTH, Address, parse_address, range_prefixes
from cyfs_ns.errors import ConfigFault, Misuse
from cyfs_ns.patterns import PatternSet, wildcard_regex
from cyfs_ns.sets import CidrSet, HostSet
from cyfs_ns.trust.level import Purpose, Trust, read_trust

NO, YES, ADDRESS, PROCESS = range(4)
"""What a condition says of a flow: no, yes, or which question must be answered first."""


class Geo(Protocol):
    """Where addresses and categories come from.  Each call may raise ConfigFault when its database is missing."""

    def country(self, ip: str) -> Sequence[str]:
        """Lower-case codes of the place of ``ip``."""

    def country_set(self, code: str) -> CidrSet | None:
        """All addresses of a code, from a database ordered by code; None when the database goes by address."""

    def asn(self, ip: str) -> str:
        """The number of the autonomous system of ``ip``, or an empty text."""

    def site(self, category: str) -> HostSet:
        """The names of a GEOSITE category (``cn``, ``google@ads``, ``!cn``)."""


class View:
    """One flow while it is being matched: its addresses as numbers, and which questions may still be asked."""

    __slots__ = ("_dst", "_src", "can_ask_address", "can_ask_process", "flow", "host")

    def __init__(self, flow: Flow, resolved: bool, process_known: bool) -> None:
        self.flow = flow
        self.host = flow.sniff_host or flow.host
        self.can_ask_address = not resolved and not flow.dst_ip and flow.host != ""
        self.can_ask_process = not (process_known or flow.process or flow.process_path or flow.uid >= 0)
        self._dst: Address | bool | None = False
        self._src: Address | bool | None = False

    def dst(self) -> Address | None:
        """The destination's address, None while unknown."""
        if self._dst is False:
            self._dst = parse_address(self.flow.dst_ip)
        return self._dst  # type: ignore[return-value]  # False is gone by now

    def src(self) -> Address | None:
        if self._src is False:
            self._src = parse_address(self.flow.src_ip)
        return self._src  # type: ignore[return-value]  # likewise

    def unasking(self, swap: bool) -> View:
        """The same flow for a set that must not have names resolved; with ``swap`` the other way round."""
        flow = self.flow
        if swap:
            flow = replace(flow, src_ip=flow.dst_ip, dst_ip=flow.src_ip, src_port=flow.dst_port, dst_port=flow.src_port)
        return View(flow, True, not self.can_ask_process)


Condition: TypeAlias = Callable[[View], int]
Posting: TypeAlias = "int | list[int]"
"""The rules under one key, ascending; a bare number for the common case of one."""


class SetSlot:
    """The place of a rule set in a table: conditions hold on to it, its content can be exchanged while flows come."""

    __slots__ = ("classical", "content", "geo")

    def __init__(self, content: RuleSet, geo: Geo) -> None:
        self.geo = geo
        self.fill(content)

    def fill(self, content: RuleSet) -> None:
        """Raises ConfigFault, and keeps the old content, when a contained rule cannot be compiled."""
        self.classical = Index(content.rules, Surroundings({}, {}, self.geo))
        self.content = content


class Surroundings:
    """What rules refer to by name while they are compiled."""

    def __init__(self, sub_rules: Mapping[str, Sequence[Rule]], slots: Mapping[str, SetSlot], geo: Geo) -> None:
        self.sub_rules, self._slots, self.geo = sub_rules, slots, geo
        self._compiled: dict[str, Index] = {}
        self._open: list[str] = []

    def slot(self, name: str) -> SetSlot:
        if name not in self._slots:
            raise ConfigFault(f"RULE-SET {name!r} is not defined: add it to rule-providers")
        return self._slots[name]

    def sub_index(self, name: str) -> Index:
        """The compiled rule list ``name``; each is compiled once however many rules lead there."""
        if name in self._compiled:
            return self._compiled[name]
        if name not in self.sub_rules:
            raise ConfigFault(f"SUB-RULE leads to {name!r}, which is not defined: add it to sub-rules")
        if name in self._open:
            raise ConfigFault(f"sub-rules lead in a circle: {' -> '.join([*self._open, name])}")
        if len(self._open) == MAX_SUB_RULES:
            raise ConfigFault(f"sub-rules lead more than {MAX_SUB_RULES} deep: {' -> '.join(self._open)}")
        self._open.append(name)
        self._compiled[name] = Index(self.sub_rules[name], self)
        self._open.pop()
        return self._compiled[name]


class Index:
    """A compiled list of rules."""

    def __init__(self, rules: Sequence[Rule], around: Surroundings) -> None:
        self._count = len(rules)
        self._checks: dict[int, Condition] = {}
        self._slow: list[tuple[int, Condition]] = []
        self._ask_address: list[int] = []
        self._ask_process: list[int] = []
        posts: dict[str, dict[Any, Posting]] = {}
        for at, rule in enumerate(rules):
            plain = _entries(rule, around.geo)
            if plain is None:
                self._slow.append((at, _condition(rule, around)))
                continue
            entries, whole = plain
            if not whole:
                self._checks[at] = _condition(rule, around)
            elif isinstance(rule, OnAddress) and rule.asks:
                self._ask_address.append(at)
            elif rule.word in _OF_PROCESS:
                self._ask_process.append(at)
            for column, key in entries:
                _post(posts.setdefault(column, {}), key, at)
        self._slow_at = [at for at, _ in self._slow]
        columns = [_column(name, posts[name], around.geo) for name in _CHEAP_FIRST if name in posts]
        self._columns = [(column.lowest, column.postings) for column in columns]

    def first(self, view: View, start: int = 0, off: Collection[int] = ()) -> int:
        """The first rule from ``start`` on, and not in ``off``, that holds or asks: ``index * 4 + answer``, or -1."""
        best, answer = self._count, NO
        if view.can_ask_address and self._ask_address:
            found = _next(self._ask_address, start, off)
            if found < best:
                best, answer = found, ADDRESS
        if view.can_ask_process and self._ask_process:
            found = _next(self._ask_process, start, off)
            if found < best:
                best, answer = found, PROCESS
        checks = self._checks
        for lowest, postings in self._columns:
            if lowest >= best:
                continue
            for posting in postings(view):
                if type(posting) is int:
                    if start <= posting < best and posting not in off:
                        said = checks[posting](view) if posting in checks else YES
                        if said:
                            best, answer = posting, said
                    continue
                for place in range(bisect_left(posting, start), len(posting)):  # type: ignore[arg-type]  # a list here
                    at = posting[place]  # type: ignore[index]
                    if at >= best:
                        break
                    if at not in off:
                        said = checks[at](view) if at in checks else YES
                        if said:
                            best, answer = at, said
                            break
        if self._slow_at and self._slow_at[0] < best:
            for place in range(bisect_left(self._slow_at, start), len(self._slow_at)):
                at, condition = self._slow[place]
                if at >= best:
                    break
                if at not in off:
                    said = condition(view)
                    if said:
                        best, answer = at, said
                        break
        return best << 2 | answer if answer else -1


def _next(ascending: list[int], start: int, off: Collection[int]) -> int:
    for place in range(bisect_left(ascending, start), len(ascending)):
        if ascending[place] not in off:
            return ascending[place]
    return _NEVER


_NEVER = 1 << 60


def _post(column: dict[Any, Posting], key: Any, at: int) -> None:
    here = column.get(key)
    if here is None:
        column[key] = at
    elif isinstance(here, int):
        column[key] = [here, at]
    else:
        here.append(at)


# where a rule can be looked up

_Entries: TypeAlias = "list[tuple[str, Any]]"

_COLUMN_OF = {
    "DOMAIN": "host",
    "DOMAIN-SUFFIX": "suffix",
    "DOMAIN-KEYWORD": "keyword",
    "DOMAIN-REGEX": "host~",
    "DOMAIN-WILDCARD": "host~",
    "PROCESS-NAME": "process",
    "PROCESS-NAME-REGEX": "process~",
    "PROCESS-NAME-WILDCARD": "process~",
    "PROCESS-PATH": "path",
    "PROCESS-PATH-REGEX": "path~",
    "PROCESS-PATH-WILDCARD": "path~",
    "DST-PORT": "dst-port",
    "SRC-PORT": "src-port",
    "IN-PORT": "in-port",
    "UID": "uid",
    "DSCP": "dscp",
    "IN-TYPE": "in-type",
    "IN-USER": "in-user",
    "IN-NAME": "in-name",
    "REMATCH-NAME": "rematch",
    "NETWORK": "network",
    "DID": "did",
    "DID-SUFFIX": "did-suffix",
    "OWNER": "owner",
    "ZONE": "zone",
    "TRUST": "trust",
}

_CHEAP_FIRST = (
    *("any", "network", "in-type", "in-name", "in-user", "rematch", "host", "process", "path", "suffix"),
    *("did", "owner", "zone", "trust", "did-suffix"),
    *("dst-port", "src-port", "in-port", "uid", "dscp", "dst4", "dst6", "src4", "src6", "keyword"),
    *("host~", "process~", "path~", "dst-asn", "src-asn", "dst-country", "src-country"),
)
_SELECTIVE_FIRST = (
    *("did", "did-suffix", "zone", "owner"),
    *("host", "suffix", "process", "path", "dst4", "dst6", "dst-asn", "host~", "process~", "path~", "keyword"),
    *("src4", "src6", "src-port", "dst-port", "uid", "in-user", "rematch", "in-name", "in-port", "src-asn"),
    *("dst-country", "src-country", "trust", "dscp", "in-type", "network", "any"),
)
_SELECTIVITY = {name: rank for rank, name in enumerate(_SELECTIVE_FIRST)}

_OF_PROCESS = frozenset({"UID", *(word for word in _COLUMN_OF if word.startswith("PROCESS-"))})


def _entries(rule: Rule, geo: Geo) -> tuple[_Entries, bool] | None:
    """The keys under which ``rule`` can be found, and whether finding it there means that it holds.

    When the second is False the rule can hold (or ask) only if one of the keys is found.  None: it cannot be looked up.
    """
    match rule:
        case Text():
            if rule.word == "GEOSITE":
                return None
            text = rule.text
            if rule.word == "TRUST":
                return [("trust", level) for level in Trust if level >= read_trust(text)], True
            if rule.word.endswith("-WILDCARD"):
                text = wildcard_regex(text)
            elif rule.word in ("PROCESS-NAME", "PROCESS-PATH"):
                text = text.lower()
            return [(_COLUMN_OF[rule.word], text)], True
        case Words():
            return [(_COLUMN_OF[rule.word], word) for word in _meant(rule)], True
        case Numbers():
            return _number_entries(rule.word, rule.ranges), True
        case Cidr(prefix=prefix) if rule.word.endswith("IP-CIDR"):
            side = "src" if rule.src else "dst"
            return [(f"{side}{prefix.family}", _key(prefix.number, prefix.bits, WIDTH[prefix.family]))], True
        case Place():
            return _place_entries(rule, geo)
        case Logic(word="OR"):
            return _or_entries(rule, geo)
        case Logic(word="AND"):
            return _and_entries(rule, geo)
        case Logic(word="NOT", parts=(Numbers() as part,)) if not _may_ask(part):
            return _number_entries(part.word, _others(part)), True
        case Always():
            return [("any", 0)], True
    return None


def _number_entries(word: str, ranges: Iterable[tuple[int, int]]) -> _Entries:
    width = NUMBER_LIMITS[word].bit_length()
    return [
        (_COLUMN_OF[word], _key(number, bits, width))
        for low, high in ranges
        for number, bits in range_prefixes(low, high, width)
    ]


def _others(rule: Numbers) -> list[tuple[int, int]]:
    """The ranges of all numbers that ``rule`` does not want."""
    free, at = [], 0
    for low, high in sorted(rule.ranges):
        if low > at:
            free.append((at, low - 1))
        at = max(at, high + 1)
    limit = NUMBER_LIMITS[rule.word]
    return [*free, (at, limit)] if at <= limit else free


def _place_entries(rule: Place, geo: Geo) -> tuple[_Entries, bool] | None:
    side = "src" if rule.src else "dst"
    if rule.word.endswith("IP-ASN"):
        return [(f"{side}-asn", rule.code)], True
    if rule.code == "lan":
        return [(f"{side}{net.family}", _key(net.number, net.bits, WIDTH[net.family])) for net in LAN], True
    return None if geo.country_set(rule.code) is not None else ([(f"{side}-country", rule.code)], True)


def _or_entries(rule: Logic, geo: Geo) -> tuple[_Entries, bool] | None:
    entries: _Entries = []
    whole = True
    for part in rule.parts:
        found = None if _may_ask(part) else _entries(part, geo)
        if found is None:
            return None
        entries += found[0]
        whole = whole and found[1]
    return entries, whole


def _and_entries(rule: Logic, geo: Geo) -> tuple[_Entries, bool] | None:
    best: _Entries | None = None
    for part in rule.parts:
        if _may_ask(part):
            break
        found = _entries(part, geo)
        if found is not None and (best is None or _rank(found[0]) < _rank(best)):
            best = found[0]
    return None if best is None else (best, False)


def _rank(entries: _Entries) -> int:
    return max((_SELECTIVITY[column] for column, _ in entries), default=-1)  # none: it never holds


def _may_ask(rule: Rule) -> bool:
    match rule:
        case OnAddress():
            return rule.asks
        case Logic(parts=parts):
            return any(map(_may_ask, parts))
        case SubRule() | InSet():
            return True
    return rule.word in _OF_PROCESS


def _meant(rule: Words) -> tuple[str, ...]:
    """The words compared with; in IN-TYPE, SOCKS stands for both versions."""
    if rule.word != "IN-TYPE":
        return rule.words
    return tuple(word for given in rule.words for word in (("SOCKS4", "SOCKS5") if given == "SOCKS" else (given,)))


def _key(number: int, bits: int, width: int) -> int:
    """A prefix as one number: its leading bits behind a marker bit, so that prefixes of all lengths share a dict."""
    return number >> (width - bits) | 1 << bits


# columns: each turns a view into the postings whose key the flow has


class _Column(Protocol):
    lowest: int
    """The smallest rule index anywhere in the column."""

    def postings(self, view: View) -> Sequence[Posting]: ...


def _lowest(posts: Mapping[Any, Posting]) -> int:
    return min(here if isinstance(here, int) else here[0] for here in posts.values())


class _Equal:
    """Rules that want one property of the flow to be a certain text or number."""

    def __init__(self, posts: dict[Any, Posting], value: Callable[[View], Any]) -> None:
        self.lowest = _lowest(posts)
        self._posts, self._value = posts, value

    def postings(self, view: View) -> tuple[Posting, ...]:
        here = self._posts.get(self._value(view))
        return () if here is None else (here,)


class _Suffixes:
    """DOMAIN-SUFFIX, DID-SUFFIX: the name and every name above it, as deep as the deepest rule goes."""

    def __init__(self, posts: dict[str, Posting], value: Callable[[View], str]) -> None:
        self.lowest = _lowest(posts)
        self._posts, self._value = posts, value
        self._dots = max(name.count(".") for name in posts)

    def postings(self, view: View) -> list[Posting]:
        found = []
        posts, host = self._posts, self._value(view)
        at = len(host)
        for _ in range(self._dots + 1):
            at = host.rfind(".", 0, at)
            here = posts.get(host[at + 1 :])
            if here is not None:
                found.append(here)
            if at < 0:
                break
        return found


class _Keywords:
    """DOMAIN-KEYWORD: all keywords in one pass over the name."""

    def __init__(self, posts: dict[str, Posting]) -> None:
        self.lowest = _lowest(posts)
        self._automaton = ahocorasick.Automaton()
        for keyword, posting in posts.items():
            self._automaton.add_word(keyword, posting)
        self._automaton.make_automaton()

    def postings(self, view: View) -> list[Posting]:
        return [posting for _, posting in self._automaton.iter(view.host)]


class _Patterns:
    """Regexes and wildcards over one text."""

    def __init__(self, posts: dict[str, Posting], value: Callable[[View], str]) -> None:
        self.lowest = _lowest(posts)
        self._value = value
        self._patterns, self._posts = PatternSet(list(posts), lookaround=True), list(posts.values())

    def postings(self, view: View) -> list[Posting]:
        text = self._value(view)
        return [self._posts[at] for at in self._patterns.matches(text)] if text else []


class _Prefixes:
    """Numbers by leading bits: addresses by network, ports and user ids by ranges cut into aligned blocks.

    Such blocks lie inside or outside each other, so they cut the line of numbers into stretches with the same rules
    all along; a number is looked up by where its stretch begins.
    """

    def __init__(self, posts: dict[int, Posting], width: int, value: Callable[[View], int]) -> None:
        self.lowest = _lowest(posts)
        self._value = value
        self._starts, self._found = _stretches(posts, width)

    def postings(self, view: View) -> tuple[Posting, ...]:
        return self._found[bisect_right(self._starts, self._value(view))]


def _stretches(posts: dict[int, Posting], width: int) -> tuple[Sequence[int], list[tuple[Posting, ...]]]:
    """Where stretches begin, ascending, and what holds below the first, from the first on, from the second on..."""
    blocks = []
    for key, posting in posts.items():
        bits = key.bit_length() - 1
        low = (key ^ 1 << bits) << (width - bits)
        blocks.append((low, bits, low + (1 << (width - bits)), posting))
    blocks.sort(key=itemgetter(0, 1))
    starts: list[int] = []
    found: list[tuple[Posting, ...]] = [()]
    around: list[tuple[int, tuple[Posting, ...]]] = []  # the blocks we are in, outermost first: ends and rules

    def begin(at: int) -> None:
        holds = around[-1][1] if around else ()
        if starts and starts[-1] == at:
            found[-1] = holds
        else:
            starts.append(at)
            found.append(holds)

    for low, _, end, posting in blocks:
        while around and around[-1][0] <= low:
            begin(around.pop()[0])
        around.append((end, (*around[-1][1], posting) if around else (posting,)))
        begin(low)
    while around:
        begin(around.pop()[0])
    return array("Q", starts) if width < 64 else starts, found


class _Countries:
    """GEOIP with a database that goes by address: one look-up for all rules."""

    def __init__(self, posts: dict[str, Posting], ip: Callable[[View], str], geo: Geo) -> None:
        self.lowest = _lowest(posts)
        self._posts, self._ip, self._country = posts, ip, geo.country
        geo.country("192.0.2.1")  # a missing database is a fault of the configuration, to be found now

    def postings(self, view: View) -> list[Posting]:
        ip = self._ip(view)
        return [self._posts[code] for code in self._country(ip) if code in self._posts] if ip else []


def _column(name: str, posts: dict[Any, Posting], geo: Geo) -> _Column:
    side, _, kind = name.partition("-")
    if kind == "country":
        return _Countries(posts, _IP[side], geo)
    if kind == "asn":
        ip, asn = _IP[side], geo.asn
        asn("192.0.2.1")  # as above
        return _Equal(posts, lambda view: asn(text) if (text := ip(view)) else "")
    if name in ("suffix", "did-suffix"):
        return _Suffixes(posts, _VALUE[name])
    if name == "keyword":
        return _Keywords(posts)
    if name.endswith("~"):
        return _Patterns(posts, _VALUE[name[:-1]])
    if name in _WIDTH:
        return _Prefixes(posts, _WIDTH[name], _VALUE[name])
    return _Equal(posts, _VALUE[name])


_SURE = Purpose.MATCH.least


def _of_identity(part: str) -> Callable[[View], str]:
    """A part of the identity of whoever sent the flow; empty, which no rule wants, for somebody not known well."""

    def value(view: View) -> str:
        identity = view.flow.identity
        if identity is None or identity.trust < _SURE:
            return ""
        text: str = getattr(identity, part)
        return text

    return value


def _number(side: Callable[[View], Address | None], family: int) -> Callable[[View], int]:
    def value(view: View) -> int:
        address = side(view)
        return address[1] if address is not None and address[0] == family else -1

    return value


_IP: dict[str, Callable[[View], str]] = {"dst": lambda view: view.flow.dst_ip, "src": lambda view: view.flow.src_ip}
_VALUE: dict[str, Callable[[View], Any]] = {
    "any": lambda view: 0,
    "host": lambda view: view.host,
    "suffix": lambda view: view.host,
    "did": _of_identity("did"),
    "did-suffix": _of_identity("host"),
    "owner": _of_identity("owner"),
    "zone": _of_identity("zone"),
    "trust": lambda view: None if view.flow.identity is None else view.flow.identity.trust,
    "process": lambda view: view.flow.process.lower(),
    "path": lambda view: view.flow.process_path.lower(),
    "network": lambda view: view.flow.network,
    "in-type": lambda view: view.flow.kind.upper(),
    "in-name": lambda view: view.flow.in_name,
    "in-user": lambda view: view.flow.in_user,
    "rematch": lambda view: view.flow.rematch,
    "dst-port": lambda view: view.flow.dst_port,
    "src-port": lambda view: view.flow.src_port,
    "in-port": lambda view: view.flow.in_port,
    "uid": lambda view: view.flow.uid,
    "dscp": lambda view: view.flow.dscp,
    "dst4": _number(View.dst, 4),
    "dst6": _number(View.dst, 6),
    "src4": _number(View.src, 4),
    "src6": _number(View.src, 6),
}
_WIDTH = {
    **{_COLUMN_OF[word]: limit.bit_length() for word, limit in NUMBER_LIMITS.items()},
    "dst4": 32,
    "dst6": 128,
    "src4": 32,
    "src6": 128,
}


# conditions: a rule alone, for what no column can say


def _condition(rule: Rule, around: Surroundings) -> Condition:
    match rule:
        case Logic():
            return _LOGIC[rule.word]([_condition(part, around) for part in rule.parts])
        case SubRule():
            return _sub_condition(rule, around)
        case InSet():
            return _set_condition(rule, around.slot(rule.name))
        case Text(word="GEOSITE"):
            site = around.geo.site(rule.text)
            return lambda view: YES if view.host and site.match(view.host) else NO
        case Cidr() if rule.word.endswith("IP-SUFFIX"):
            return _on_address(rule, _suffix_test(rule))
        case Place() if (addresses := _country_set(rule, around.geo)) is not None:
            return _on_address(rule, addresses.has)
    return _alone(rule, around)


def _alone(rule: Rule, around: Surroundings) -> Condition:
    """A rule that has columns, by itself."""
    holds = _within(rule) if isinstance(rule, Numbers) else _in_columns(rule, around.geo)
    asks_address = isinstance(rule, OnAddress) and rule.asks
    asks_process = rule.word in _OF_PROCESS

    def condition(view: View) -> int:
        if asks_address and view.can_ask_address:
            return ADDRESS
        if asks_process and view.can_ask_process:
            return PROCESS
        return YES if holds(view) else NO

    return condition


def _within(rule: Numbers) -> Callable[[View], bool]:
    value, ranges = _VALUE[_COLUMN_OF[rule.word]], rule.ranges
    if len(ranges) == 1:
        ((first, last),) = ranges
        return lambda view: first <= value(view) <= last

    def holds(view: View) -> bool:
        number = value(view)
        return any(low <= number <= high for low, high in ranges)

    return holds


def _in_columns(rule: Rule, geo: Geo) -> Callable[[View], bool]:
    plain = _entries(rule, geo)
    if plain is None:
        raise Misuse(f"{rule.word} has neither a column nor a condition")
    posts: dict[str, dict[Any, Posting]] = {}
    for name, key in plain[0]:
        posts.setdefault(name, {})[key] = 0
    columns = [_column(name, keys, geo).postings for name, keys in posts.items()]
    if len(columns) == 1:
        (only,) = columns
        return lambda view: bool(only(view))

    return lambda view: any(postings(view) for postings in columns)


def _country_set(rule: Place, geo: Geo) -> CidrSet | None:
    return None if rule.code == "lan" or rule.word.endswith("IP-ASN") else geo.country_set(rule.code)


def _on_address(rule: OnAddress, test: Callable[[Address], bool]) -> Condition:
    side, asks = (View.src, False) if rule.src else (View.dst, rule.asks)

    def condition(view: View) -> int:
        address = side(view)
        if address is None:
            return ADDRESS if asks and view.can_ask_address else NO
        return YES if test(address) else NO

    return condition


def _suffix_test(rule: Cidr) -> Callable[[Address], bool]:
    family, number, bits = rule.prefix
    mask = (1 << bits) - 1
    return lambda address: address[0] == family and (address[1] ^ number) & mask == 0


def _set_condition(rule: InSet, slot: SetSlot) -> Condition:
    swap, asks = rule.swap, not (rule.swap or rule.no_resolve)
    side = View.src if swap else View.dst

    def condition(view: View) -> int:
        content = slot.content
        if content.domains is not None:
            return YES if view.host and content.domains.match(view.host) else NO
        if content.cidrs is not None:
            address = side(view)
            if address is None:
                return ADDRESS if asks and view.can_ask_address else NO
            return YES if content.cidrs.has(address) else NO
        found = slot.classical.first(view if asks else view.unasking(swap))
        return found & 3 if found >= 0 else NO

    return condition


def _sub_condition(rule: SubRule, around: Surroundings) -> Condition:
    when = _condition(rule.condition, around)
    table = around.sub_index(rule.outbound)

    def condition(view: View) -> int:
        said = when(view)
        if said != YES:
            return said
        found = table.first(view)
        return found & 3 if found >= 0 else NO

    return condition


def _all(parts: list[Condition]) -> Condition:
    def condition(view: View) -> int:
        for part in parts:
            said = part(view)
            if said != YES:
                return said
        return YES

    return condition


def _any(parts: list[Condition]) -> Condition:
    def condition(view: View) -> int:
        for part in parts:
            said = part(view)
            if said != NO:
                return said
        return NO

    return condition


def _not(parts: list[Condition]) -> Condition:
    (part,) = parts

    def condition(view: View) -> int:
        said = part(view)
        return NO if said == YES else YES if said == NO else said

    return condition


_LOGIC: dict[str, Callable[[list[Condition]], Condition]] = {"AND": _all, "OR": _any, "NOT": _not}

"""Who may ask what, and when: which lists and own rules count for a client, and what they make of a question.

A client belongs to one *view*: the one its address is written in, else its MAC address, else its name, else the
longest prefix around its address, else the default.  What a question comes to depends on the view alone, so answers
can be cached by ``View.key``; the key also holds which schedules run and which ``$client`` rules are for this client.
It is good until ``Policy.next_change``.

The owner's own rules come before all lists: those for everybody and those of the view together, weighed as in
``judgement``.  Then a schedule may block everything; then the lists are asked.

Nothing here changes but the memory of views already made up.  New lists make a new ``Policy``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from cyfs_ns.adblock import parse_rewrite
from cyfs_ns.address import WIDTH, parse_address, parse_prefix, spell
from cyfs_ns.blockanswer import BlockAnswer
from cyfs_ns.errors import ConfigFault
from cyfs_ns.judgement import FILTERED, PASS, Action, Judgement, Match
from cyfs_ns.listcompile import ListSource, compile_entries
from cyfs_ns.listlines import read_own
from cyfs_ns.listrule import Effect, Entry, Who
from cyfs_ns.lists import ListSet
from cyfs_ns.schedule import Schedule

_REMEMBERED = 4096  # clients whose view is kept
_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}")


class Client(NamedTuple):
    """Who asks: canonical address, and what leases and neighbours tell of it (MAC as ``normal_mac`` has it)."""

    ip: str
    mac: str = ""
    names: tuple[str, ...] = ()
    """Lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """While ``when`` holds: ``lists`` count too; None: nothing is answered at all but what the owner allows."""

    when: Schedule
    lists: tuple[str, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSpec:
    """One kind of client as configured.  The default view has no ``match``; its own rules hold for everybody."""

    name: str
    match: tuple[str, ...] = ()
    """Addresses, prefixes, MAC addresses and client names."""
    tags: tuple[str, ...] = ()
    """What ``$ctag`` rules go by."""
    lists: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    rewrites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Pattern to what ``$dnsrewrite`` may be set to: addresses, a name, a response code."""
    pauses: tuple[Pause, ...] = ()
    group: str = ""
    """Name of the upstream group; empty: the usual one."""
    answer: BlockAnswer = field(default_factory=BlockAnswer)
    refuse: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What counts for a client now."""

    key: tuple[int, ...]
    """Answers may be cached by it; small numbers, so that it hashes quickly."""
    spec: ViewSpec
    lists: int
    own: int
    whos: frozenset[Who]
    paused: str = ""
    """Name of the schedule that blocks everything."""
    shelf: str = ""
    """What ready-made answers for it are kept under: ``key``, spelt."""
    silent: bool = False
    """Whether every question and answer passes."""


class Policy:
    """The views, over the lists of the house.  Raises ConfigFault naming every fault of the specs."""

    def __init__(self, views: Sequence[ViewSpec], lists: ListSet) -> None:
        """The first view is the default."""
        self._specs, self._lists = tuple(views), lists
        self._own = ListSet(compile_entries(_own_groups(views)))
        self._exact: dict[str, int] = {}
        self._prefixes: list[tuple[int, int, int, int]] = []  # bits, family, number, view; longest first
        for at, spec in enumerate(views):
            for word in spec.match:
                self._place(word, at)
        self._prefixes.sort(reverse=True)
        self._whos = tuple(sorted(lists.whos | self._own.whos))
        self.by_address = not self._whos and all(parse_address(word) is not None for word in self._exact)
        """Whether a client's address alone decides its view, apart from the time."""
        self._known: dict[Client, View] = {}
        self._same: dict[tuple[int, frozenset[int], frozenset[Who]], View] = {}
        self._since = self._until = 0.0

    def view_of(self, client: Client, now: float) -> View:
        """The view of a client at ``now``, seconds since 1970; the same object for all whose key is the same."""
        if not self._since <= now < self._until:
            self._known.clear()
            self._since, self._until = now, self.next_change(now) or float("inf")
        view = self._known.get(client)
        if view is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            view = self._known[client] = self._made(client, now)
        return view

    def next_change(self, now: float) -> float | None:
        """When a schedule next begins or ends, so that views and what was cached by them are to be made anew."""
        changes = [pause.when.next_change(now) for spec in self._specs for pause in spec.pauses]
        return min((change for change in changes if change is not None), default=None)

    def judge(self, view: View, name: str, rtype: int) -> Judgement:
        """What becomes of a question, or of a name or address in an answer; ``name`` is canonical text."""
        if view.spec.refuse:
            return Judgement(Action.REFUSE, view.spec.name, "refuse: true", ede=FILTERED)
        if view.own:
            judged = self._own.judge(name, rtype, view.own, view.whos)
            if judged.action is Action.BLOCK and not judged.list.startswith(_EVERYBODY):
                return replace(judged, ede=FILTERED)
            if judged is not PASS:
                return judged
        if view.paused:
            return Judgement(Action.BLOCK, view.spec.name, view.paused, ede=FILTERED)
        return self._lists.judge(name, rtype, view.lists, view.whos)

    def matches(self, view: View, name: str, rtype: int) -> list[Match]:
        """All rules that hold for a question, those that lose as well: for people who ask why."""
        own = self._own.matches(name, rtype, view.own, view.whos) if view.own else []
        return own + self._lists.matches(name, rtype, view.lists, view.whos)

    def _place(self, word: str, at: int) -> None:
        prefix = parse_prefix(word)
        if prefix is not None:
            shift = WIDTH[prefix.family] - prefix.bits
            self._prefixes.append((prefix.bits, prefix.family, prefix.number >> shift, at))
        elif "/" in word:
            raise ConfigFault(f"{word[:60]!r} is not a prefix: write 192.0.2.0/24 or 2001:db8::/32")
        else:
            self._exact.setdefault(_spelling(word), at)

    def _spec_at(self, client: Client) -> int:
        for word in (client.ip, client.mac, *client.names):
            if word and (at := self._exact.get(word)) is not None:
                return at
        address = parse_address(client.ip)
        if address is not None:
            for bits, family, number, at in self._prefixes:
                if family == address[0] and address[1] >> (WIDTH[family] - bits) == number:
                    return at
        return 0

    def _made(self, client: Client, now: float) -> View:
        at = self._spec_at(client)
        spec = self._specs[at]
        running = frozenset(place for place, pause in enumerate(spec.pauses) if pause.when.holds(now))
        whos = frozenset(who for who in self._whos if _is_for(who, client, spec))
        found = self._same.get((at, running, whos))
        if found is None:
            key = (at, sum(1 << place for place in running), sum(1 << self._whos.index(who) for who in whos))
            names = [*spec.lists, *(name for place in running for name in spec.pauses[place].lists or ())]
            lists = self._lists.bits(names)
            own = self._own.bits(_own_names(_EVERYBODY) + (_own_names(_of(spec)) if at else ()))
            paused = next((spec.pauses[p].name or "schedule" for p in running if spec.pauses[p].lists is None), "")
            found = View(
                key=key,
                shelf=repr(key),
                spec=spec,
                lists=lists,
                own=own,
                whos=whos,
                paused=paused,
                silent=not (own or lists or paused or spec.refuse),
            )
            self._same[at, running, whos] = found
        return found


def normal_mac(text: str) -> str:
    """A MAC address as ``aa:bb:cc:dd:ee:ff``, or empty when it is none."""
    text = text.lower()
    return text.replace("-", ":") if _MAC.fullmatch(text) else ""


def _spelling(word: str) -> str:
    """An address, a MAC address or a name as ``Client`` has it."""
    address = parse_address(word)
    return spell(*address) if address is not None else normal_mac(word) or word.lower()


_EVERYBODY = "own"
_Fits: TypeAlias = Callable[[str], bool]


def _of(spec: ViewSpec) -> str:
    return f"client {spec.name}"


def _own_names(owner: str) -> tuple[str, ...]:
    return f"{owner} rewrites", f"{owner} allow", f"{owner} block"


def _own_groups(views: Sequence[ViewSpec]) -> list[tuple[ListSource, list[Entry]]]:
    groups = []
    faults: list[str] = []
    for at, spec in enumerate(views):
        rewrites, allow, block = _own_names(_of(spec) if at else _EVERYBODY)
        groups += [
            (ListSource(name=rewrites, rewrites=True), list(_rewriting(spec.rewrites, faults))),
            (ListSource(name=allow, allow=True), list(_patterns(spec.allow, faults))),
            (ListSource(name=block, rewrites=True), list(_patterns(spec.block, faults))),
        ]
    if faults:
        raise ConfigFault("; ".join(faults))
    return [group for group in groups if group[1]]


def _patterns(patterns: Iterable[str], faults: list[str]) -> Iterable[Entry]:
    for pattern in patterns:
        try:
            yield from read_own(pattern)
        except ConfigFault as fault:
            faults.append(str(fault))


def _rewriting(rewrites: Mapping[str, tuple[str, ...]], faults: list[str]) -> Iterable[Entry]:
    for pattern, values in rewrites.items():
        try:
            for value in values:
                made = parse_rewrite(value)
                for name, rule in read_own(pattern):
                    text = f"{pattern}: {value}"
                    yield Entry(name, replace(rule, effect=Effect.REWRITE, rewrite=made, text=text))
        except ConfigFault as fault:
            faults.append(f"{pattern}: {fault}")


def _is_for(who: Who, client: Client, spec: ViewSpec) -> bool:
    return _chosen(who.clients, lambda word: _is_client(word, client, spec)) and _chosen(
        who.tags, lambda word: word in spec.tags
    )


def _chosen(words: Sequence[str], fits: _Fits) -> bool:
    """Whether none of the excepted fits, and one of the others does, if there are others."""
    wanted = [word for word in words if not word.startswith("~")]
    return not any(fits(word[1:]) for word in words if word.startswith("~")) and (not wanted or any(map(fits, wanted)))


def _is_client(word: str, client: Client, spec: ViewSpec) -> bool:
    prefix = parse_prefix(word)
    address = parse_address(client.ip)
    if prefix is not None and address is not None:
        shift = WIDTH[prefix.family] - prefix.bits
        return prefix.family == address[0] and prefix.number >> shift == address[1] >> shift
    spelt = _spelling(word)
    return spelt in (client.ip, spec.name.lower(), client.mac, *client.names)

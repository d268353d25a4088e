"""Answers ready to be sent again: the wire form of what was answered once, found by the octets of the question.

The key is the query after its id, exactly as sent: flags, type, EDNS and all.  What else decides an answer is who asks
and through which kind of door, so there is a table for each *view* (the rules that hold for a client) at each *door*.
A hit then costs two look-ups and a copy, and nothing of the message is taken apart:

* the id is the client's, because an answer is kept without one and written behind it;
* TTLs are counted down at most once a second for each answer, in place;
* the second look is for names in mixed case: the *name* is folded (never the type: 65 would become 97), and the
  client's spelling goes back into the answer;
* a question with a cookie, a client subnet or any option we do not know is not kept: its answer is for one client only.

An answer leaves at the second it was kept for, or by :meth:`Hot.flush`.  Tables and clients are bounded: each is held
in two generations.  When the younger is full, the elder is forgotten and the younger takes its place; what is asked for
in between moves back to the younger.  That is "least recently used" within a factor of two, without a list to keep.

An entry is kept small, since there are as many as there is room for: what it is counted as, beside its ``label``, is
read from its own octets.  Entries that were hit stand in a queue, and whoever counts takes from its head as many as
there is time for.

Seconds are whole seconds of a monotonic clock, ``int(now)``, here and wherever an age is told: the age of an answer is
``int(now) - int(born)``.  So hot and cold say the same TTL in the same instant.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import NamedTuple, Protocol, TypeAlias

from cyfs_ns import edns
from cyfs_ns.address import canonical
from cyfs_ns.cookies import Cookies
from cyfs_ns.edns import Edns
from cyfs_ns.query import REFUSED, TC, Query, read_query
from cyfs_ns.ratelimit import RateLimit
from cyfs_ns.reply import Reply, make_reply, render, shape_of
from cyfs_ns.store import Origin
from cyfs_ns.wire import is_under

SILENCE = b""
"""What :meth:`HotDoor.answer` says when nothing shall be sent."""

MAX_CLIENTS = 8192
UNLIMITED = 1 << 60

_TTL = Struct("!I")
_COUNTS = Struct("!3H")
_HEAD = 10  # octets of the header behind the id
_MAX_QUERY = 512
_MAX_ANSWER = 4096  # what a batch has room for
_MAX_COUNTED = 65536  # counts that wait to be harvested
_MOST_LAYOUTS = 1024
_ENTRY_COST = 300  # octets of an entry's objects and its place in the dict, beside key and answer: measured
_SHARED_OPTIONS = frozenset({edns.PADDING, edns.KEEPALIVE})
_PROHIBITED = 18  # extended error (RFC 8914)


class Admission(NamedTuple):
    """How a client is served."""

    view: str
    """The name of the rules that hold for it."""
    limited: bool = False
    """Whether its network's rate limit counts."""


class HotEntry:
    """One answer, right for ``second``."""

    __slots__ = ("_name_end", "hits", "label", "origin", "second", "size", "tail", "ttl_ats", "until")

    def __init__(
        self,
        tail: bytes,
        ttl_ats: tuple[int, ...],
        second: int,
        until: int,
        label: object,
        origin: Origin | None = None,
    ) -> None:
        self.tail = tail
        self.size = len(tail) + 2
        self.ttl_ats = ttl_ats
        self.second = second
        self.until = until
        self.hits = 0
        """Not yet counted; as long as there are any, it stands in its table's queue."""
        self.label = label
        self.origin = origin
        self._name_end = 0

    @property
    def about(self) -> tuple[bytes, int]:
        """Name (wire, lower case) and type."""
        tail, end = self.tail, self._name_end
        if not end:
            end = self._name_end = _name_end(tail)
        return tail[_HEAD:end], tail[end] << 8 | tail[end + 1]

    def age(self, second: int) -> bool:
        """Bring the TTLs to ``second``; False when the answer's time is over."""
        if second >= self.until:
            return False
        passed = second - self.second
        if passed > 0:
            tail = bytearray(self.tail)
            for at in self.ttl_ats:
                _TTL.pack_into(tail, at, max(0, _TTL.unpack_from(tail, at)[0] - passed))
            self.tail = bytes(tail)
            self.second = second
        return True


class HotTable:
    """The answers of one view at one kind of door, in about ``max_bytes``."""

    __slots__ = ("_elder", "_layouts", "_max_bytes", "_size", "entries", "hit")

    def __init__(self, max_bytes: int) -> None:
        self.entries: dict[bytes, HotEntry] = {}
        """The younger generation, by the query without its id; the dict stays the same for good."""
        self.hit: deque[HotEntry] = deque()
        """Entries with hits, also such as have left; each stands here once."""
        self._elder: dict[bytes, HotEntry] = {}
        self._layouts: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._size = 0
        self._max_bytes = max_bytes

    def put(
        self,
        query: Query,
        wire: bytes,
        answer: bytes | bytearray,
        reply: Reply,
        second: int,
        until: int,
        label: object,
        *,
        origin: Origin | None = None,
        fixed: int = 0,
    ) -> bool:
        """Keep ``answer``, which is ``reply`` rendered at ``second`` for ``query`` (``wire``), up to second ``until``.

        ``label`` and ``origin``, the entry of the cache it comes from, come back with the count of hits; the first
        ``fixed`` TTLs are not counted down.  False: an answer that cannot be shared.
        """
        if until <= second or len(wire) > _MAX_QUERY or len(answer) > _MAX_ANSWER:
            return False
        if query.edns is not None and not _shareable(query.edns):
            return False
        after = _HEAD + len(query.question)
        key, tail = wire[2:], bytes(answer[2:])
        if query.question != reply.question:
            key = key[:_HEAD] + reply.question + key[after:]
            tail = tail[:_HEAD] + reply.question + tail[after:]
        # A message that had to be cut has fewer records than the reply, the last ones missing.
        answers, authorities, additionals = _COUNTS.unpack_from(tail, 4)
        kept = answers + authorities + additionals - (query.edns is not None)
        ttl_ats = reply.ttl_ats[fixed:kept]
        # Most answers are laid out like many others.
        layout = self._layouts.get(ttl_ats)
        if layout is None:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[ttl_ats] = tuple([at - 2 for at in ttl_ats])
        self._insert(key, HotEntry(tail, layout, second, until, label, origin))
        return True

    def adopt(self, query: bytes, entry: HotEntry) -> None:
        """Keep an answer another table kept for ``query``."""
        self._insert(_folded(query[2:]), entry)

    def peek(self, query: bytes) -> HotEntry | None:
        """What is kept for ``query``, whatever its age; not counted as asked for."""
        key = _folded(query[2:])
        return self.entries.get(key) or self._elder.get(key)

    def add_hits(self, query: bytes, times: int) -> None:
        """Count hits another table had for ``query``; lost if the answer has left here."""
        entry = self.peek(query)
        if entry is not None and times:
            self.count(entry, times)

    def count(self, entry: HotEntry, times: int = 1) -> None:
        """Count hits of one of our entries."""
        if not entry.hits:
            self.hit.append(entry)
        entry.hits += times

    def find(self, tail: bytes, second: int) -> tuple[HotEntry, bytes] | None:
        """The answer to a query without its id, with what is to be sent behind the id."""
        entry = self.entries.get(tail)
        if entry is None and self._elder:
            entry = self._recall(tail)
        if entry is not None:
            return (entry, entry.tail) if entry.second == second or entry.age(second) else None
        if tail.lower() == tail:
            return None
        end = _name_end(tail)
        name = tail[_HEAD:end]
        folded = name.lower()
        if folded == name:
            return None
        entry = self._recall(tail[:_HEAD] + folded + tail[end:])
        if entry is None or not (entry.second == second or entry.age(second)):
            return None
        return entry, entry.tail[:_HEAD] + name + entry.tail[end:]

    def drop(self, name: bytes, *, below: bool = False) -> int:
        """Forget the answers about ``name`` (lower-case wire form), and about all below it if ``below``; how many."""
        dropped = 0
        for generation in (self.entries, self._elder):
            # The cheap look first: this walks the whole table.
            gone = [key for key in generation if name in key and _is_about(key, name, below)]
            for key in gone:
                entry = generation.pop(key)
                if generation is self.entries:
                    self._size -= _cost(key, entry)
            dropped += len(gone)
        return dropped

    def clear(self) -> int:
        """Forget everything; how many."""
        dropped = len(self)
        self.entries.clear()
        self._elder.clear()
        self._size = 0
        return dropped

    def harvest(self) -> Iterator[tuple[HotEntry, int]]:
        """Entries that were hit up to now, and how often since the last time.  What is not fetched stays."""
        for _ in range(len(self.hit)):
            if not self.hit:
                return
            entry = self.hit.popleft()
            times, entry.hits = entry.hits, 0
            yield entry, times

    def __len__(self) -> int:
        return len(self.entries) + len(self._elder)

    def _recall(self, key: bytes) -> HotEntry | None:
        entry = self.entries.get(key)
        if entry is None:
            entry = self._elder.pop(key, None)
            if entry is not None:
                self._insert(key, entry)
        return entry

    def _insert(self, key: bytes, entry: HotEntry) -> None:
        replaced = self.entries.get(key)
        if replaced is not None:
            self._size -= _cost(key, replaced)
        elif self._elder:
            self._elder.pop(key, None)
        cost = _ENTRY_COST + len(key) + len(entry.tail)
        if self._size + cost > self._max_bytes // 2:
            self._elder = dict(self.entries)
            self.entries.clear()
            self._elder.pop(key, None)
            self._size = 0
        self.entries[key] = entry
        self._size += cost
        if len(self.hit) > _MAX_COUNTED:
            # Nobody counts, and what has left must not be kept for that.
            for _ in self.harvest():
                pass


class HotClient:
    """One client of one door: its view's answers, and how many it may have before the rate limit is asked again."""

    __slots__ = ("address", "entries", "granted", "ip", "left", "limited", "pending", "table", "view")

    def __init__(self, address: bytes, view: str, table: HotTable, *, limited: bool) -> None:
        self.address = address
        self.ip = canonical(address)
        """The canonical text of it."""
        self.view = view
        self.table = table
        self.entries = table.entries
        self.limited = limited
        self.left = self.granted = 0 if limited else UNLIMITED
        self.pending = 0
        """Questions of it that are on the long way."""

    def take_count(self) -> int:
        """Answers since the last time."""
        count = self.granted - self.left
        self.granted = self.left
        return count


Judge: TypeAlias = Callable[[bytes], Admission | None]
"""How the client of that address (4 or 16 octets) is served; ``None``: it may not ask here."""


class HotDoor:
    """All clients of one kind of door."""

    def __init__(
        self,
        judge: Judge,
        *,
        limit: RateLimit | None = None,
        refuse: bool = True,
        max_bytes: int = 16 << 20,
    ) -> None:
        """``limit`` is for doors whose clients could be forged.  ``refuse``: strangers hear REFUSED, else nothing.

        ``max_bytes`` bounds the table of each view.
        """
        self.clients: dict[bytes, HotClient] = {}
        """The younger generation, by address; the dict stays the same for good."""
        self.journal: list[tuple[HotClient, HotEntry]] | None = None
        """Where set, every hit is written down, for a query log; whoever sets it empties it."""
        self._elder: dict[bytes, HotClient] = {}
        self._strangers: set[bytes] = set()
        self._tables: dict[str, HotTable] = {}
        self._judge = judge
        self.limit = limit
        self.refuse = refuse
        self.max_bytes = max_bytes
        self.vouch: Callable[[bytes, bytes], bool] | None = None
        """Whether a query shows that it really comes from that address; then it may go over the limit."""
        self._counted: Counter[bytes] = Counter()

    def answer(self, address: bytes, query: bytes, second: int) -> bytes | None:
        """The answer to ``query`` from ``address``; ``SILENCE``; or ``None``: go the long way.  Never raises."""
        client = self.clients.get(address) or self.client(address)
        if client is None:
            return self._turn_away(address, query, second)
        if not client.left and not self._refill(client, second):
            return self._hold_off(address, query, second)
        client.left -= 1
        found = client.table.find(query[2:], second)
        if found is None:
            # Allowed, but not counted here: whoever answers counts it.
            client.granted -= 1
            return None
        entry, tail = found
        client.table.count(entry)
        if self.journal is not None:
            self.journal.append((client, entry))
        return query[:2] + tail

    def client(self, address: bytes) -> HotClient | None:
        """The client of that address, judged when it is new or long forgotten; ``None``: a stranger."""
        client = self.clients.get(address)
        if client is None:
            client = self._elder.pop(address, None)
            if client is not None:
                self._enter(client)
            elif address not in self._strangers:
                client = self.admit(address, self._judge(address))
        return client

    def admit(self, address: bytes, admission: Admission | None) -> HotClient | None:
        """Serve the client of that address so from now on."""
        if admission is None:
            for generation in (self.clients, self._elder):
                if address in generation:
                    self._count((generation.pop(address),))
            if len(self._strangers) >= MAX_CLIENTS:
                self._strangers.clear()
            self._strangers.add(address)
            return None
        limited = admission.limited and self.limit is not None
        client = HotClient(address, admission.view, self.table(admission.view), limited=limited)
        former = self.clients.get(address)
        if former is not None:
            self._count((former,))
        self._enter(client)
        return client

    def add_hits(self, address: bytes, times: int) -> None:
        """Count hits that client had elsewhere."""
        self._counted[address] += times

    def _enter(self, client: HotClient) -> None:
        if len(self.clients) >= MAX_CLIENTS // 2:
            self._count(self._elder.values())
            self._elder = dict(self.clients)
            self.clients.clear()
        self.clients[client.address] = client

    def table(self, view: str) -> HotTable:
        """The answers of ``view``."""
        table = self._tables.get(view)
        if table is None:
            table = self._tables[view] = HotTable(self.max_bytes)
        return table

    def tables(self) -> Iterator[tuple[str, HotTable]]:
        """All views that were asked for, with their answers."""
        yield from self._tables.items()

    def obey(self, limit: RateLimit | None, *, refuse: bool) -> None:
        """Go by another limit and other manners from now on, and judge everybody anew."""
        self.limit, self.refuse = limit, refuse
        self.forget_clients()

    def forget_clients(self) -> None:
        """Judge everybody anew: rules, views or their hours have changed."""
        for generation in (self.clients, self._elder):
            self._count(generation.values())
            generation.clear()
        self._strangers.clear()

    def harvest_clients(self) -> dict[bytes, int]:
        """Hits by client address since the last time."""
        for generation in (self.clients, self._elder):
            self._count(generation.values())
        counted, self._counted = self._counted, Counter()
        return counted

    def _count(self, clients: Iterable[HotClient]) -> None:
        for client in clients:
            count = client.take_count()
            if count and (len(self._counted) < _MAX_COUNTED or client.address in self._counted):
                self._counted[client.address] += count

    def _refill(self, client: HotClient, second: int) -> int:
        lot = UNLIMITED if not client.limited or self.limit is None else self.limit.lease(client.address, second)
        client.left += lot
        client.granted += lot
        return lot

    def _turn_away(self, address: bytes, query: bytes, second: int) -> bytes:
        if not self.refuse or (self.limit is not None and not self.limit.lease(address, second, 1)):
            return SILENCE
        return _bare_answer(query, REFUSED, 0)

    def _hold_off(self, address: bytes, query: bytes, second: int) -> bytes | None:
        if self.vouch is not None and self.vouch(address, query):
            return None
        if self.limit is None or not self.limit.slips(address, second):
            return SILENCE
        return _bare_answer(query, 0, TC)


class Follower(Protocol):
    """Who keeps a copy of hot answers and must hear of what no longer holds."""

    def flushed(self, name: bytes | None, *, below: bool) -> None: ...
    def clients_forgotten(self) -> None: ...
    def renewed(self) -> None: ...


class Hot:
    """The doors of one server, by kind: ``udp``, ``tcp``, ``tls``, ``https``."""

    def __init__(self, doors: dict[str, HotDoor]) -> None:
        self.doors = doors
        self.followers: list[Follower] = []
        self.chores: Iterator[None] = iter(())
        """What can wait, in pieces of some microseconds.  The UDP door takes one whenever it has answered what came:
        then the next question is likeliest to be far."""
        self.cookies: Cookies | None = None
        """What followers vouch by, too."""

    def answer(self, address: bytes, query: bytes, door: str, second: int) -> bytes | None:
        """As :meth:`HotDoor.answer`."""
        return self.doors[door].answer(address, query, second)

    def flush(self, name: bytes | None = None, *, below: bool = False) -> int:
        """Forget the answers about ``name`` (lower-case wire form), and about all names under it if ``below``;
        without a name all of them.  How many."""
        tables = [table for door in self.doors.values() for _, table in door.tables()]
        for follower in self.followers:
            follower.flushed(name, below=below)
        if name is None:
            return sum(table.clear() for table in tables)
        return sum(table.drop(name, below=below) for table in tables)

    def forget_clients(self) -> None:
        """As :meth:`HotDoor.forget_clients`, at every door."""
        for follower in self.followers:
            follower.clients_forgotten()
        for door in self.doors.values():
            door.forget_clients()

    def obey(self, limit: RateLimit | None, *, refuse: bool) -> None:
        """As :meth:`HotDoor.obey`, at every door; the limit only where a sender can be forged."""
        for kind, door in self.doors.items():
            door.obey(limit if kind == "udp" else None, refuse=refuse)
        for follower in self.followers:
            follower.renewed()


def _shareable(opt: Edns) -> bool:
    return all(code in _SHARED_OPTIONS and not any(data) for code, data in opt.options)


def _folded(tail: bytes) -> bytes:
    end = _name_end(tail)
    return tail[:_HEAD] + tail[_HEAD:end].lower() + tail[end:]


def _name_end(tail: bytes) -> int:
    """Where the name of a query without id ends; somewhere harmless if it is none."""
    at, size = _HEAD, len(tail)
    while at < size and (length := tail[at]) != 0:
        if length > 63:
            return _HEAD
        at += 1 + length
    return at + 1 if at < size else _HEAD


def _is_about(key: bytes, name: bytes, below: bool) -> bool:
    asked = key[_HEAD : _name_end(key)]
    return asked == name or (below and is_under(asked, name))


def _cost(key: bytes, entry: HotEntry) -> int:
    return _ENTRY_COST + len(key) + len(entry.tail)


def _bare_answer(untrusted: bytes, rcode: int, flag: int) -> bytes:
    """An answer without records, or silence."""
    query = read_query(untrusted)
    if not isinstance(query, Query):
        return query or SILENCE
    ede = ((_PROHIBITED, ""),) if rcode == REFUSED else ()
    answer = render(make_reply(query.question, rcode=rcode, ede=ede), query, shape_of(query, limit=_MAX_QUERY))
    answer[2] |= flag >> 8
    return bytes(answer)

"""Answers remembered, bounded by the bytes they cost: the cache behind the hot tables.

A hundred thousand answers must fit a small router, so an entry is two flat strings of octets, a key and a value, and
becomes a ``Reply`` again only when asked for.  The question is not kept twice: it is part of the key.  When full, the
entry unused for longest goes.

The life of an entry::

    put ── fresh ──────────────────── until ── stale ─────────────────────── too old, forgotten
                      last tenth of a           answered with a TTL of 30,
                      hot name: refresh due     refresh due (RFC 8767)

``Found.refresh`` says that the upstreams should be asked again beside the answer.  Whoever does so reports either by
``put`` or, having failed, by putting a failure: a failure never replaces an answer that still serves, it only stops
refreshing for ``PAUSE`` seconds (RFC 8767 section 5).  Where there is no such answer the failure itself is kept for a
few seconds, or every client's retry would reach the upstreams (RFC 9520 section 3.2); each failure that follows soon
on the last one is kept for twice as long, up to a bound.

Times are seconds of one monotonic clock, passed in.  On disk they are wall-clock times; a clock that is behind the
one that wrote the file cannot say what has expired since, so then everything comes back as stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from math import inf
from struct import Struct
from typing import NamedTuple, NewType
from zlib import crc32

from cyfs_ns.edns import build_ede, read_ede
from cyfs_ns.query import NXDOMAIN
from cyfs_ns.reply import Reply, records, with_ttls
from cyfs_ns.wire import is_under

Key = NewType("Key", bytes)
"""All that tells one kept answer from another: see :func:`key_of`."""

Origin = NewType("Origin", bytearray)
"""An entry, in the hands of whoever answers by what was made of it and has askings to tell
(:meth:`AnswerCache.credit`).  Nobody else looks into it."""

STALE_TTL = 30
"""The TTL of stale answers (RFC 8767 section 4)."""
PAUSE = 30
"""Seconds between attempts to refresh what could not be refreshed (RFC 8767 section 5)."""

_HOT = 2
_CREDITED = 0x80
_MOST_SPARED = 16
_LAST_PART = 10
_ANY = 255
_OVERHEAD = 232
"""Octets an entry costs beside its own: object headers and its places in the table.  Measured, see the tests."""
_MAX_BODY = 0xFFFF - 12 - 259

_KEY = Struct("!BBB")
_DO, _CD = 1, 2
_VALUE = Struct("!BddIIHHHHHHHH")
"""Times asked, and whether others had some to tell; until; paused until; lifetime; the reply's ttl, flags, rcode,
counts, scope; how many TTLs and octets of extended errors follow."""
_START, _HEAD = Struct("!Bdd"), Struct("!BddIIHH")
"""What it begins with: up to the pause, and up to the rcode."""
_ASKED_AT, _UNTIL_AT, _PAUSE_AT = 0, 1, 9
_TIME = Struct("!d")
_ANSWERS = (0, NXDOMAIN)
_NO_SCOPE = 0xFFFF

_FILE = Struct("!8sd")
_MAGIC = b"cyfsdns1"
_ENTRY = Struct("!HII")
_CHUNK = 25
"""Answers to tell at a time, some 40 µs: questions wait for that."""


def key_of(name: bytes, rtype: int, rclass: int, do: bool, cd: bool, group: str, subnet: bytes = b"") -> Key:
    """The key of an answer: ``name`` is a wire name in lower case, ``group`` says whose word it is, ``subnet`` is that
    of the client as it was told, if it was."""
    head = _KEY.pack(len(name), (_DO if do else 0) | (_CD if cd else 0), len(subnet))
    return Key(head + name + (rtype << 16 | rclass).to_bytes(4) + subnet + group.encode())


class Found(NamedTuple):
    """What is remembered about a question."""

    reply: Reply
    age: int
    """Whole seconds since it was put; what its TTLs have lost."""
    stale: bool
    """Its time is over: answer with ``STALE_TTL``, if at all."""
    refresh: bool
    """Ask the upstreams again now, beside this answer."""
    until: float
    """When it stops, or has stopped, being fresh."""
    origin: Origin
    """For :meth:`AnswerCache.credit`."""


class Kept(NamedTuple):
    """What became of an answer that was to be remembered."""

    reply: Reply
    """With the TTLs it has from now on."""
    until: float
    """When it stops being fresh; 0: it is not kept."""
    origin: Origin | None
    """For :meth:`AnswerCache.credit`; ``None``: it is not kept."""


class AnswerCache:
    """``max_bytes`` bounds the memory; the rest are seconds.

    ``min_ttl`` raises the TTLs of positive answers, ``max_ttl`` bounds how long any is kept, ``max_negative`` how long
    "there is none" is (RFC 2308 section 5), ``max_stale`` for how long past its time an answer may still serve (0: not
    at all), ``failure_ttl`` how long a failure is remembered at first and ``max_failure_ttl`` at most (RFC 9520: 1 to
    300).
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        min_ttl: int = 0,
        max_ttl: int = 86400,
        max_negative: int = 3600,
        max_stale: int = 0,
        failure_ttl: int = 5,
        max_failure_ttl: int = 60,
    ) -> None:
        self._entries: OrderedDict[Key, Origin] = OrderedDict()
        self._max_bytes, self._size, self._changes = max_bytes, 0, 0
        self._min_ttl, self._max_ttl, self._max_negative = min_ttl, max_ttl, max_negative
        self._max_stale = max_stale
        self._failure_ttl, self._max_failure_ttl = failure_ttl, max(failure_ttl, max_failure_ttl)
        self._forgiven = -inf
        self._news: dict[Key, None] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Octets of memory in use."""
        return self._size

    @property
    def changes(self) -> int:
        """Grows with every answer remembered, and with every flush: whether there is anything new to save."""
        return self._changes

    def get(self, key: Key, now: float, *, count: bool = True) -> Found | None:
        """What is remembered, or ``None``.  Without ``count`` the look leaves no trace."""
        value = self._entries.get(key)
        if value is None:
            return None
        asked, until, pause, lifetime, *_ = _VALUE.unpack_from(value)
        failure = self._is_failure(value)
        stale = now >= until
        forgiven = failure and until - lifetime <= self._forgiven
        if forgiven or now >= until + (lifetime if failure else self._max_stale):
            self._forget(key)
            return None
        if failure and stale:
            return None  # but how long it was kept is still of use to the next one
        if count:
            self._entries.move_to_end(key)
            value[_ASKED_AT] = asked = min(_HOT, (asked & ~_CREDITED) + 1)
        due = stale or (asked & ~_CREDITED >= _HOT and not failure and (until - now) * _LAST_PART < lifetime)
        age = max(0, int(now) - int(until - lifetime))
        paused = now < pause and pause - PAUSE > self._forgiven
        return Found(_unpack(key, value), age, stale, due and not paused, until, value)

    def forgive(self, now: float) -> None:
        """Failures until now say nothing of what comes: the way to the upstreams is another one."""
        self._forgiven = now

    @staticmethod
    def credit(origin: Origin, times: int) -> None:
        """Count ``times`` askings, 1 or more, that a hot table has answered from what it was given of an entry.

        This is done for thousands a second, so the entry is not moved to those used last: it is spared when its turn
        to leave comes.
        """
        origin[_ASKED_AT] = _CREDITED | min(_HOT, (origin[_ASKED_AT] & ~_CREDITED) + times)

    def put(self, key: Key, reply: Reply, now: float) -> Kept:
        """Remember ``reply`` as far as it may be.  Of failures the place among fresh answers is not told."""
        if reply.rcode not in _ANSWERS:
            self._put_failure(key, reply, now)
            return Kept(reply, 0.0, None)
        # An alias that leads to nothing brings the SOA of that nothing.
        negative = bool(reply.rcode or not reply.counts[0] or (reply.counts[1] and _is_negative(reply)))
        if not negative and reply.ttl < self._min_ttl:
            reply = with_ttls(reply, self._min_ttl, 0x7FFFFFFF)
            lifetime = self._min_ttl
        else:
            lifetime = reply.ttl
        most = min(self._max_ttl, self._max_negative) if negative else self._max_ttl
        if lifetime > most:
            lifetime = most
        if lifetime > 0:
            origin = self._store(key, reply, now, lifetime)
            if origin is not None:
                return Kept(reply, now + lifetime, origin)
        else:
            self._forget(key)
        return Kept(reply, 0.0, None)

    def _put_failure(self, key: Key, reply: Reply, now: float) -> None:
        held = self._entries.get(key)
        if held is None or (not self._is_failure(held) and now >= self._until(held) + self._max_stale):
            self._store(key, reply, now, self._failure_ttl)
        elif not self._is_failure(held):
            _TIME.pack_into(held, _PAUSE_AT, now + PAUSE)
        elif now >= (until := self._until(held)):  # several who waited for one answer report one failure
            lifetime = _VALUE.unpack_from(held)[3]
            again = now < until + lifetime and until - lifetime > self._forgiven
            self._store(key, reply, now, min(2 * lifetime, self._max_failure_ttl) if again else self._failure_ttl)

    def _store(self, key: Key, reply: Reply, now: float, lifetime: int) -> Origin | None:
        if key in self._entries:
            self._forget(key)
        if len(reply.body) > _MAX_BODY or reply.truncated:
            return None
        self._insert(key, _pack(reply, now, lifetime))
        self._changes += 1
        if self._news is not None and reply.rcode in _ANSWERS:
            self._news[key] = None
        return self._entries.get(key)

    def _insert(self, key: Key, value: Origin) -> None:
        self._entries[key] = value
        self._size += len(key) + len(value) + _OVERHEAD
        spared = 0
        while self._size > self._max_bytes:
            eldest = next(iter(self._entries))
            held = self._entries[eldest]
            if held[_ASKED_AT] & _CREDITED and spared < _MOST_SPARED:
                spared += 1
                held[_ASKED_AT] &= ~_CREDITED
                self._entries.move_to_end(eldest)
            else:
                self._forget(eldest)

    def _forget(self, key: Key) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._size -= len(key) + len(value) + _OVERHEAD
            if self._news:
                self._news.pop(key, None)  # or a flood of names would be kept, if only by name, until it is told

    def flush(self, name: bytes | None = None, *, below: bool = False) -> int:
        """Forget all, or what is known of a wire name (lower case), or with ``below`` of all names under it too.

        Returns how many entries went.
        """
        if name is None:
            gone = list(self._entries)
        elif below:
            gone = [key for key in self._entries if is_under(_name(key), name)]
        else:
            head = bytes((len(name),))
            gone = [key for key in self._entries if key[:1] == head and _name(key) == name]
        for key in gone:
            self._forget(key)
        if gone:
            self._changes += 1
            self._news = None
        return len(gone)

    def dump(self, now: float, wall: float) -> Iterator[bytes]:
        """The answers that are worth a restart, in pieces; ``wall`` is seconds since 1970 at ``now``.

        Entries may come and go between the pieces; each is told as it is when its piece is.
        """
        keys, self._news = list(self._entries), {}
        yield _FILE.pack(_MAGIC, wall)
        yield from self._told(keys, now, wall)

    def news(self, now: float, wall: float) -> Iterator[bytes] | None:
        """What was remembered since the last :meth:`dump` or ``news``, to go behind that; ``None``: dump all anew."""
        if self._news is None:
            return None
        keys, self._news = list(self._news), {}
        return chain((_stamp(wall),), self._told(keys, now, wall))

    def _told(self, keys: list[Key], now: float, wall: float) -> Iterator[bytes]:
        for start in range(0, len(keys), _CHUNK):
            piece = bytearray()
            for key in keys[start : start + _CHUNK]:
                held = self._entries.get(key)
                if held is None:
                    continue
                asked, until, _, _, _, _, rcode = _HEAD.unpack_from(held)
                until += wall - now
                if until + self._max_stale > wall and rcode in _ANSWERS:
                    entry = key + _START.pack(asked, until, 0.0) + held[_START.size :]
                    piece += _ENTRY.pack(len(key), len(held), crc32(entry))
                    piece += entry
            yield bytes(piece)

    def load(self, untrusted: bytes, now: float, wall: float) -> int:
        """Take in what ``dump`` and ``news`` told; what is already here stays.  Returns how many answers came.

        A torn end and spoilt entries are left out.
        """
        if len(untrusted) < _FILE.size:
            return 0
        magic, written = _FILE.unpack_from(untrusted)
        if magic != _MAGIC:
            return 0
        at, end = _FILE.size, len(untrusted)
        came: dict[Key, None] = {}
        while at + _ENTRY.size <= end:
            key_size, value_size, check = _ENTRY.unpack_from(untrusted, at)
            at += _ENTRY.size
            middle = at + key_size
            key, value = Key(untrusted[at:middle]), Origin(bytearray(untrusted[middle : middle + value_size]))
            at = middle + value_size
            if at > end or crc32(value, crc32(key)) != check:
                continue
            if not key and len(value) == _TIME.size:
                written = max(written, _TIME.unpack(value)[0])
                continue
            # A file system may leave zeros behind a crash, whose sum is right.
            if len(value) < _VALUE.size or (key in self._entries and key not in came):
                continue
            until = self._until(value) - wall
            self._forget(key)
            came.pop(key, None)
            if until + self._max_stale > 0:
                _TIME.pack_into(value, _UNTIL_AT, now + until)
                self._insert(key, value)
                came[key] = None
        if wall < written:
            self._make_stale(came, now)
        return sum(key in self._entries for key in came)

    def _make_stale(self, keys: Iterable[Key], now: float) -> None:
        for key in keys:
            held = self._entries.get(key)
            if held is not None:
                _TIME.pack_into(held, _UNTIL_AT, min(self._until(held), now))
                if not self._max_stale:
                    self._forget(key)

    @staticmethod
    def _until(value: bytearray) -> float:
        until: float = _TIME.unpack_from(value, _UNTIL_AT)[0]
        return until

    @staticmethod
    def _is_failure(value: bytearray) -> bool:
        return _HEAD.unpack_from(value)[6] not in _ANSWERS


def _stamp(wall: float) -> bytes:
    """An entry without a key: what follows was written then."""
    value = _TIME.pack(wall)
    return _ENTRY.pack(0, len(value), crc32(value)) + value


def _is_negative(reply: Reply) -> bool:
    """Whether answer and authority together say that there is none."""
    rtype = int.from_bytes(reply.question[-4:-2])
    return rtype != _ANY and all(record[1] != rtype for record in records(reply, 0))


def _name(key: Key) -> bytes:
    return key[_KEY.size : _KEY.size + key[0]]


@lru_cache(64)
def _words(count: int) -> Struct:
    """So many numbers of two octets."""
    return Struct(f"!{count}H")


def _pack(reply: Reply, now: float, lifetime: int) -> Origin:
    ede = b""
    if reply.ede:
        ede = b"".join(bytes((len(error),)) + error for _, error in (build_ede(*error) for error in reply.ede))
    head = _VALUE.pack(
        0, now + lifetime, 0.0, lifetime, reply.ttl, reply.flags, reply.rcode, *reply.counts,
        _NO_SCOPE if reply.ecs_scope is None else reply.ecs_scope, len(reply.ttl_ats), len(ede),
    )  # fmt: skip
    ttl_ats = _words(len(reply.ttl_ats)).pack(*reply.ttl_ats)
    # Joined first: a bytearray that grows takes more than it needs.
    return Origin(bytearray(b"".join((head, ttl_ats, ede, reply.body))))


def _unpack(key: Key, value: bytearray) -> Reply:
    _, _, _, _, ttl, flags, rcode, an, ns, ar, scope, ttls, ede_size = _VALUE.unpack_from(value)
    ede_at = _VALUE.size + 2 * ttls
    body_at = ede_at + ede_size
    return Reply(
        question=key[_KEY.size : _KEY.size + key[0] + 4],
        body=bytes(value[body_at:]),
        flags=flags,
        rcode=rcode,
        counts=(an, ns, ar),
        ttl_ats=_words(ttls).unpack_from(value, _VALUE.size),
        ttl=ttl,
        ede=tuple(_edes(bytes(value[ede_at:body_at]))) if ede_size else (),
        ecs_scope=None if scope == _NO_SCOPE else scope,
    )


def _edes(octets: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(octets):
        end = at + 1 + octets[at]
        yield read_ede(octets[at + 1 : end])
        at = end

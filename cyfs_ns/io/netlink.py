"""The firewall's sets and flows, over netlink: addresses put into sets before an answer leaves, marks read from flows.

No ``nft`` or ``ipset`` is started: a message of a hundred octets does the same in microseconds.

*Sets* are written in a worker thread.  A transaction waits in the kernel for whoever changes the firewall at the time
(loading a large ruleset takes it half a second), and the loop that answers everybody must not wait with it; nor does
the answer, beyond its deadline.  What comes in while a transaction waits goes into the next one together.

What was written is remembered until it times out, so that the same answer costs nothing again.  The memory is only as
good as our view of the firewall: :meth:`SetFeeder.watch` hears of every change to nftables, forgets what others removed
and fills a set that was made anew.  ipset tells nobody, so its entries are trusted for a minute.

Elements without a timeout in a set that has timeouts are its owner's, and stay as they are.  (ipset cannot tell them.)

*Marks* are read on the spot: the kernel looks a flow up without waiting for anybody and answers before ``send``
returns.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import logging
import math
import os
import re
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from struct import pack, unpack
from typing import Final, NamedTuple

import trio

from cyfs_ns.conntrack import mark_query, read_mark
from cyfs_ns.errors import BadWire
from cyfs_ns.kernelsets import (
    NFT_WATCHED_GROUP,
    Entry,
    SetShape,
    ipset_add,
    ipset_describe,
    ipset_shape,
    nft_add,
    nft_describe,
    nft_event,
    nft_is_permanent,
    nft_look,
    nft_replace,
    nft_shape,
    nft_transaction,
)
from cyfs_ns.netlink import DONE, ERROR, MULTI, Message, error_number, messages
from cyfs_ns.routersets import Addition, SetTarget

_NETFILTER: Final = 12  # protocols of AF_NETLINK, and options of its sockets
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP, _SHORT_ERRORS = 1, 10
_ATTACH_FILTER = 26
_RECEIVE_SIZE = 1 << 16
_DATAGRAMS = 32  # notices read in one turn; loading a ruleset tells of each of its elements
_KERNEL_PATIENCE = 5  # seconds for one answer of the kernel, in the worker

_CAPACITY = 65536
_MAX_WAITING = 4096
_BATCH = 256  # elements in a transaction: their errors must fit into the socket's buffer
_QUIET = 60.0  # seconds between warnings of a busy kernel
_UNWATCHED = 60.0  # seconds for which entries are trusted where nobody tells of changes
_FOREVER = 86400  # seconds asked for an entry without an end when its set comes back with timeouts

_IPSET_ERRORS, _IPSET_FULL = 4096, 4352

_log = logging.getLogger("cyfs.ns.sets")


class NetlinkSocket:
    """A netlink socket for requests, of the network namespace it is opened in.  Raises ``OSError``."""

    def __init__(self, protocol: int, patience: float) -> None:
        """``patience``: seconds to wait for an answer, 0: it must be there when the request is sent."""
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sock.settimeout(patience)
        self._sock.setsockopt(_SOL_NETLINK, _SHORT_ERRORS, 1)
        self._sock.bind((0, 0))
        self.port: int = self._sock.getsockname()[0]
        """Its address; notices of a change carry that of the socket that asked for it."""
        self._seqs = itertools.cycle(range(1, 1 << 31))

    def numbers(self, count: int) -> list[int]:
        """Fresh sequence numbers."""
        return [next(self._seqs) for _ in range(count)]

    def ask(self, wire: bytes, *last: int) -> list[Message]:
        """Send requests; everything the kernel says up to its last word on one of the numbers ``last``.

        Raises ``OSError`` and ``BadWire``.
        """
        self._sock.sendto(wire, (0, 0))
        heard = []
        while True:
            for reply in messages(self._sock.recv(_RECEIVE_SIZE)):
                heard.append(reply)
                if reply.seq in last and (not reply.flags & MULTI or reply.kind == DONE):
                    return heard

    def close(self) -> None:
        self._sock.close()


def watching_socket(protocol: int, groups: Iterable[int], *, deaf_to: int = 0) -> socket.socket:
    """A non-blocking socket that hears the multicast ``groups``, but not what the socket of port ``deaf_to`` caused.

    The kernel leaves that out: our own changes must not wake us, nor crowd out the notices of others.  Raises
    ``OSError``.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.bind((0, 0))
        if deaf_to:
            code = ctypes.create_string_buffer(_all_but(deaf_to))
            sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, pack("@HP", len(code) // 8, ctypes.addressof(code)))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def _all_but(port: int) -> bytes:
    """A classic BPF program that drops messages of ``port``, which stands at octet 12 of their head."""
    (as_loaded,) = unpack("!I", pack("=I", port))
    program = [(0x20, 0, 0, 12), (0x15, 0, 1, as_loaded), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    return b"".join(pack("=HBBI", *instruction) for instruction in program)


def notices(sock: socket.socket) -> list[Message] | None:
    """What waits on a watching socket, up to a bound; ``None``: some got lost, so ask for what is."""
    heard: list[Message] = []
    lost = False
    for _ in range(_DATAGRAMS):
        try:
            heard += messages(sock.recv(_RECEIVE_SIZE))
        except BlockingIOError:
            break
        except BadWire:
            lost = True
        except OSError as fault:
            if fault.errno != errno.ENOBUFS:
                raise
            lost = True
    return None if lost else heard


class SetFeeder:
    """Puts addresses into the sets of the network namespace it is made in.

    Raises ``OSError`` without netlink or without the right to it (root, or CAP_NET_ADMIN).
    """

    def __init__(self, *, deadline: float = 0.25, updates: bool | None = None) -> None:
        """``deadline``: seconds an answer waits at most.

        ``updates``: the kernel changes the timeout of what is there, as Linux does since 6.12; by default its version
        decides.
        """
        self._deadline = deadline
        self._writer = _Writer(_kernel() >= (6, 12) if updates is None else updates)
        try:
            self._watched = watching_socket(_NETFILTER, (NFT_WATCHED_GROUP,), deaf_to=self._writer.port)
        except OSError:
            self._writer.close()
            raise
        self._waiting: deque[Addition] = deque()
        self._one = trio.CapacityLimiter(1)
        self._quiet_until = -math.inf

    async def add(self, additions: Sequence[Addition]) -> None:
        """Returns when the additions are in their sets or cannot be, or when the deadline has passed; then they follow.

        Failures are logged, once for a set until it works again.
        """
        now = trio.current_time()
        wanted = [addition for addition in additions if self._writer.lacks(addition, now)]
        if not wanted:
            return
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.extendleft(reversed(wanted))  # before the many that fill a set again, for which nobody waits
        with trio.move_on_after(self._deadline) as scope:
            await self._write()
        if scope.cancelled_caught and now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            _log.warning("sets: the kernel takes over %g s to add addresses; answers leave before", self._deadline)

    async def watch(self) -> None:
        """Follow the changes others make to nftables; runs until cancelled.

        While it runs, what was written is trusted to be there, and sets made anew are filled again.
        """
        self._writer.watching = True
        try:
            while True:
                await trio.lowlevel.wait_readable(self._watched)
                self._waiting.extend(self._writer.hear(notices(self._watched), trio.current_time()))
                if self._waiting:
                    await self._write()
        finally:
            self._writer.watching = False

    async def aclose(self) -> None:
        """Give up the sockets.  Nothing may be added or watched any more."""
        trio.lowlevel.notify_closing(self._watched)
        self._watched.close()
        with trio.move_on_after(self._deadline, shield=True):
            await trio.to_thread.run_sync(self._writer.close, limiter=self._one, abandon_on_cancel=True)

    async def _write(self) -> None:
        # The limiter's token stays with an abandoned thread until the kernel lets it go: there is one writer at a time.
        now = trio.current_time()
        await trio.to_thread.run_sync(self._drain, now, limiter=self._one, abandon_on_cancel=True)

    def _drain(self, now: float) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
            self._writer.write(batch, now)


class ConntrackMarks:
    """Reads the marks of flows in the network namespace it is made in.  Raises ``OSError`` without netlink."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETFILTER, 0)
        self._told = False

    def mark(self, protocol: int, client: tuple[str, int], local: tuple[str, int]) -> int:
        """The connection mark of the flow between a client and our socket; 0: it has none, or is not known.

        ``protocol`` is ``IPPROTO_UDP`` or ``IPPROTO_TCP``; addresses are canonical text.  Takes microseconds.
        """
        (seq,) = self._socket.numbers(1)
        try:
            ends = (_packed(client[0]), client[1]), (_packed(local[0]), local[1])
            heard = [reply for reply in self._socket.ask(mark_query(protocol, *ends, seq), seq) if reply.seq == seq]
            fault = error_number(heard[-1])
            if not fault:
                return read_mark(heard[0].body)
        except BadWire:
            return 0
        except OSError as broken:
            fault = broken.errno or errno.EIO
        if fault != errno.ENOENT and not self._told:
            self._told = True
            _log.warning("conntrack: marks cannot be read: %s", _reason(fault))
        return 0

    def close(self) -> None:
        """Give up the socket."""
        self._socket.close()


@dataclass(slots=True)
class _Set:
    """What is known of one set of the kernel."""

    target: SetTarget
    shape: SetShape | None = None
    until: dict[bytes, float] = field(default_factory=dict)
    """When each address we put there times out."""
    trusted: float = 0.0
    """Until when ``until`` is believed."""
    missed: dict[bytes, float] = field(default_factory=dict)
    """What should be there but for a fault, or because the set is gone: for when it is made anew."""
    told: bool = False
    """The owner heard that it fails."""


class _Part(NamedTuple):
    """Entries for one set."""

    known: _Set
    shape: SetShape
    until: dict[bytes, float]
    """The set's memory from before the write: if another one is in its place after it, the write may be undone."""
    entries: list[Entry]


class _Writer:
    """What is known of the sets, and how they are changed.  ``write`` runs in one thread at a time, in a worker.

    The other methods run beside it: each looks at one value or puts a new one in the place of an old one.
    """

    def __init__(self, updates: bool) -> None:
        self.watching = False
        self._updates = updates
        self._socket = NetlinkSocket(_NETFILTER, _KERNEL_PATIENCE)
        self.port = self._socket.port
        self._sets: dict[SetTarget, _Set] = {}

    def lacks(self, addition: Addition, now: float) -> bool:
        """Whether the addition is worth a write."""
        known = self._sets.get(addition.target)
        if known is None:
            return True
        if known.shape is not None and known.shape.width != len(addition.address):
            return False
        until = known.until.get(addition.address)
        return until is None or until < now + addition.needed or known.trusted <= now

    def hear(self, heard: list[Message] | None, now: float) -> list[Addition]:
        """Learn what others did, ``None``: who knows; what should be written again."""
        if heard is None:
            return [again for known in self._nft_sets() for again in _made_anew(known, now)]
        again: list[Addition] = []
        by_table: dict[tuple[str, str], list[_Set]] = {}
        for known in self._nft_sets():
            by_table.setdefault((known.target.family, known.target.table), []).append(known)
        for notice in heard:
            with suppress(BadWire):
                event = nft_event(notice)
                if event is None:
                    continue
                for known in by_table.get((event.family, event.table), ()):
                    if event.name not in ("", known.target.name):
                        continue
                    if event.what == "made":
                        again += _made_anew(known, now)
                    elif event.what == "gone":
                        known.missed, known.until, known.shape = {**known.missed, **known.until}, {}, None
                    else:
                        known.until = {}
        return again

    def write(self, batch: Iterable[Addition], now: float) -> None:
        """Put the addresses into their sets; whatever goes wrong is told to the owner, and nobody else."""
        wanted: dict[SetTarget, dict[bytes, Addition]] = {}
        for addition in batch:
            wanted.setdefault(addition.target, {})[addition.address] = addition
        parts: list[_Part] = []
        for target, additions in wanted.items():
            known = self._sets.setdefault(target, _Set(target))
            if known.trusted <= now:
                known.until = {}
                known.trusted = math.inf if target.family and self.watching else now + _UNWATCHED
            try:
                part = self._part(known, additions.values(), now)
                if part.entries and target.family:
                    parts.append(part)
                elif part.entries:
                    self._write_ipset(part, now)
            except (OSError, BadWire) as fault:
                self._fail(known, fault, now, additions.values())
        if parts:
            try:
                self._write_nft(parts, now)
            except (OSError, BadWire) as fault:
                for part in parts:
                    self._fail(part.known, fault, now, part.entries)

    def close(self) -> None:
        self._socket.close()

    def _nft_sets(self) -> list[_Set]:
        return [known for known in tuple(self._sets.values()) if known.target.family]

    def _part(self, known: _Set, additions: Iterable[Addition], now: float) -> _Part:
        """What of the additions has to be written."""
        until = known.until
        shape = known.shape = known.shape or self._describe(known.target)
        if not shape.width:
            raise BadWire("its type is not a plain address (nft: ipv4_addr or ipv6_addr; ipset: hash:ip)")
        fitting = [addition for addition in additions if len(addition.address) == shape.width]
        if shape.timeouts and known.target.family:
            strange = [addition.address for addition in fitting if until.get(addition.address, 0) <= now]
            for address in self._permanent(known.target, strange):
                _put_bounded(until, address, math.inf)
        entries = [
            Entry(addition.address, addition.timeout if shape.timeouts else 0)
            for addition in fitting
            if until.get(addition.address, 0) < now + addition.needed
        ]
        return _Part(known, shape, until, entries)

    def _describe(self, target: SetTarget) -> SetShape:
        (seq,) = self._socket.numbers(1)
        describe, shape = (nft_describe, nft_shape) if target.family else (ipset_describe, ipset_shape)
        reply = next(reply for reply in self._socket.ask(describe(target, seq), seq) if reply.seq == seq)
        if number := error_number(reply):
            raise OSError(number, "")
        return shape(reply.body)

    def _permanent(self, target: SetTarget, addresses: Sequence[bytes]) -> Iterator[bytes]:
        """Which of the addresses are in the set for ever."""
        if not addresses:
            return
        seqs = dict(zip(self._socket.numbers(len(addresses)), addresses, strict=True))
        wire = b"".join(nft_look(target, address, seq) for seq, address in seqs.items())
        for reply in self._socket.ask(wire, max(seqs)):
            if reply.seq in seqs and reply.kind != ERROR and nft_is_permanent(reply.body):
                yield seqs[reply.seq]

    def _write_ipset(self, part: _Part, now: float) -> None:
        seqs = self._socket.numbers(len(part.entries))
        numbered = list(zip(part.entries, seqs, strict=True))
        wire = b"".join(ipset_add(part.known.target, entry, seq, ack=seq == seqs[-1]) for entry, seq in numbered)
        faults = _faults(self._socket.ask(wire, seqs[-1]))
        for entry, seq in numbered:
            if fault := faults.get(seq):
                self._fail(part.known, OSError(fault, ""), now)
            else:
                self._remember(part, entry, now)

    def _write_nft(self, parts: Sequence[_Part], now: float) -> None:
        """One transaction for all; where it fails, one without those at fault."""
        begin, *seqs = self._socket.numbers(1 + len(parts))
        put = nft_add if self._updates else nft_replace
        body = b"".join(
            put(part.known.target, part.shape, part.entries, seq, ack=seq == seqs[-1])
            for part, seq in zip(parts, seqs, strict=True)
        )
        faults = _faults(self._socket.ask(nft_transaction(body, begin), begin, seqs[-1]))
        if begin in faults:
            raise OSError(faults[begin], "")
        innocent = [part for part, seq in zip(parts, seqs, strict=True) if seq not in faults]
        if faults and innocent:
            self._write_nft(innocent, now)
        elif not faults:
            for part in parts:
                for entry in part.entries:
                    self._remember(part, entry, now)
        for part, fault in ((part, faults[seq]) for part, seq in zip(parts, seqs, strict=True) if seq in faults):
            if len(part.entries) > 1:
                for entry in part.entries:
                    self._write_nft([part._replace(entries=[entry])], now)
            elif fault in (errno.EEXIST, errno.ENOTEMPTY):
                # Within an interval of somebody else's, of which we do not know how long it stays.
                self._remember(part, part.entries[0], now, _UNWATCHED)
            else:
                self._fail(part.known, OSError(fault, ""), now, part.entries)

    def _remember(self, part: _Part, entry: Entry, now: float, at_most: float = math.inf) -> None:
        _put_bounded(part.until, entry.address, now + min(entry.timeout or math.inf, at_most))
        if part.known.told:
            part.known.told = False
            _log.info("%s: works again", part.known.target.rule or part.known.target)

    def _fail(self, known: _Set, fault: OSError | BadWire, now: float, missed: Iterable[Addition | Entry] = ()) -> None:
        known.shape = None
        for entry in missed if known.target.family else ():
            _put_bounded(known.missed, entry.address, now + (entry.timeout or math.inf))
        if not known.told:
            known.told = True
            reason = _reason(fault.errno or errno.EIO, known.target) if isinstance(fault, OSError) else str(fault)
            _log.warning("%s: cannot add addresses: %s", known.target.rule or known.target, reason)


def _put_bounded(until: dict[bytes, float], address: bytes, when: float) -> None:
    """The longest unchanged makes room for the newest."""
    until.pop(address, None)
    if len(until) >= _CAPACITY:
        del until[next(iter(until))]
    until[address] = when


def _made_anew(known: _Set, now: float) -> list[Addition]:
    """Forget what is in a set; all that should be there."""
    held = {**known.missed, **known.until}
    known.missed, known.until, known.shape = {}, {}, None
    return [
        Addition(known.target, address, int(min(until - now, _FOREVER)), 0)
        for address, until in held.items()
        if until > now + 1
    ]


def _faults(heard: Iterable[Message]) -> dict[int, int]:
    return {reply.seq: number for reply in heard if (number := error_number(reply))}


def _reason(number: int, target: SetTarget | None = None) -> str:
    if number == errno.EPERM:
        return "not permitted: run as root, or with the capability CAP_NET_ADMIN"
    if number in (errno.ENFILE, _IPSET_FULL):
        return "the set is full"
    if number == errno.ENOENT and target is not None:
        if target.family:
            where = f"{target.family} {target.table} {target.name}"
            return (
                f"there is no set {target.name!r} in a table {target.table!r} of family {target.family}: "
                f"make it, e.g. nft add set {where} '{{ type ipv4_addr; flags timeout; }}'"
            )
        return f"there is no ipset {target.name!r}: make it, e.g. ipset create {target.name} hash:ip timeout 300"
    return os.strerror(number) if number < _IPSET_ERRORS else f"error {number} of ipset"


def _packed(ip: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    except (OSError, ValueError):
        raise BadWire(f"not an IP address: {ip[:80]!r}") from None


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])

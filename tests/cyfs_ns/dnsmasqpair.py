"""The real dnsmasq and ours, one after the other in the same place: the same file, the same questions."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
from nsprogram import server

from cyfs_ns.dnsmasq import imported_yaml, read_dnsmasq
from cyfs_ns.io.texts import Disk

T = TypeVar("T")

MACHINE = socket.gethostname()
_SOA = ". 300 IN SOA ns.test. host.test. 1 3600 600 86400 300"


class Place(Protocol):
    """Where programs are started and sockets opened."""

    def call(self, function: Callable[..., T], *args: object) -> T: ...


class Here:
    """This very network namespace."""

    def call(self, function: Callable[..., T], *args: object) -> T:
        return function(*args)


@dataclass
class Upstream:
    """A server of a few records; ``*`` for a name is every name without one, ``NXDOMAIN`` for a type denies it."""

    records: Sequence[str] = ()
    """``NAME TTL TYPE DATA``."""
    asked: list[dns.message.Message] = field(default_factory=list)
    down: bool = False

    def __call__(self, query: bytes) -> bytes | None:
        question = dns.message.from_wire(query)
        self.asked.append(question)
        if self.down:
            return None
        return self.answer(question).to_wire()

    def answer(self, question: dns.message.Message) -> dns.message.Message:
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        reply = dns.message.make_response(question, recursion_available=True)
        known = [line.split(None, 3) for line in self.records]
        owned = [words for words in known if words[0] == name] or [words for words in known if words[0] == "*"]
        kind = dns.rdatatype.to_text(asked.rdtype)
        for _, ttl, rtype, data in owned:
            if rtype == kind:
                made = dns.rrset.from_text(asked.name, int(ttl), "IN", rtype, data)
                reply.find_rrset(reply.answer, asked.name, made.rdclass, made.rdtype, create=True).update(made)  # type: ignore[no-untyped-call]
                reply.answer[-1].ttl = int(ttl)
        if not reply.answer:
            owner, ttl, _, _, data = _SOA.split(None, 4)
            reply.authority.append(dns.rrset.from_text(owner, int(ttl), "IN", "SOA", data))
            if not owned or owned[0][2] == "NXDOMAIN":
                reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply

    def times(self, name: str, rtype: str = "A") -> int:
        """How often it was asked that."""
        return len(self.about(name, rtype))

    def about(self, name: str, rtype: str = "A") -> list[dns.message.Message]:
        wanted = (name.lower(), rtype)
        return [
            each
            for each in self.asked
            if (
                each.question[0].name.to_text(omit_final_dot=True).lower(),
                dns.rdatatype.to_text(each.question[0].rdtype),
            )
            == wanted
        ]


@contextmanager
def inside(place: Place, manager: AbstractContextManager[T]) -> Iterator[T]:
    """The manager's thing, made in ``place``."""
    found = place.call(manager.__enter__)
    try:
        yield found
    finally:
        place.call(manager.__exit__, None, None, None)


@contextmanager
def dnsmasq(config: Path, place: Place) -> Iterator[None]:
    """The real one, ready to answer; what it says is in ``dnsmasq.log`` beside its file afterwards."""
    command = [
        "dnsmasq", "--keep-in-foreground", f"--conf-file={config}", "--user=", "--group=", "--pid-file=",
        "--log-facility=-",
    ]  # fmt: skip
    process = place.call(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "started" in line:
                break
        assert said and "started" in said[-1], said
        rest = process.stderr
        drained = threading.Thread(target=lambda: (config.parent / "dnsmasq.log").write_text(rest.read()))
        drained.start()
        try:
            yield
        finally:
            process.kill()
            drained.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@contextmanager
def imported(config: Path, place: Place, port: int) -> Iterator[None]:
    """Ours, by the same file."""
    outcome = read_dnsmasq(str(config), Disk(), MACHINE)
    assert [str(note) for note in outcome.notes if note.level != "note"] == []
    with inside(place, server(config.parent, imported_yaml(outcome), port)) as running:
        yield
        running.stop()


@dataclass
class Client:
    """Who asks."""

    place: Place
    port: int

    def ask(self, line: str, patience: float = 2.5) -> dns.message.Message | None:
        """``NAME TYPE [@SERVER] [+ecs=PREFIX] [+tcp]``; ``None``: no answer worth anything in ``patience`` seconds."""
        name, rtype, *more = line.split()
        where = next((word[1:] for word in more if word.startswith("@")), "127.0.0.1")
        query = dns.message.make_query(name, rtype)
        for word in more:
            if word.startswith("+ecs="):
                address, bits = word[5:].split("/")
                query.use_edns(0, 0, 1232, options=[dns.edns.ECSOption(address, int(bits))])
        with suppress(dns.exception.Timeout, ConnectionError, OSError):
            if "+tcp" in more:
                return self.place.call(lambda: dns.query.tcp(query, where, port=self.port, timeout=patience))
            # A connected socket hears at once that there is no such door.
            with self.place.call(connected, where, self.port) as sock:
                return dns.query.udp(query, where, port=self.port, timeout=patience, sock=sock)
        return None


def connected(where: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect((where, port))
    return sock


def shown(reply: dns.message.Message | None, *, ttl: bool = True) -> tuple[str, list[str]]:
    """Code and records of an answer; all ways to have none are one."""
    if reply is None or reply.rcode() in (dns.rcode.REFUSED, dns.rcode.SERVFAIL):
        return "none", []
    records = [
        " ".join(
            filter(
                None,
                (
                    rrset.name.to_text(omit_final_dot=True).lower(),
                    str(rrset.ttl) if ttl else "",
                    dns.rdatatype.to_text(rrset.rdtype),
                    rdata.to_text(),
                ),
            )
        )
        for rrset in reply.answer
        for rdata in rrset
    ]
    return dns.rcode.to_text(reply.rcode()), sorted(records)


def told_by_both(config: Path, port: int, listen: Callable[[Client], T], place: Place | None = None) -> tuple[T, T]:
    """What ``listen`` hears of dnsmasq, and what of ours."""
    place = place or Here()
    client = Client(place, port)
    with dnsmasq(config, place):
        theirs = listen(client)
    with imported(config, place, port):
        ours = listen(client)
    return theirs, ours

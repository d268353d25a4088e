"""A reader of replay scripts: the ``.rpl`` format of unbound's ``testbound``, as far as a forwarder needs it.

A script is a configuration, answers of upstreams that hold for a RANGE of steps, and the STEPs::

    server:                         ; as in unbound.conf, told on as (section, key, value)
    CONFIG_END
    SCENARIO_BEGIN title
    RANGE_BEGIN 0 10                ; these answers hold from step 0 to step 10
        ADDRESS 127.53.0.1          ; of this server; of any without
        ENTRY_BEGIN
            MATCH opcode qtype qname
            ADJUST copy_id
            REPLY QR RD RA NOERROR
            SECTION QUESTION
                www.example.com. IN A
            SECTION ANSWER
                www.example.com. 60 IN A 192.0.2.1
        ENTRY_END
    RANGE_END
    STEP 1 QUERY                    ; what an entry follows
    STEP 2 CHECK_ANSWER
    STEP 3 TIME_PASSES ELAPSE 30    ; what stands alone
    SCENARIO_END

Comments begin with ``;`` or ``#`` where no text is quoted.  Nothing is done here: ``replay.py`` plays it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

FLAGS = {"QR": 0x8000, "AA": 0x0400, "TC": 0x0200, "RD": 0x0100, "RA": 0x0080, "AD": 0x0020, "CD": 0x0010}
OPCODES = {"QUERY": 0, "IQUERY": 1, "STATUS": 2, "NOTIFY": 4, "UPDATE": 5}
RCODES = {"NOTIMPL": 4, **{dns.rcode.to_text(dns.rcode.Rcode(code)): code for code in (*range(11), *range(16, 24))}}
WITH_ENTRY = ("QUERY", "CHECK_ANSWER", "CHECK_OUT_QUERY", "REPLY")
SECTIONS = ("QUESTION", "ANSWER", "AUTHORITY", "ADDITIONAL")

_DEFAULT_TTL = 3600
_RECORD = re.compile(
    r"(\S+)(?:\s+(\d+))?(?:\s+(IN|CH|HS|ANY))?(?:\s+(\d+))?\s+([A-Za-z][A-Za-z0-9]*)(?:\s+(.*))?", re.IGNORECASE
)


class BadScript(Exception):
    """With the number of the line."""


@dataclass
class Entry:
    """A message, or what one must be like."""

    match: tuple[str, ...] = ()
    adjust: tuple[str, ...] = ()
    flags: int = 0
    opcode: int = 0
    rcode: int = 0
    do: bool = False
    sections: dict[str, list[dns.rrset.RRset]] = field(default_factory=lambda: {name: [] for name in SECTIONS})
    raw: bytes | None = None
    """The message as octets (HEX_ANSWER), in place of all that."""

    @property
    def question(self) -> dns.rrset.RRset | None:
        return self.sections["QUESTION"][0] if self.sections["QUESTION"] else None


@dataclass(frozen=True)
class Range:
    """What servers answer from step ``first`` to step ``last``."""

    first: int
    last: int
    addresses: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Step:
    at: int
    kind: str
    words: tuple[str, ...]
    """What follows the kind."""
    entry: Entry | None
    line: int


@dataclass(frozen=True)
class Script:
    title: str
    config: tuple[tuple[str, str, str], ...]
    ranges: tuple[Range, ...]
    steps: tuple[Step, ...]


def read_script(text: str) -> Script:
    """Raises ``BadScript``."""
    return _Reader(text).script()


class _Reader:
    def __init__(self, text: str) -> None:
        self._lines = [(number, line) for number, raw in enumerate(text.splitlines(), 1) if (line := _bare(raw))]
        self._at = 0
        self._origin = dns.name.root

    def script(self) -> Script:
        config = tuple(self._config())
        title = self._next("SCENARIO_BEGIN").partition(" ")[2].strip()
        ranges, steps = [], []
        while True:
            number, line = self._take()
            word, *rest = line.split()
            if word == "SCENARIO_END":
                return Script(title, config, tuple(ranges), tuple(steps))
            if word == "RANGE_BEGIN":
                ranges.append(self._range(rest, number))
            elif word == "STEP":
                steps.append(self._step(rest, number))
            else:
                raise BadScript(f"line {number}: {word} is neither a range nor a step")

    def _take(self) -> tuple[int, str]:
        if self._at >= len(self._lines):
            raise BadScript("the script ends too early")
        self._at += 1
        return self._lines[self._at - 1]

    def _peek(self) -> str:
        return self._lines[self._at][1].split()[0] if self._at < len(self._lines) else ""

    def _next(self, wanted: str) -> str:
        number, line = self._take()
        if line.split()[0] != wanted:
            raise BadScript(f"line {number}: {wanted} was to come")
        return line

    def _config(self) -> Iterator[tuple[str, str, str]]:
        section = ""
        while True:
            _, line = self._take()
            if line == "CONFIG_END":
                return
            line = re.sub(r"\s#.*", "", line)
            for key, value in re.findall(r'([a-z][a-z0-9-]*):(?=\s|$)\s*("[^"]*"|[^\s:]\S*(?!\S*:(?:\s|$)))?', line):
                if value:
                    yield section, key, value.strip('"')
                else:
                    section = key

    def _range(self, words: list[str], number: int) -> Range:
        addresses, entries = [], []
        while True:
            at, line = self._take()
            word, *rest = line.split()
            if word == "RANGE_END":
                return Range(*self._numbers(words, 2, number), tuple(addresses), tuple(entries))
            if word == "ADDRESS":
                addresses += rest
            elif word == "ENTRY_BEGIN":
                entries.append(self._entry())
            else:
                raise BadScript(f"line {at}: {word} in a range")

    def _numbers(self, words: list[str], count: int, number: int) -> list[int]:
        try:
            found = [int(word) for word in words]
        except ValueError:
            raise BadScript(f"line {number}: {' '.join(words)} are no numbers") from None
        if len(found) != count:
            raise BadScript(f"line {number}: {count} numbers were to come")
        return found

    def _step(self, words: list[str], number: int) -> Step:
        if len(words) < 2:
            raise BadScript(f"line {number}: a step has a number and a kind")
        (at,) = self._numbers(words[:1], 1, number)
        kind, entry = words[1], None
        if kind in WITH_ENTRY:
            if self._peek() == "ENTRY_BEGIN":
                self._take()
                entry = self._entry()
            elif kind == "QUERY":
                raise BadScript(f"line {number}: a query without an entry")
        elif kind in ("CHECK_AUTOTRUST", "CHECK_TEMPFILE"):
            while self._take()[1] != "FILE_END":
                pass
        return Step(at, kind, tuple(words[2:]), entry, number)

    def _entry(self) -> Entry:
        entry = Entry()
        section = ""
        while True:
            number, line = self._take()
            word, *rest = line.split()
            if word == "ENTRY_END":
                return entry
            match word:
                case "MATCH":
                    entry.match += tuple(rest)
                case "ADJUST":
                    entry.adjust += tuple(rest)
                case "REPLY":
                    self._header(entry, rest, number)
                case "SECTION":
                    section = rest[0] if rest else ""
                    if section not in SECTIONS:
                        raise BadScript(f"line {number}: there is no section {section}")
                case "HEX_ANSWER_BEGIN":
                    entry.raw = self._hex("HEX_ANSWER_END")
                case "HEX_EDNSDATA_BEGIN":
                    self._hex("HEX_EDNSDATA_END")
                case "EXTRA_PACKET":
                    section = ""
                case "$ORIGIN":
                    self._origin = dns.name.from_text(rest[0])
                case "$TTL":
                    pass
                case _:
                    if not section:
                        raise BadScript(f"line {number}: {word} in an entry")
                    self._record(entry.sections[section], line, section == "QUESTION", number)

    def _header(self, entry: Entry, words: list[str], number: int) -> None:
        for word in words:
            if word in FLAGS:
                entry.flags |= FLAGS[word]
            elif word == "DO":
                entry.do = True
            elif word in RCODES:
                entry.rcode = RCODES[word]
            elif word in OPCODES:
                entry.opcode = OPCODES[word]
            else:
                raise BadScript(f"line {number}: a reply knows no {word}")

    def _hex(self, end: str) -> bytes:
        digits = ""
        while (line := self._take())[1] != end:
            digits += "".join(line[1].split())
        try:
            return bytes.fromhex(digits)
        except ValueError:
            raise BadScript(f"line {line[0]}: these are no hex digits") from None

    def _record(self, into: list[dns.rrset.RRset], line: str, question: bool, number: int) -> None:
        parts = _RECORD.fullmatch(line)
        if parts is None:
            raise BadScript(f"line {number}: {line!r} is no record")
        name, ttl, rclass, later, rtype, text = parts.groups("")
        try:
            owner = dns.name.from_text(name, self._origin)
            kind, place = dns.rdatatype.from_text(rtype), dns.rdataclass.from_text(rclass or "IN")
            if question:
                into.append(dns.rrset.RRset(owner, place, kind))
                return
            data = dns.rdata.from_text(place, kind, text, self._origin, relativize=False)
        except (dns.exception.DNSException, ValueError) as fault:
            raise BadScript(f"line {number}: {line!r}: {fault}") from None
        seconds = int(ttl or later or _DEFAULT_TTL)
        rrset = next(
            (each for each in into if each.match(owner, place, kind, data.covers()) and each.ttl == seconds), None
        )
        if rrset is None:
            rrset = dns.rrset.RRset(owner, place, kind, data.covers())
            into.append(rrset)
        rrset.add(data, seconds)


def _bare(line: str) -> str:
    """Without a comment and the space around."""
    quoted = False
    for at, letter in enumerate(line):
        if letter == '"':
            quoted = not quoted
        elif not quoted and (letter == ";" or (letter == "#" and not line[:at].strip())):
            return line[:at].strip()
    return line.strip()

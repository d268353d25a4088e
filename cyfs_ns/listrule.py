"""One rule of a block, allow or rewrite list, whatever syntax it was written in.

A rule is about a name (``Entry.name``), about the names below it, or both; conditions may narrow it.  What a list says
of a plain name is the same rule for all its names, so a list of a million names has a handful of rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Effect(StrEnum):
    """What a matching rule does."""

    BLOCK = "block"
    ALLOW = "allow"
    ADDRESS = "address"
    """A hosts line with a real address: answers with it, unless a rule says more."""
    REWRITE = "rewrite"
    KEEP = "keep"
    """Takes a rewrite back: the one with the same value, or all of them when it has none."""


class Rewrite(NamedTuple):
    """What to answer instead: an alias (``cname``), else a response code, else a record as a zone file writes it.

    ``rtype`` 0 with response code 0 is an empty answer.
    """

    rcode: int = 0
    rtype: int = 0
    data: str = ""
    cname: str = ""


class Who(NamedTuple):
    """Which clients a rule is for: each word an address, a prefix or a name (of a client), or a tag; ``~`` excepts."""

    clients: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """``here`` and ``below`` say where it holds: at its name, and at the names under it."""

    effect: Effect
    here: bool = True
    below: bool = False
    important: bool = False
    types: frozenset[int] = field(default=frozenset())
    """Record types it is for, or with ``other_types`` all but those; empty: all."""
    other_types: bool = False
    who: Who | None = None
    nearest: bool = False
    """Of such rules in one list only those about the longest name count, as in dnsmasq."""
    spared: tuple[str, ...] = ()
    """Names to which, and below which, it does not apply."""
    pattern: str = ""
    """A regex (RE2) that the whole text of the name must also contain."""
    rewrite: Rewrite | None = None
    text: str = ""
    """As written; empty for a plain rule, whose text follows from its name."""

    def asks(self, rtype: int) -> bool:
        """Whether it is for this record type."""
        return not self.types or (rtype in self.types) is not self.other_types

    def spares(self, name: str) -> bool:
        """Whether ``name`` is excepted."""
        return any(name == spared or name.endswith("." + spared) for spared in self.spared)


class Entry(NamedTuple):
    """A rule and the name it is about: ``b""`` is every name, ``None`` a pattern without a fixed end."""

    name: bytes | None
    rule: Rule

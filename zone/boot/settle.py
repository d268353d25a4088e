"""What the store still needs before the zone is up: decided from what was read, and done as one transaction.

``settle`` is asked again after every write, by whatever was read then, and so until it says that nothing is missing.
Nobody has to remember how far it came: a crash between any two writes, and another OOD that was faster, look the same.

| key | what | who writes it |
|---|---|---|
| ``boot/config`` | the zone's document: its claims, and the owner's token as ``jwt`` | OODs |
| ``devices/<d>/doc`` | the token of the machine's document | each machine its own |
| ``nodes/<d>/intent`` | that the machine belongs to the zone | OODs, for all that the zone's document names |
| ``users/root/doc``, ``users/root/settings`` | the owner, who has no password | the first OOD |

The first write makes all of it that the first OOD knows, if ``boot/config`` is absent, or nothing.  Only ``jwt`` is
believed, by the owner's key; the claims beside it are for those who know the forerunner's form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import Json, read_json, write_json
from zone.boot.known import Finding, Known, ZoneState, read_state, role_in, take
from zone.config.faults import ConfigError
from zone.config.model import Action, AtRevision, Create, Entry, Set, Transaction
from zone.membership import Membership, Role, ood_names

BOOT: Final = "boot/config"
ROOT: Final = "users/root"


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing is missing."""


@dataclass(frozen=True, slots=True)
class Write:
    """This is to be written, then read again."""

    transaction: Transaction
    initialises: bool
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """For somebody else."""

    waits_for: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The zone was up here before, and the store is empty."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """The store must not be used."""

    why: str


@dataclass(frozen=True, slots=True)
class Believe:
    """The store has a newer document of the zone, which is to be known first."""

    known: Known
    finding: Finding


Settling: TypeAlias = Settled | Write | Wait | Lost | Foreign | Believe


def keys_needed(known: Known, membership: Membership) -> tuple[str, ...]:
    """The keys whose entries :func:`settle` has to see."""
    own = (BOOT, f"devices/{membership.name}/doc")
    return own if role_in(known, membership.device) is not Role.OOD else (*own, *_intents(known))


def settle(known: Known, membership: Membership, entries: Mapping[str, Entry], more: Sequence[Action] = ()) -> Settling:
    """What to do next.  ``entries``: those of :func:`keys_needed` that are there, read at one revision; ``more``: what
    others need in a zone from its first moment.
    """
    boot = entries.get(BOOT)
    if boot is None:
        return _without(known, membership, more)
    try:
        state = read_boot(boot.text() or "", membership)
    except (BadWire, ConfigError) as bad:
        return Foreign(f"{BOOT} is not this zone's: {bad}")
    after, finding = take(known, state, membership.device)
    if after != known:
        return Believe(after, finding)
    if finding is Finding.CONFLICT:
        return Foreign(f"{BOOT}: {finding.value}; its owner signs a newer one: node sign")
    return _missing(known, membership, entries, finding)


def read_boot(untrusted: str, membership: Membership) -> ZoneState:
    """The zone's document in the value of ``boot/config``.  Raises ``BadWire``."""
    value = read_json(untrusted, BOOT)
    text = value.get("jwt") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise BadWire("nothing in it is signed")
    return read_state(text, membership)


def boot_value(state: ZoneState) -> str:
    """The value of ``boot/config``."""
    return _text({**state.token.claims, "jwt": state.token.text})


def initialisation(known: Known, membership: Membership, more: Sequence[Action] = ()) -> Transaction:
    """The zone's first keys, made together if the zone has none."""
    settings: Json = {"type": "root", "state": "active"}
    actions: list[Action] = [
        Create(BOOT, boot_value(known.zone)),
        Set(f"devices/{membership.name}/doc", _text(membership.device_token.text)),
        *(Set(intent, "{}") for intent in _intents(known)),
        Set(f"{ROOT}/doc", _text(membership.owner_token.text)),
        Set(f"{ROOT}/settings", _text(settings)),
        *more,
    ]
    return Transaction(tuple(actions), (AtRevision(BOOT, 0),))


def _without(known: Known, membership: Membership, more: Sequence[Action]) -> Settling:
    first = ood_names(known.zone.document)[0]
    if role_in(known, membership.device) is not Role.OOD:
        return Wait(f"{first}, to initialise the zone")
    if known.booted:
        return Lost()
    if membership.name != first:
        return Wait(f"{first}, to initialise the zone")
    return Write(initialisation(known, membership, more), True, "the zone is new")


def _missing(known: Known, membership: Membership, entries: Mapping[str, Entry], finding: Finding) -> Settling:
    """What of this machine, and for an OOD of the zone, is not there as it should be."""
    actions: list[Action] = []
    why: list[str] = []
    doc, own = f"devices/{membership.name}/doc", _text(membership.device_token.text)
    if doc not in entries or entries[doc].value != own:
        actions.append(Set(doc, own))
        why.append("this machine's document is new")
    if role_in(known, membership.device) is Role.OOD:
        if finding is Finding.ROLLBACK and known.ahead is None:
            actions.append(Set(BOOT, boot_value(known.zone)))
            why.append("the zone's document is new")
        absent = [intent for intent in _intents(known) if intent not in entries]
        actions += [Create(intent, "{}") for intent in absent]
        if absent:
            why.append(f"{len(absent)} machines joined")
    if not actions:
        return Settled()
    # Who writes over what somebody else has just written would undo it.
    seen = tuple(
        AtRevision(key, entries[key].revision if key in entries else 0)
        for key in dict.fromkeys([BOOT, *(action.key for action in actions)])
    )
    return Write(Transaction(tuple(actions), seen), False, ", ".join(why))


def _intents(known: Known) -> tuple[str, ...]:
    return tuple(f"nodes/{name}/intent" for name in known.zone.document.devices)


def _text(value: Json) -> str:
    return write_json(value).decode()

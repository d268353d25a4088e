"""All that an SN knows of its users, in memory: asked for each DNS query and each connection, so asking is a look-up.

It changes by :meth:`Registry.apply` alone, which gives back what would undo it: the shell applies what was decided,
writes it down together with whatever else is waiting, and takes it back if the disk refuses.  So two who want the same
name are told apart before the disk was asked, and nobody is told yes before it has answered.

A :class:`NameEntry` is put together once and kept until something of its account changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from cyfs_gateway.sn.accounts import Account, AnyChange, Device, Entry, Invitation, Name, Whereabouts
from cyfs_gateway.sn.names import skeleton
from cyfs_ns.errors import Misuse
from cyfs_ns.identity.did import Did
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.txt import txt_record

_K = TypeVar("_K")
_NONE: Mapping[Any, None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Host:
    """One machine and where it was last; ``where`` is None until it reported."""

    device: Device
    where: Whereabouts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """A name in force: whose it is, and their machines.  Equal when nothing but their whereabouts has changed.

    ``hosts`` are the machines by their own names (``ood1``), and ``devices`` their keys; ``chosen`` is the one that
    answers for ``name`` itself, empty while the account has none.  A machine whose document has run out
    (``device.expires``, seconds since 1970) is still here: whoever acts on it looks at the clock.  ``texts`` are the
    TXT records of the owner's documents, ``issuers`` as in :class:`~cyfs_gateway.sn.accounts.Name`.
    """

    name: str
    owner: Did
    hosts: Mapping[str, Host] = field(compare=False)
    devices: Mapping[str, PublicKey]
    chosen: str
    texts: tuple[str, ...]
    issuers: tuple[str, ...]


class Registry:
    """See the module's text.  Not to be changed but by :meth:`apply`."""

    def __init__(self) -> None:
        self._accounts: dict[Did, Account] = {}
        self._devices: dict[Did, Device] = {}
        self._where: dict[Did, Whereabouts] = {}
        self._names: dict[str, Name] = {}
        self._invitations: dict[str, Invitation] = {}
        self._devices_of: dict[Did, dict[Did, None]] = {}
        self._names_of: dict[Did, dict[str, None]] = {}
        self._alike: dict[str, dict[str, None]] = {}
        self._entries: dict[str, NameEntry] = {}

    def find_name(self, name: str) -> NameEntry | None:
        """Who stands behind ``name``: a label below the SN's domain, or a proven domain in full; both canonical.

        None for what was never given out, was given up, or belongs to an account that is barred.
        """
        entry = self._entries.get(name)
        if entry is None and (given := self._names.get(name)) is not None:
            entry = self._entry(given)
        return entry

    def find_domain(self, host: str) -> NameEntry | None:
        """The proven domain that the canonical ``host`` is, or stands below; the longest of them."""
        labels = host.split(".")
        for at in range(len(labels) - 1):
            if (entry := self.find_name(".".join(labels[at:]))) is not None:
                return entry
        return None

    def device(self, did: Did) -> Device | None:
        """The machine ``did`` if it is admitted and its account stands.  Whether its document is still in force
        (``expires``) the caller asks the clock."""
        device = self._devices.get(did.canonical)
        if device is None or device.removed is not None:
            return None
        account = self._accounts.get(device.owner)
        return device if account is not None and not account.barred else None

    def account(self, did: Did) -> Account | None:
        """The account of the owner ``did``, closed and suspended ones too: see ``Account.barred``."""
        return self._accounts.get(did.canonical)

    def where(self, did: Did) -> Whereabouts | None:
        """Where the machine ``did`` reported to be last."""
        return self._where.get(did.canonical)

    def name(self, name: str) -> Name | None:
        """What is written of ``name``, given up or not."""
        return self._names.get(name)

    def known_device(self, did: Did) -> Device | None:
        """What is written of the machine ``did``, removed or not."""
        return self._devices.get(did.canonical)

    def invitation(self, digest: str) -> Invitation | None:
        """The invitation whose code has this ``digest``, used up and outdated ones too."""
        return self._invitations.get(digest)

    def names_of(self, owner: Did) -> Iterator[Name]:
        """The names of ``owner``, given up or not, oldest first; the same after the books were read again."""
        return iter(sorted((self._names[name] for name in self._names_of.get(owner, _NONE)), key=_name_age))

    def devices_of(self, owner: Did) -> Iterator[Device]:
        """The machines of ``owner``, removed or not, in the order they came; the same after the books were read again,
        since it says which of them answers for a name."""
        return iter(sorted((self._devices[did] for did in self._devices_of.get(owner, _NONE)), key=_device_age))

    def looks_like(self, name: str) -> Iterator[Name]:
        """The names that a reader may take for ``name``, itself among them."""
        return (self._names[one] for one in self._alike.get(skeleton(name), _NONE))

    def accounts(self) -> Collection[Account]:
        """All accounts, barred ones too."""
        return self._accounts.values()

    def names(self) -> Iterator[str]:
        """All labels below the SN's domain that somebody has."""
        return (name.name for name in self._names.values() if name.released is None and not name.is_domain)

    def all_names(self) -> Collection[Name]:
        """All that is written of names and domains, given up or not."""
        return self._names.values()

    def devices(self) -> Collection[Device]:
        """All that is written of machines, removed or not."""
        return self._devices.values()

    def reports(self) -> Collection[Whereabouts]:
        """Where all machines were last."""
        return self._where.values()

    def invitations(self) -> Collection[Invitation]:
        """All invitations, used up and outdated ones too."""
        return self._invitations.values()

    def apply(self, changes: Iterable[AnyChange]) -> list[AnyChange]:
        """Make ``changes``, in order.  Gives what takes them back, to be applied in its own order.

        Raises ``Misuse`` if one was decided on another state than this, and then has made none.
        """
        undo: list[AnyChange] = []
        try:
            for change in changes:
                self._apply(change)
                undo.append(change.undone)
        except Misuse:
            for change in reversed(undo):
                self._apply(change)
            raise
        undo.reverse()
        return undo

    def _apply(self, change: AnyChange) -> None:
        entry: Entry = change.entry
        match entry:
            case Account():
                _swap(self._accounts, entry.owner, change)
                self._forget(entry.owner)
            case Device():
                _swap(self._devices, entry.did, change)
                self._regroup(self._devices_of, change, entry.did)
            case Whereabouts():
                _swap(self._where, entry.did, change)
                if (device := self._devices.get(entry.did)) is not None:
                    self._forget(device.owner)
            case Name():
                _swap(self._names, entry.name, change)
                self._regroup(self._names_of, change, entry.name)
                self._entries.pop(entry.name, None)
                if not entry.is_domain:
                    _note(self._alike, skeleton(entry.name), entry.name, change.after is not None)
            case Invitation():
                _swap(self._invitations, entry.digest, change)

    def _regroup(self, groups: dict[Did, dict[_K, None]], change: AnyChange, key: _K) -> None:
        before, after = change.before, change.after
        owners = [one.owner if isinstance(one, Device | Name) else None for one in (before, after)]
        for owner, there in zip(owners, (False, True), strict=True):
            if owner is None:
                continue
            self._forget(owner)
            if owners[0] != owners[1]:
                _note(groups, owner, key, there)

    def _forget(self, owner: Did) -> None:
        for name in self._names_of.get(owner, _NONE):
            self._entries.pop(name, None)

    def _entry(self, given: Name) -> NameEntry | None:
        account = self._accounts.get(given.owner)
        if given.released is not None or account is None or account.barred:
            return None
        hosts = {
            device.name: Host(device, self._where.get(device.did))
            for device in self.devices_of(given.owner)
            if device.removed is None
        }
        pointed = (name for name, host in hosts.items() if host.device.did == given.device)
        entry = NameEntry(
            name=given.name,
            owner=given.owner,
            hosts=MappingProxyType(hosts),
            devices={name: host.device.key for name, host in hosts.items()},
            chosen=next(pointed, next(iter(hosts), "")),
            texts=_texts(account, given, hosts.values()),
            issuers=given.issuers,
        )
        self._entries[given.name] = entry
        return entry


def _name_age(name: Name) -> tuple[int, str]:
    return name.since, name.name


def _device_age(device: Device) -> tuple[int, str]:
    return device.since, str(device.did)


def _texts(account: Account, name: Name, hosts: Iterable[Host]) -> tuple[str, ...]:
    boot = [txt_record("BOOT", name.boot)] if name.boot else []
    minis = [txt_record("DEV", host.device.mini) for host in hosts if host.device.mini]
    return (txt_record("PKX", account.key.x), *boot, *minis)


def _swap(table: dict[_K, Any], key: _K, change: AnyChange) -> None:
    if table.get(key) != change.before:
        raise Misuse(f"{key}: changed meanwhile")
    if change.after is None:
        del table[key]
    else:
        table[key] = change.after


def _note(groups: dict[_K, dict[Any, None]], group: _K, key: Any, there: bool) -> None:
    if there:
        groups.setdefault(group, {})[key] = None
    elif group in groups:
        groups[group].pop(key, None)
        if not groups[group]:
            del groups[group]

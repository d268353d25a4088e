"""What the operator may see and do: the SN's methods of the control API (``POST /cyfs/modules/sn/METHOD``).

Each takes a mapping and gives one.  What changes the books goes through them, and so stands in their audit log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from cyfs_gateway.host import Host
from cyfs_gateway.io.sn.books import Books
from cyfs_gateway.io.sn.desk import Desk
from cyfs_gateway.io.sn.ledger import Ledger
from cyfs_gateway.sn.accounts import CODE_BYTES, Account, Device
from cyfs_gateway.sn.meter import Usage
from cyfs_gateway.sn.quota import Quota, read_quota
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.upkeep import invite, suspend, uninvite, with_quota
from cyfs_ns.errors import BadWire, Misuse, Refused
from cyfs_ns.identity.did import Did, parse_did

_DAY: Final = 86_400
_MOST_ROWS: Final = 1000


class Operator:
    """``drain`` is called with whether the SN is to end, ``judge_again`` when somebody has to go at once."""

    def __init__(
        self,
        books: Books,
        ledger: Ledger,
        desk: Desk,
        host: Host,
        drain: Callable[[bool], None],
        judge_again: Callable[[], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._books, self._ledger, self._desk, self._host, self._drain = books, ledger, desk, host, drain
        self._judge_again, self._wall = judge_again, wall

    def register(self) -> None:
        """Offer all of it."""
        methods = (self.users, self.usage, self.drain, self.invite, self.uninvite, self.quota, self.suspend, self.audit)
        for method in methods:
            self._host.register_control(method.__name__, method)

    async def users(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Who has an account; ``only`` is a name or a DID, to see one of them with the machines."""
        registry, only = self._books.registry, str(body.get("only", ""))
        accounts = [self._found(only)] if only else list(registry.accounts())
        first = _number(body, "first", 0)
        shown = accounts[first : first + _MOST_ROWS]
        return {"total": len(accounts), "users": [self._user(one, machines=bool(only)) for one in shown]}

    async def usage(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What each account used in ``month`` (``202611``; none: this one)."""
        month = _number(body, "month", 0) or self._ledger.month
        this = month == self._ledger.month
        used = self._ledger.totals() if this else await self._ledger.store.usage(month)
        rows = sorted(used.items(), key=lambda row: -row[1].bytes)[:_MOST_ROWS]
        return {"month": month, "total": len(used), "usage": [self._used(owner, told) for owner, told in rows]}

    async def drain(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin nothing new (``on``, true by default), so that the SN can be ended without breaking much."""
        on = body.get("on", True)
        if not isinstance(on, bool):
            raise BadWire("on: true or false")
        self._drain(on)
        return {"draining": on}

    async def invite(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """An invitation for ``uses`` strangers, good for ``days``; ``quota`` is theirs, ``note`` is for people.

        The code is shown this once.
        """
        uses, days = _number(body, "uses", 1), _number(body, "days", 30)
        quota, note = _quota(body), str(body.get("note", ""))
        if not self._books.registrar.policy.invites:
            raise Refused("a code lets nobody in while sn/open is none: set it to invited first, and reload")
        codes: list[str] = []

        def decide(registry: Registry, now: float) -> list[Any]:
            code, change = invite(registry, os.urandom(CODE_BYTES), uses, int(now) + days * _DAY, quota, note)
            codes.append(code)
            return [change]

        await self._operate(f"invite {uses} for {days} days", decide)
        return {"code": codes[0], "uses": uses, "days": days}

    async def uninvite(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take an invitation back, by its ``digest`` or the beginning of it."""
        begun = str(body.get("digest", ""))
        found = [one.digest for one in self._books.registry.invitations() if one.digest.startswith(begun)]
        if len(begun) < 6 or len(found) != 1:
            raise KeyError(begun)
        await self._operate(f"uninvite {found[0][:12]}", lambda registry, _: uninvite(registry, found[0]))
        return {"digest": found[0]}

    async def quota(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another ``quota`` for the account ``of`` (a name or a DID); none: the usual one."""
        account, quota = self._found(str(body.get("of", ""))), _quota(body)
        await self._operate(
            f"quota of {account.owner}", lambda registry, _: [with_quota(_current(registry, account.owner), quota)]
        )
        return {"owner": str(account.owner), "quota": None if quota is None else quota.claims()}

    async def suspend(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Bar the account ``of`` (a name or a DID) because of ``why``; without a reason it is let in again."""
        account, why = self._found(str(body.get("of", ""))), str(body.get("why", ""))
        await self._operate(
            f"{'suspend' if why else 'readmit'} {account.owner}",
            lambda registry, _: [suspend(_current(registry, account.owner), why)],
        )
        self._judge_again()
        return {"owner": str(account.owner), "suspended": why}

    async def audit(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The ``newest`` lines of the audit log."""
        lines = await self._ledger.store.audit(min(_number(body, "newest", 100), _MOST_ROWS))
        told = [
            {"at": one.at, "who": one.who, "what": one.what, "verdict": one.verdict, "why": one.why} for one in lines
        ]
        return {"lines": told}

    # Helpers

    async def _operate(self, what: str, decide: Callable[[Registry, float], Any]) -> None:
        try:
            await self._books.operate(what, decide)
        except Misuse as no:
            raise Refused(str(no)) from None

    def _found(self, text: str) -> Account:
        registry = self._books.registry
        name = registry.name(text)
        account = None
        if name is not None:
            account = registry.account(name.owner)
        else:
            with suppress(BadWire):
                account = registry.account(parse_did(text))
        if account is None:
            raise KeyError(text)
        return account

    def _user(self, account: Account, *, machines: bool) -> dict[str, Any]:
        registry, owner = self._books.registry, account.owner
        devices = [one for one in registry.devices_of(owner) if one.removed is None]
        told: dict[str, Any] = {
            "owner": str(owner),
            "names": [one.name for one in registry.names_of(owner) if one.released is None],
            "devices": len(devices),
            "here": sum(map(self._is_here, devices)),
            "since": account.since,
            "state": account.barred or "good",
            "quota": self._books.registrar.policy.quota_of(account).claims(),
            **_figures(self._ledger.used(owner)),
        }
        if machines:
            told["machines"] = [
                {
                    "did": str(one.did),
                    "name": one.name,
                    "here": self._is_here(one),
                    "since": one.since,
                    "expires": one.expires,
                }
                for one in devices
            ]
        return told

    def _is_here(self, device: Device) -> bool:
        """As a machine of an account that stands: whoever is barred is on the way out."""
        return self._books.registry.device(device.did) is not None and self._host.standing(device.did)

    def _used(self, owner: Did, used: Usage) -> dict[str, Any]:
        names = [one.name for one in self._books.registry.names_of(owner) if one.released is None]
        return {"owner": str(owner), "names": names, **_figures(used)}


def _current(registry: Registry, owner: Did) -> Account:
    account = registry.account(owner)
    if account is None:
        raise KeyError(str(owner))
    return account


def _figures(used: Usage) -> dict[str, Any]:
    return {"up": used.up, "down": used.down, "seconds": round(used.seconds), "streams": used.streams}


def _number(body: Mapping[str, Any], key: str, default: int) -> int:
    value = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise BadWire(f"{key}: not a whole number")
    return value


def _quota(body: Mapping[str, Any]) -> Quota | None:
    told = body.get("quota")
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise BadWire("quota: not a mapping")
    return read_quota(told)

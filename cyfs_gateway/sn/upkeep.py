"""What the operator and the passing of time do to the books; requests of users are decided in ``admission.py``.

Each function gives the changes and makes none.
"""

from __future__ import annotations

from dataclasses import replace

from cyfs_gateway.sn.accounts import Account, AnyChange, Change, Invitation, code_of, digest_of
from cyfs_gateway.sn.quota import Quota
from cyfs_gateway.sn.registry import Registry
from cyfs_ns.errors import Misuse

_LOST = 30 * 86_400
"""Seconds after which where a machine was last tells nobody anything."""

MOST_INVITATIONS = 10_000


def invite(
    registry: Registry, random: bytes, uses: int, expires: int, quota: Quota | None = None, note: str = ""
) -> tuple[str, Change[Invitation]]:
    """An invitation made of ``random`` bytes, and its code: to be shown once, for it is written down nowhere."""
    if not 0 < uses <= 1_000_000:
        raise Misuse(f"an invitation for {uses}")
    if len(registry.invitations()) >= MOST_INVITATIONS:
        raise Misuse(f"{MOST_INVITATIONS} invitations are out; take some back")
    code = code_of(random)
    return code, Change(
        None, Invitation(digest=digest_of(code), uses=uses, expires=expires, quota=quota, note=note[:200])
    )


def uninvite(registry: Registry, digest: str) -> tuple[AnyChange, ...]:
    """Take the invitation of this ``digest`` back; whoever came by it stays."""
    found = registry.invitation(digest)
    return () if found is None else (Change(found, None),)


def with_quota(account: Account, quota: Quota | None) -> Change[Account]:
    """Another quota for ``account``; None: the usual one."""
    return Change(account, replace(account, quota=quota))


def suspend(account: Account, why: str) -> Change[Account]:
    """Bar ``account``, or (with no reason) let it back in.  Its names stay its own."""
    return Change(account, replace(account, suspended=why[:200]))


def outdated(registry: Registry, grace: int, now: float) -> tuple[AnyChange, ...]:
    """What need not be remembered any more at ``now`` (seconds since 1970); ``grace`` is that of names."""
    changes: list[AnyChange] = []
    waiting = set()
    for name in registry.all_names():
        if name.released is None or now - name.released <= grace:
            waiting.add(name.owner)
        else:
            changes.append(Change(name, None))
    for device in registry.devices():
        account = registry.account(device.owner)
        void = account is None or device.mark.iat < account.least_iat
        if device.removed is None or (device.expires > now and not void):
            waiting.add(device.owner)
        else:
            changes.append(Change(device, None))
    for account in registry.accounts():
        if account.closed is not None and account.owner not in waiting and now - account.closed > grace:
            changes.append(Change(account, None))
    changes += [Change(report, None) for report in registry.reports() if now - report.seen > _LOST]
    changes += [Change(one, None) for one in registry.invitations() if one.expires <= now or one.used >= one.uses]
    return tuple(changes)

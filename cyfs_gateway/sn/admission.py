"""Who is let in, and what a request changes: a proven request goes in, a verdict with the changes comes out.

Nothing is changed here.  A verdict says yes or no, and why in a sentence for people; whoever carries it out applies its
changes to the registry and writes them down as one.  The rules, in short:

* The SN's own people always get an account; others where the operator opened the door, or lets codes open it.
* How often a neighbourhood may ask for names is bounded, and so is how many names an account has.  A name given up
  waits out its grace, and meanwhile only its last owner gets it back; waiting names count, or a patient squatter would
  take a hundred out of the world one by one.
* A machine comes by a document its owner signed, and proves itself that it holds the key in it: nobody can register a
  stranger's machine as theirs.  A newer document for the same machine name puts a new machine in the old one's place.
* A domain goes to whom its TXT record names today; the record of whoever had it before must be gone.
* An owner who is a key is that key for ever.  Any other owner changes keys by a document signed with the new one, as
  revisions allow, asked for with the old one or with the one their name resolves to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_ntop

from cyfs_gateway.sn.accounts import Account, AnyChange, Change, Device, Invitation, Name, Whereabouts, digest_of
from cyfs_gateway.sn.names import RESERVED, label, reserved_skeletons, skeleton
from cyfs_gateway.sn.quota import Quota
from cyfs_gateway.sn.registry import Registry
from cyfs_gateway.sn.requests import (
    Admit,
    Bind,
    Close,
    Point,
    Publish,
    Recover,
    Register,
    Rekey,
    Release,
    Remove,
    Report,
    Request,
)
from cyfs_ns import names
from cyfs_ns.errors import BadWire
from cyfs_ns.identity.did import Did, dev_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, OwnerDoc, ZoneBoot
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.proof import verify
from cyfs_ns.identity.reading import kind_of, read_document
from cyfs_ns.identity.revision import judge, revision_of
from cyfs_ns.identity.strictjson import Json
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.ratelimit import RateLimit

_MAPPED = b"\0" * 10 + b"\xff\xff"
_HOUR = 3600
_LOOKED_UP = 4
"""So many times as often as for names a neighbourhood may have us look up who somebody is."""
_OWN_LOOKED_UP = 32
"""The same, in an hour, of those who say that they are the SN's own people, whatever the operator lets strangers do."""
_FRESH = 60
"""Seconds for which a report that says nothing new is not written down again."""
_SETTLED = 5
"""Seconds a machine stays where it said it was, so that none keeps the disk busy."""
_MOST_MINI = 1024
"""Characters of a short document that goes into DNS."""
_WAITING = 2
"""Names given up that one account may have waiting, above those it may have in force."""
_MOST_REMOVED = 64
"""Removed machines remembered one by one; beyond, all documents as old as the oldest of them are void."""

USUAL = Quota(
    slow_bytes=50 << 30, most_bytes=100 << 30, rate=12_500_000, slow_rate=125_000, streams=256, devices=16, domains=4
)
"""What a stranger may have where the operator says nothing: enough for a family, too little to sell on."""
OWN = Quota(devices=256, names=16, domains=64)
"""What the SN's own people may have."""


class Code(StrEnum):
    """What a verdict comes to, for programs."""

    OK = "ok"
    REPLAYED = "replayed"
    CLOSED = "closed"
    INVITATION = "invitation"
    BAD_NAME = "bad-name"
    TAKEN = "taken"
    LIMIT = "limit"
    TOO_OFTEN = "too-often"
    UNKNOWN = "unknown"
    BARRED = "barred"
    PROOF = "proof"
    STALE = "stale"
    UNWRITTEN = "unwritten"
    """The books could not be written; nothing was changed, and the same request may come again."""
    SLOW = "slow"
    """The books are being written, and nobody knows yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``why`` is for people, ``told`` for the program that asked; only ``OK`` has ``changes``, and may have none."""

    code: Code
    why: str
    changes: tuple[AnyChange, ...] = ()
    told: Mapping[str, Json] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.code is Code.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How this SN is run.  ``owners`` are its own people; ``invites`` lets strangers in who have an invitation,
    ``open`` all others.

    ``quota`` is the usual one, ``own_quota`` that of the SN's people.  ``grace`` is in seconds; ``hourly`` is how many
    names one neighbourhood (an IPv4 /24, an IPv6 /48) may ask for in an hour; ``most_accounts`` bounds the books.
    """

    domain: str
    owners: Collection[Did] = frozenset()
    invites: bool = False
    open: bool = False
    quota: Quota = USUAL
    own_quota: Quota = OWN
    reserved: frozenset[str] = RESERVED
    grace: int = 90 * 86_400
    hourly: int = 8
    most_accounts: int = 100_000

    def quota_of(self, account: Account) -> Quota:
        if account.quota is not None:
            return account.quota
        return self.own_quota if account.owner in self.owners else self.quota


@dataclass(frozen=True, slots=True)
class Circumstances:
    """``source`` is the address (4 or 16 octets) a request came from; ``txts`` what the DNS has at
    :func:`challenge`'s name, each record as one run of bytes, for a :class:`Bind`."""

    source: bytes
    txts: tuple[bytes, ...] = ()

    @property
    def observed(self) -> str:
        """The canonical text of ``source``."""
        return names.ip(inet_ntop(AF_INET6 if len(self.source) == 16 else AF_INET, self.source))

    @property
    def neighbourhood(self) -> bytes:
        """By what strangers at ``source`` are counted: of IPv6 a /48, which anybody gets who asks for one."""
        is_v6 = len(self.source) == 16 and not self.source.startswith(_MAPPED)
        return self.source[:6] + bytes(10) if is_v6 else self.source


@dataclass(frozen=True, slots=True)
class Challenge:
    """The TXT record by which a domain's owner says whose it is: at ``name``, with ``value``."""

    name: str
    value: str


def challenge(domain: str, owner: Did, sn: str) -> Challenge:
    """What proves to the SN of the domain ``sn`` that ``domain`` is ``owner``'s."""
    return Challenge(f"_cyfs-sn.{domain}", f"sn={sn} owner={owner}")


class Registrar:
    """Decides upon requests about ``registry`` by ``policy``.  It remembers who asked how often, and nothing else."""

    def __init__(self, registry: Registry, policy: Policy) -> None:
        self.registry = registry
        self.policy = policy
        self._asked = RateLimit(policy.hourly)
        self._looked_up = RateLimit(_LOOKED_UP * policy.hourly)
        self._own_looked_up = RateLimit(_OWN_LOOKED_UP)

    def decide(self, request: Request, around: Circumstances, now: float) -> Verdict:
        """What becomes of ``request`` at ``now`` (seconds since 1970)."""
        action = request.action
        if isinstance(action, Admit):
            return self._admit(request, action, now)
        if isinstance(action, Report):
            return self._report(request, action, around, now)
        account = self.registry.account(request.issuer)
        if account is not None and request.stamp <= account.asked:
            return Verdict(Code.REPLAYED, "this request, or a later one, was obeyed before; sign a new one")
        if isinstance(action, Register) and (account is None or account.closed is not None):
            return self._newcomer(request, action, account, around, now)
        if account is None:
            return Verdict(Code.UNKNOWN, f"{request.issuer} has no account here; register a name first")
        if account.barred:
            return Verdict(Code.BARRED, account.barred)
        asked = replace(account, asked=request.stamp)
        if isinstance(action, Rekey):
            return self._rekey(request, action, account, asked, now)
        if request.key != account.key:
            return Verdict(Code.PROOF, "signed with another key than this account's; ask for the new key first")
        match action:
            case Register():
                return self._another_name(account, asked, action.name, around, now)
            case Bind():
                return self._bind(account, asked, action.domain, around, now)
            case Release():
                return self._release(account, asked, action.name, now)
            case Point():
                return self._point(account, asked, action)
            case Publish():
                return self._publish(account, asked, action, now)
            case Remove():
                return self._remove(account, asked, action.device, now)
            case Recover():
                fresh = replace(asked, least_iat=max(account.least_iat, request.stamp.iat + 1))
                after, gone = self._retired(fresh, self._machines(account), now)
                return _yes("all machines removed; sign new documents for those that stay", account, after, *gone)
            case Close():
                after, gone = self._retired(replace(asked, closed=int(now)), self._machines(account), now)
                given_up = tuple(self._given_up(name, now) for name in self._in_force(account))
                return _yes("closed", account, after, *gone, *given_up)

    def asks_for(self, issuer: Did, code: str, around: Circumstances, now: float) -> Verdict | None:
        """Whether others are asked who ``issuer`` is, whom nothing here proves, and who has an invitation or an empty
        ``code``; if not, what becomes of the request.  For who can become nothing here, and too often, nobody is asked.

        Anybody can claim to be one of our own people, so these are counted too, and apart: newcomers from the same
        neighbourhood take nothing from them.
        """
        policy, account = self.policy, self.registry.account(issuer)
        is_ours = issuer in policy.owners
        if not is_ours and (account is None or account.closed is not None):
            found = self._invitation(code, now) if code and policy.invites else None
            if isinstance(found, Verdict):
                return found
            if found is None and not policy.open:
                return self._closed()
        looked_up = self._own_looked_up if is_ours else self._looked_up
        if looked_up.lease(around.neighbourhood, int(now // _HOUR), 1):
            return None
        return Verdict(Code.TOO_OFTEN, "too many requests whose signer has to be looked up, from one neighbourhood")

    def _closed(self) -> Verdict:
        way = "; ask them for an invitation code" if self.policy.invites else " alone"
        return Verdict(Code.CLOSED, f"this SN is for its owner's people{way}")

    # -- accounts and names

    def _newcomer(
        self, request: Request, action: Register, former: Account | None, around: Circumstances, now: float
    ) -> Verdict:
        owner, policy = request.issuer, self.policy
        used: tuple[AnyChange, ...] = ()
        quota: Quota | None = None
        if former is not None and former.suspended:
            return Verdict(Code.BARRED, former.suspended)
        if owner not in policy.owners:
            if often := self._too_often(around, now):
                return often
            if action.code and policy.invites:
                found = self._invitation(action.code, now)
                if isinstance(found, Verdict):
                    return found
                used, quota = (Change(found, replace(found, used=found.used + 1)),), found.quota
            elif not policy.open:
                return self._closed()
            if former is None and len(self.registry.accounts()) >= policy.most_accounts:
                return Verdict(Code.LIMIT, "this SN has all the accounts it can hold")
        account = Account(
            owner=owner,
            key=request.key,
            since=int(now),
            quota=quota,
            asked=request.stamp,
            mark=None if former is None else former.mark,
            least_iat=0 if former is None else former.least_iat,
        )
        name = self._name(account, action.name, now)
        if isinstance(name, Verdict):
            return name
        return Verdict(Code.OK, "welcome", (Change(former, account), *used, name))

    def _another_name(
        self, account: Account, asked: Account, untrusted: str, around: Circumstances, now: float
    ) -> Verdict:
        if account.owner not in self.policy.owners and (often := self._too_often(around, now)):
            return often
        name = self._name(account, untrusted, now)
        if isinstance(name, Verdict):
            return name
        return _yes("it is yours", account, asked, *((name,) if name.before != name.after else ()))

    def _name(self, account: Account, untrusted: str, now: float) -> Change[Name] | Verdict:
        """The change that gives the name to ``account``; the same before and after if it has it."""
        try:
            wanted = label(untrusted)
        except BadWire as bad:
            return Verdict(Code.BAD_NAME, str(bad))
        if skeleton(wanted) in reserved_skeletons(self.policy.reserved) and account.owner not in self.policy.owners:
            return Verdict(Code.BAD_NAME, f"{wanted!r} is reserved, or looks like a name that is")
        for other in self.registry.looks_like(wanted):
            if other.owner != account.owner and not self._is_free(other, now):
                how = "is taken" if other.name == wanted else f"looks like {other.name!r}, which is taken"
                return Verdict(Code.TAKEN, f"{wanted!r} {how}")
        held = self.registry.name(wanted)
        if held is not None and held.owner == account.owner and held.released is None:
            return Change(held, held)
        mine = [name for name in self.registry.names_of(account.owner) if not name.is_domain and name.name != wanted]
        may = self.policy.quota_of(account).names
        if sum(name.released is None for name in mine) >= may:
            return Verdict(Code.LIMIT, f"this account may have {may} names, and has them; give one up first")
        if sum(not self._is_free(name, now) for name in mine) >= may + _WAITING:
            return Verdict(Code.LIMIT, "too many names of this account wait to become free; take one of those again")
        return Change(held, Name(name=wanted, owner=account.owner, since=int(now)))

    def _is_free(self, name: Name, now: float) -> bool:
        return name.released is not None and now - name.released > self.policy.grace

    def _too_often(self, around: Circumstances, now: float) -> Verdict | None:
        if self._asked.lease(around.neighbourhood, int(now // _HOUR), 1):
            return None
        return Verdict(Code.TOO_OFTEN, f"more than {self.policy.hourly} names an hour from one neighbourhood")

    def _invitation(self, code: str, now: float) -> Invitation | Verdict:
        try:
            found = self.registry.invitation(digest_of(code))
        except BadWire as bad:
            return Verdict(Code.INVITATION, str(bad))
        if found is None or found.expires <= now or found.used >= found.uses:
            return Verdict(Code.INVITATION, "this invitation code is unknown, used up, or over")
        return found

    def _bind(self, account: Account, asked: Account, domain: str, around: Circumstances, now: float) -> Verdict:
        sn = self.policy.domain
        if domain == sn or domain.endswith(f".{sn}") or sn.endswith(f".{domain}"):
            return Verdict(Code.BAD_NAME, f"{domain} is no domain of its own beside {sn}")
        wanted = challenge(domain, account.owner, sn)
        held = self.registry.name(domain)
        if held is not None and held.owner == account.owner and held.released is None:
            return _yes("it is yours", account, asked)
        told: dict[str, Json] = {"txt_name": wanted.name, "txt_value": wanted.value}
        if wanted.value.encode() not in around.txts:
            return Verdict(Code.PROOF, f"publish TXT {wanted.value!r} at {wanted.name}, then ask again", told=told)
        if held is not None and challenge(domain, held.owner, sn).value.encode() in around.txts:
            return Verdict(Code.TAKEN, f"{wanted.name} still names {held.owner} too; remove that record", told=told)
        may = self.policy.quota_of(account).domains
        if sum(name.is_domain for name in self._in_force(account)) >= may:
            return Verdict(Code.LIMIT, f"this account may have {may} domains, and has them; give one up first")
        return _yes("proven", account, asked, Change(held, Name(name=domain, owner=account.owner, since=int(now))))

    def _release(self, account: Account, asked: Account, wanted: str, now: float) -> Verdict:
        name = self._own(account, wanted)
        if isinstance(name, Verdict):
            return name
        return _yes("given up", account, asked, self._given_up(name, now))

    def _point(self, account: Account, asked: Account, action: Point) -> Verdict:
        name = self._own(account, action.name)
        if isinstance(name, Verdict):
            return name
        if action.device is not None and action.device not in {device.did for device in self._machines(account)}:
            return Verdict(Code.UNKNOWN, f"{action.device} is no machine of this account")
        return _yes("done", account, asked, Change(name, replace(name, device=action.device)))

    def _publish(self, account: Account, asked: Account, action: Publish, now: float) -> Verdict:
        name = self._own(account, action.name)
        if isinstance(name, Verdict):
            return name
        if action.boot is not None:
            try:
                verify(action.boot, ZoneBoot.kind, account.key, now, issuer=account.owner, least_iat=account.least_iat)
            except BadWire as bad:
                return Verdict(Code.PROOF, str(bad))
        boot = "" if action.boot is None else action.boot.text
        return _yes("done", account, asked, Change(name, replace(name, boot=boot, issuers=action.issuers)))

    def _own(self, account: Account, wanted: str) -> Name | Verdict:
        name = self.registry.name(wanted)
        if name is None or name.owner != account.owner or name.released is not None:
            return Verdict(Code.UNKNOWN, f"{wanted!r} is no name of this account")
        return name

    def _in_force(self, account: Account) -> list[Name]:
        return [name for name in self.registry.names_of(account.owner) if name.released is None]

    def _given_up(self, name: Name, now: float) -> Change[Name]:
        """A domain is free at once: it goes to whom its record names."""
        waiting = Name(name=name.name, owner=name.owner, since=name.since, released=int(now))
        return Change(name, None if name.is_domain else waiting)

    def _rekey(self, request: Request, action: Rekey, account: Account, asked: Account, now: float) -> Verdict:
        owner = account.owner
        if owner.key is not None:
            return Verdict(Code.PROOF, f"{owner} is its key, and a key cannot become another; open another account")
        try:
            key = _owner_key(action.document.claims)
            document = verify(action.document, OwnerDoc.kind, key, now, issuer=owner, least_iat=account.least_iat)
        except BadWire as bad:
            return Verdict(Code.PROOF, str(bad))
        if document.subject is None or document.subject.canonical != owner:
            return Verdict(Code.PROOF, f"the document is about {document.subject}")
        if request.key not in (account.key, key):
            return Verdict(Code.PROOF, "signed neither with the key of the account nor with the new one")
        change = judge(account.mark, mark := revision_of(document, action.document))
        if not change.acceptable:
            return Verdict(Code.STALE, change.value)
        return _yes("the account has its new key", account, replace(asked, key=key, mark=mark))

    # -- machines

    def _admit(self, request: Request, action: Admit, now: float) -> Verdict:
        try:
            kind = kind_of(action.document.claims)
            owner = _owner_of(action, kind)
            account = self.registry.account(owner)
            if account is None:
                return Verdict(Code.UNKNOWN, f"{owner} has no account here; register a name first")
            if account.barred:
                return Verdict(Code.BARRED, account.barred)
            document = verify(action.document, kind, account.key, now, issuer=account.owner)
        except BadWire as bad:
            return Verdict(Code.PROOF, str(bad))
        assert isinstance(document, DeviceDoc | DeviceMini)
        did = request.issuer
        if dev_did(document.key) != did:
            return Verdict(Code.PROOF, f"the document is {dev_did(document.key)}'s, and {did} shows it")
        mark = revision_of(document, action.document)
        held = self.registry.known_device(did)
        if held is not None and held.owner == account.owner:
            if held.removed is None and held.mark == mark:
                return Verdict(Code.OK, "known")
            change = judge(held.mark, mark, account.least_iat)
            if not change.acceptable or mark == held.mark:
                return Verdict(
                    Code.STALE,
                    change.value
                    if held.removed is None
                    else "its owner removed this machine; a document signed after that brings it back",
                )
        elif held is not None and held.removed is None:
            return Verdict(Code.TAKEN, f"{did} is a machine of {held.owner}, who has to remove it first")
        elif mark.iat < account.least_iat:
            return Verdict(Code.STALE, "issued before its owner started again; ask for a new document")
        device = Device(
            did=did,
            owner=account.owner,
            name=document.name,
            since=int(now),
            mark=mark,
            expires=document.exp,
            mini=_mini(action.document, document, account.key, now),
        )
        others = [one for one in self._machines(account) if one.did != did]
        namesake = next((one for one in others if one.name == device.name), None)
        before = namesake if held is None or held.removed is not None else held
        # Who was first answers for the account's names, so no two are of one second, and a renewal changes nothing.
        last = max((one.since for one in others), default=0)
        device = replace(device, since=max(int(now), last + 1) if before is None else before.since)
        if namesake is not None and namesake.mark.iat >= mark.iat:
            return Verdict(Code.STALE, f"{namesake.did} has a later document as {device.name!r}")
        if len(others) - (namesake is not None) >= (may := self.policy.quota_of(account).devices):
            return Verdict(Code.LIMIT, f"this account may have {may} machines, and has them; remove one first")
        after, gone = self._retired(account, [namesake] if namesake is not None else [], now, did)
        told: list[AnyChange] = [Change(account, after)] if after != account else []
        if (
            held is not None
            and held.owner != account.owner
            and (former := self.registry.account(held.owner)) is not None
        ):
            # What says that its former owner removed it is overwritten; else a thief could wash a machine clean so.
            told.append(Change(former, replace(former, least_iat=max(former.least_iat, held.mark.iat + 1))))
        return Verdict(Code.OK, f"admitted as {device.name!r}", (*told, *gone, Change(held, device)))

    def _remove(self, account: Account, asked: Account, did: Did, now: float) -> Verdict:
        device = self.registry.known_device(did)
        if device is None or device.owner != account.owner or device.removed is not None:
            return Verdict(Code.UNKNOWN, f"{did} is no machine of this account")
        after, gone = self._retired(asked, [device], now)
        return _yes("removed", account, after, *gone)

    def _retired(
        self, account: Account, machines: Collection[Device], now: float, but: Did | None = None
    ) -> tuple[Account, tuple[AnyChange, ...]]:
        """The account without ``machines``, and what that changes besides; of ``but`` nothing is changed."""
        gone: list[AnyChange] = []
        for device in machines:
            gone.append(Change(device, replace(device, removed=int(now))))
            if (where := self.registry.where(device.did)) is not None:
                gone.append(Change(where, None))
        before = [one for one in self.registry.devices_of(account.owner) if one.removed is not None and one.did != but]
        if (over := len(before) + len(machines) - _MOST_REMOVED) > 0:
            void = sorted(one.mark.iat for one in before)[:over]
            account = replace(account, least_iat=max([account.least_iat, *(iat + 1 for iat in void)]))
        gone += [Change(one, None) for one in before if one.mark.iat < account.least_iat]
        return account, tuple(gone)

    def _machines(self, account: Account) -> list[Device]:
        return [device for device in self.registry.devices_of(account.owner) if device.removed is None]

    def _report(self, request: Request, action: Report, around: Circumstances, now: float) -> Verdict:
        device = self.registry.device(request.issuer)
        if device is None or device.expires <= now:
            return Verdict(Code.UNKNOWN, f"{request.issuer} is no machine of anybody here; show its document first")
        last = self.registry.where(device.did)
        if last is not None and request.stamp.iat <= last.iat:
            return Verdict(Code.STALE, "a report of the same second or a later one is here")
        report = Whereabouts(
            did=device.did,
            iat=request.stamp.iat,
            seen=int(now),
            addresses=action.addresses,
            observed=around.observed,
        )
        told: dict[str, Json] = {"observed": around.observed}
        if last is not None and not _same_place(last, report) and 0 <= now - last.seen < _SETTLED:
            return Verdict(Code.TOO_OFTEN, f"a machine moves at most every {_SETTLED} s")
        if last is not None and _same_place(last, report) and 0 <= now - last.seen < _FRESH:
            return Verdict(Code.OK, "nothing new", told=told)
        return Verdict(Code.OK, "noted", (Change(last, report),), told)


def _yes(why: str, before: Account, after: Account, *changes: AnyChange) -> Verdict:
    return Verdict(Code.OK, why, (Change(before, after), *changes))


def _same_place(one: Whereabouts, other: Whereabouts) -> bool:
    return (one.addresses, one.observed) == (other.addresses, other.observed)


def _owner_key(claims: dict[str, Json]) -> PublicKey:
    """The key that an owner document gives its owner; whoever believes it has it signed with that key."""
    document = read_document(claims, OwnerDoc.kind)
    assert isinstance(document, OwnerDoc)
    return document.key


def _mini(token: Token, document: DeviceDoc | DeviceMini, key: PublicKey, now: float) -> str:
    """The short form of a machine's document that may stand in DNS: itself, or what is inside; empty if that is not
    of the same machine, or not signed with ``key``."""
    if isinstance(document, DeviceMini):
        return token.text if len(token.text) <= _MOST_MINI else ""
    if document.mini_jwt is None or len(document.mini_jwt) > _MOST_MINI:
        return ""
    try:
        mini = verify(read_token(document.mini_jwt), DeviceMini.kind, key, now)
    except BadWire:
        return ""
    return document.mini_jwt if mini.main_key == document.key else ""


def _owner_of(action: Admit, kind: str) -> Did:
    """Whose machine a document says it is; short ones do not say, and the machine does."""
    document = read_document(action.document.claims, kind)
    if not isinstance(document, DeviceDoc | DeviceMini):
        raise BadWire(f"a {kind} document admits no machine")
    told = document.owner.canonical if isinstance(document, DeviceDoc) and document.owner is not None else None
    if told is None and action.owner is None:
        raise BadWire("neither the document nor the machine says whose it is")
    if told is not None and action.owner not in (None, told):
        raise BadWire(f"the document is {told}'s, not {action.owner}'s")
    owner = told or action.owner
    assert owner is not None
    return owner

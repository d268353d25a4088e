"""Who the device at the other end of a tunnel is, and what it may do here.  Nothing in this file asks or dials.

A peer is known by what was found of its name at the level that is required, never less: its key, and with it the trust
in that key.  Whose it is, and of which zone, counts only as far as a pin of ours speaks for it, since anybody may sign
that his device is somebody's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cyfs_gateway.config.model import Requirement, RtcpConfig, ServiceConfig
from cyfs_gateway.flow import PEER, Flow, Identity
from cyfs_gateway.host import Vouched
from cyfs_gateway.rules.index import Geo
from cyfs_gateway.rules.model import Logic, Rule, SubRule, Text, Verdict
from cyfs_gateway.rules.parse import parse_condition
from cyfs_gateway.rules.table import RuleTable
from cyfs_ns.domains import DomainMap
from cyfs_ns.errors import BadWire, Refused
from cyfs_ns.identity.did import Bridges, Did, dev_did, host_of_did
from cyfs_ns.identity.documents import DeviceDoc, DeviceMini, Document, ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.trust import outcome
from cyfs_ns.trust.anchors import Anchors, Pin
from cyfs_ns.trust.evidence import Claim, Evidence
from cyfs_ns.trust.level import Purpose, Trust
from cyfs_ns.trust.places import device_did, lineage
from cyfs_ns.trust.weigh import weigh
from rtcp.party import Local

_LEAST: dict[Requirement, Trust] = {
    "authority_current": Trust.OWNER_SIGNED,
    "trusted_snapshot": Trust.HOST_SNAPSHOT,
}


def level_needed(peer: Did, require: Requirement) -> Trust:
    """The least trust in the key of ``peer`` that will do.  For whoever is a key there is no doubt which."""
    return Trust.KEY_PROVEN if peer.key is not None else _LEAST[require]


def may_bootstrap(peer: Did, anchors: Anchors) -> bool:
    """Whether the DNS alone may introduce ``peer``: nothing above it is pinned, so there is no better word."""
    return not any(anchors.pin(name) is not None for name in lineage(peer))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a peer: the key it has to prove, who it is with that key, and where it listens."""

    key: PublicKey
    identity: Identity
    port: int | None = None
    addresses: tuple[str, ...] = ()


def known_by(peer: Did, claims: Collection[Claim], least: Trust, anchors: Anchors, bridges: Bridges) -> Known | None:
    """What ``claims`` at ``least`` or above say of ``peer``; None: they give it no key."""
    whom = peer.canonical
    about = sorted((claim for claim in claims if claim.about.canonical == whom), key=lambda claim: -claim.trust)
    sure = [claim for claim in about if claim.trust >= least]
    found = next(
        (
            (claim.value, claim.trust)
            for claim in sure
            if claim.kind == "key" and claim.key == "self" and isinstance(claim.value, PublicKey)
        ),
        None if whom.key is None else (whom.key, Trust.KEY_PROVEN),
    )
    if found is None or (whom.key is not None and found[0] != whom.key):
        return None
    key, trust = found
    documents = [claim.value for claim in sure if isinstance(claim.value, DeviceDoc | DeviceMini)]
    owner, zone = _belongs(whom, claims, trust, anchors)
    device, host = str(dev_did(key)), _host(whom, bridges)
    identity = Identity(did=str(whom), host=host, owner=owner, zone=zone, trust=trust, device=device)
    port = next((document.rtcp_port for document in documents if document.rtcp_port is not None), None)
    addresses = (str(claim.value) for claim in sure if claim.kind == "address")
    return Known(key, identity, port, tuple(dict.fromkeys(addresses)))


def known_of(peer: Did, said: outcome.Outcome, config: RtcpConfig, anchors: Anchors, bridges: Bridges) -> Known | None:
    """What ``said`` proves of ``peer`` as surely as ``config`` requires, or as it lets the DNS; None: too little."""
    if isinstance(said, outcome.Found):
        return known_by(peer, said.claims, level_needed(peer, config.require), anchors, bridges)
    if isinstance(said, outcome.TooWeak) and config.txt_bootstrap and may_bootstrap(peer, anchors):
        return known_by(peer, said.found, Purpose.DIAL.least, anchors, bridges)
    return None


def known_as(peer: Did, vouched: Vouched, anchors: Anchors, bridges: Bridges) -> Known | None:
    """What a module has verified of ``peer``; None: no pin here lets its signer decide, or one speaks against it."""
    document, whom, own = vouched.document, peer.canonical, anchors.pin(peer)
    speakers = (whose for whose in (document.zone, document.issuer) if whose is not None)
    pins = [pin for whose in speakers if (pin := anchors.pin(whose)) is not None]
    if not pins or any(pin.revoked or pin.key != vouched.signer or document.iat < pin.least_iat for pin in pins):
        return None
    if own is not None and (own.revoked or own.key != document.key):
        return None
    fact = Evidence(
        trust=Trust.HOST_SNAPSHOT, what=f"the document of {whom}", source="a module of this gateway", at=document.iat
    )
    claims = [
        Claim(about=whom, kind="document", key=document.kind, value=document, evidence=fact),
        Claim(about=whom, kind="key", key="self", value=document.key, evidence=fact),
        *(
            Claim(about=whom, kind="address", value=address, evidence=fact)
            for address in (*vouched.addresses, *document.ips)
        ),
    ]
    return known_by(whom, claims, Trust.HOST_SNAPSHOT, anchors, bridges)


def joined(said: Known | None, vouched: Known | None) -> Known | None:
    """What is ``said`` of somebody and what a module has ``vouched`` for, whose key it is in any case."""
    if said is None or vouched is None:
        return vouched or said
    who = said.identity if said.key == vouched.key else vouched.identity
    places = (*vouched.addresses, *said.addresses)
    return Known(vouched.key, who, vouched.port or said.port, tuple(dict.fromkeys(places)))


def known_still(
    peer: Did,
    key: PublicKey,
    before: Trust,
    said: outcome.Outcome,
    config: RtcpConfig,
    anchors: Anchors,
    bridges: Bridges,
) -> Identity | None:
    """Who ``peer`` is by now, which has a tunnel by ``key`` and was known by ``before``.

    None: nobody could be asked, and what is held here still proves it as it did.  Silence is no verdict, so it ends no
    tunnel; but neither does it make up for more that is required now, or for a pin that is gone.  Raises ``Refused``.
    """
    known = known_of(peer, said, config, anchors, bridges)
    if known is None:
        match said:
            case outcome.TooWeak() if before >= max(level_needed(peer, config.require), Trust.HOST_SNAPSHOT):
                held = known_by(peer, said.found, Trust.HOST_SNAPSHOT, anchors, bridges)
                if held is not None and held.key == key:
                    return None
            case outcome.Absent() | outcome.Unreachable() if before < Trust.HOST_SNAPSHOT:
                if config.txt_bootstrap and may_bootstrap(peer, anchors):
                    return None
        raise Refused(f"{said.why} (rtcp/require: {config.require})")
    if known.key != key:
        raise Refused(f"{peer} has another key now")
    return known.identity


def check_not_revoked(key: PublicKey, anchors: Anchors) -> None:
    """Raises ``Refused`` for a key that is revoked on this machine, by whatever name its device goes."""
    pin = anchors.pin(dev_did(key))
    if pin.revoked if pin is not None else key in anchors.revoked_keys:
        raise Refused(f"the key {key.x} is revoked on this machine")


def gateways_of(zone: Did, claims: Collection[Claim], least: Trust) -> tuple[Did, ...]:
    """The machines that take in what comes for ``zone``, as its documents at ``least`` or above say: first those that
    anybody can dial.  Empty: it is no zone, or has none."""
    whom = zone.canonical
    lists = [
        claim.value
        for claim in claims
        if claim.trust >= least and claim.about.canonical == whom and isinstance(claim.value, ZoneBoot | ZoneDoc)
    ]
    doors = [ood for document in sorted(lists, key=lambda one: -one.iat) for ood in document.oods if ood.is_gateway]
    return tuple(dict.fromkeys(device_did(ood.name, whom) for ood in sorted(doors, key=lambda ood: not ood.on_wan)))


def gateways_for(name: Did, zone: Did, claims: Collection[Claim], least: Trust) -> tuple[Did, ...]:
    """The gateways of ``zone`` for ``name``, which is its own or one below it of which nothing is known.

    Empty also if anything says that there is a machine of that name, or of one above it: where that is, is then to be
    found out.
    """
    lists = [claim.value for claim in claims if isinstance(claim.value, ZoneBoot | ZoneDoc)]
    machines = {ood.name for each in lists for ood in each.oods}
    machines.update(device for each in lists if isinstance(each, ZoneDoc) for device in each.devices)
    theirs = {device_did(machine, zone.canonical) for machine in machines}
    return () if theirs.intersection(lineage(name)) else gateways_of(zone, claims, least)


def nobody_but(device: Did, bridges: Bridges) -> Identity:
    """Of whom nothing is known but the key."""
    return Identity(did=str(device), host=_host(device, bridges), trust=Trust.KEY_PROVEN, device=str(device))


def brought_along(token: Token, peer: Did, anchors: Anchors, now: float) -> tuple[Claim, ...]:
    """What the document ``token``, which ``peer`` itself brought, proves at ``now``.

    It is what a pin of ours signed, and a snapshot at best: its bearer chose which of several to show.
    """
    place = Did(peer.method, peer.id.partition(".")[2]) if peer.key is None and peer.id.count(".") > 1 else peer
    fact = Evidence(trust=Trust.NONE, what=f"brought by {peer}", source="the peer itself", at=now)
    claim = Claim(about=place, kind="token", value=token, evidence=fact)
    weighed = weigh([claim], anchors, max(now, float(anchors.not_before)), now)
    return tuple(
        replace(one, evidence=replace(one.evidence, trust=min(one.trust, Trust.HOST_SNAPSHOT)))
        for one in weighed.claims
        if one.trust >= Trust.HOST_SNAPSHOT
    )


def own_owner(local: Local, anchors: Anchors, now: float) -> str:
    """The DID of the owner of ``local``, as its own document says and a pin of ours confirms at ``now``.

    Written as that of peers is; empty when nobody is known.
    """
    if local.device_doc_jwt is None:
        return ""
    try:
        token = read_token(local.device_doc_jwt)
    except BadWire:
        return ""
    claims = brought_along(token, local.did, anchors, now)
    known = known_by(local.did, claims, Trust.HOST_SNAPSHOT, anchors, local.bridges or {})
    return "" if known is None else known.identity.owner


def _host(did: Did, bridges: Bridges) -> str:
    try:
        return host_of_did(did, bridges, case_safe=True).lower()
    except BadWire:
        return ""


def _belongs(whom: Did, claims: Collection[Claim], trust: Trust, anchors: Anchors) -> tuple[str, str]:
    """Owner and zone, as far as somebody who is pinned says so, at ``trust`` or above."""
    least = max(trust, Trust.HOST_SNAPSHOT)
    said = [claim for claim in claims if claim.trust >= least and not isinstance(claim.value, str | bytes)]
    own = [claim.value for claim in said if claim.about.canonical == whom and isinstance(claim.value, DeviceDoc)]
    zones = [*(document.zone for document in own if document.zone is not None), *lineage(whom)[1:]]
    pin = next((pin for zone in zones if (pin := _in_force(anchors, zone)) is not None), None)
    lists: list[Document] = [
        claim.value
        for claim in said
        if pin is not None and claim.about.canonical == pin.about.canonical
        if isinstance(claim.value, ZoneBoot | ZoneDoc)
    ]
    for document in (*own, *lists):
        owner = document.issuer
        if owner is None:
            continue
        # The key that signed it is pinned for the zone, or for the owner: whose it is has to be that one's.
        of_owner = _in_force(anchors, owner)
        key = owner.key if of_owner is None else of_owner.key
        if key is not None and (of_owner is not None if pin is None else key == pin.key):
            return str(owner.canonical), _text(pin)
    return ("" if pin is None else str(dev_did(pin.key))), _text(pin)


def _in_force(anchors: Anchors, whom: Did) -> Pin | None:
    pin = anchors.pin(whom)
    return None if pin is None or pin.revoked else pin


def _text(pin: Pin | None) -> str:
    return "" if pin is None else str(pin.about.canonical)


# What they may


class PeerRules:
    """The services and the admission of one configuration, compiled.  ``rules`` are those for flows."""

    def __init__(self, config: RtcpConfig, rules: Iterable[Rule], geo: Geo) -> None:
        """Raises ``ConfigFault``, for a geo database that is missing too."""

        sns = tuple(parse_condition(f"DID,{one.sn.peer.canonical}") for one in config.sns)
        self._services = [
            (service, compile_conditions(service.allow + (sns if service.public else ()), service.name, geo))
            for service in config.services
        ]
        hosts: dict[tuple[str, int], dict[str, str]] = {}
        for service in config.services:
            if service.hosts:
                known = hosts.setdefault((service.network, service.port), {})
                known.update(dict.fromkeys(service.hosts, service.name))
        self._by_host = {place: DomainMap(names) for place, names in hosts.items()}
        self._admission = compile_conditions(config.admission, "", geo) if config.admission else None
        self.speedtest = None if config.speedtest is None else compile_conditions(config.speedtest, "speedtest", geo)
        """Who may measure the way to here; None: devices of the same owner."""
        inside = config.private_addresses
        self.inside = None if inside is None else compile_conditions(inside, "private-addresses", geo)
        """Who may know our addresses inside; None: devices of the same owner."""
        conditions = [rule for service in config.services for rule in service.allow]
        self._named = {text for rule in (*conditions, *rules) for text in named_dids(rule)}
        self._named |= {str(kept.peer.canonical) for kept in (*config.keep, *(one.sn for one in config.sns))}

    def admit(
        self,
        source: str,
        identity: Identity,
        also: Collection[str] = (),
        is_wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Whether a new tunnel from the address ``source`` is wanted; ``also`` are DIDs named elsewhere, ``is_wanted``
        is asked about those for whom or against whom no rule speaks.

        Raises ``Refused``.
        """
        if self._admission is None:
            is_known = identity.trust >= Trust.HOST_SNAPSHOT or identity.did in self._named or identity.did in also
            if not is_known and not is_wanted():
                raise Refused(f"{identity.did} is a stranger here: nothing in the configuration names it")
            return
        flow = Flow("tcp", PEER, source, 0, "", "", 0, identity=identity)
        verdict = self._admission.match(flow, 0, True, True)
        if isinstance(verdict, Verdict) and verdict.index < 0 and is_wanted():
            return
        if not isinstance(verdict, Verdict) or verdict.outbound != "ACCEPT":
            raise Refused(f"no tunnel for {identity.did}: {getattr(verdict, 'why', 'no rule matched')}")

    def service(self, flow: Flow, name: str) -> tuple[ServiceConfig, Verdict] | None:
        """What ``flow`` asks for, by ``name`` or, if that is empty, by its port; None: it is no service.

        Raises ``Refused`` for one that is not for this peer.
        """
        by_host = self._by_host.get((flow.network, flow.dst_port)) if "." in name else None
        name = (by_host.get(name) if by_host is not None else None) or name
        if name == f"{flow.network}-{flow.dst_port}":  # a public port of an SN, leased for no service by name
            name = ""
        for service, table in self._services:
            is_it = name == service.name if name else flow.dst_port == service.port and not service.hosts
            if service.network != flow.network or not is_it:
                continue
            verdict = table.match(flow, 0, True, True)
            if not isinstance(verdict, Verdict) or verdict.index < 0:
                raise Refused(f"the service {service.name} is not for {flow.identity.did if flow.identity else 'it'}")
            why = f"service {service.name}, {verdict.why}"
            return service, Verdict(-1, "Service", service.name, "DIRECT", why)
        return None


def compile_conditions(conditions: Sequence[Rule], outbound: str, geo: Geo) -> RuleTable:
    """What leads whoever meets one of ``conditions`` to ``outbound``, or if that is empty to the condition's own.

    Raises ``ConfigFault``, for a geo database that is missing too.
    """
    rules = [replace(rule, outbound=outbound or rule.outbound) for rule in conditions]
    return RuleTable.compile(rules, sub_rules={}, sets={}, geo=geo)


def named_dids(rule: Rule) -> Iterator[str]:
    """Every DID that ``rule`` names, however deep inside."""
    match rule:
        case Text(word="DID"):
            yield rule.text
        case Logic():
            for part in rule.parts:
                yield from named_dids(part)
        case SubRule():
            yield from named_dids(rule.condition)

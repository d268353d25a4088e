"""The SNs that this machine belongs to, all of them: each has a loop of its own (``member``), and waits for no other.

They also lead us to others.  Whoever wants a tunnel to a peer asks here for ways through SNs: our own, of those that
answer the one first whose domain the peer's name is below, then those that the documents of the peer's zone name.  A
way through an SN is a stream that leads to the peer's own door; the SN moves what it cannot read.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cyfs_gateway.config.model import MemberConfig
from cyfs_gateway.io.acquaintance import Acquaintance
from cyfs_gateway.io.member import PORT, Member
from cyfs_gateway.io.memberfile import MemberFile
from cyfs_gateway.io.sntalk import HOST, Conversation, connected
from cyfs_gateway.membership import Word, is_below, public_addresses
from cyfs_gateway.sn.ingress import HTTP_PORT, TLS_PORT
from cyfs_gateway.sn.talk import RelaySession, RelayWith
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from cyfs_ns.identity.did import Did, dev_did, host_of_did, subject
from cyfs_ns.identity.documents import ZoneBoot, ZoneDoc
from cyfs_ns.identity.keys import PublicKey
from cyfs_ns.links import Picture
from cyfs_ns.trust import outcome
from cyfs_ns.trust.level import Purpose
from cyfs_ns.trust.places import lineage
from rtcp.io.answers import TooSoon
from rtcp.io.device import Carrier
from rtcp.io.dialling import Dial
from rtcp.io.mux import MuxedTunnel
from rtcp.io.pipe import DEFAULT_PORT
from rtcp.party import Address, Found, Local
from tunnels.endpoint import Target
from tunnels.io.tls import TlsClient
from tunnels.spec import TlsOptions

if TYPE_CHECKING:
    from cyfs_gateway.host import TxtPublisher
    from cyfs_gateway.io.rtcp import Way
    from rtcp.io.pipe import Pipe

_ASKING = 1.0
"""Seconds for what documents say of a peer's SN: whoever dials it has found it by then, or has other ways."""
_MOST_FOREIGN = 2
_MOST_ABOVE = 4

_log = logging.getLogger("cyfs.sn.member")


OpenStream = Callable[..., Awaitable["Pipe"]]
"""Opens a stream to a peer, by a way: of :class:`cyfs_gateway.io.peers.Peers`."""


class Membership:
    """See the module's text.  ``open_stream`` opens one to whom a name leads, ``way`` is that of an SN of ours.
    ``content`` is called when all is said to one of them, which has nothing against it."""

    def __init__(
        self,
        acquaintance: Acquaintance,
        open_stream: OpenStream,
        way: Callable[[MemberConfig], Way],
        local: Callable[[], Local],
        dial: Dial,
        content: Callable[[], None] = lambda: None,
    ) -> None:
        self._acquaintance, self._open_stream, self._way, self._local = acquaintance, open_stream, way, local
        self._dial, self._content = dial, content
        self._tls = TlsClient(TlsOptions(skip_cert_verify=True, alpn=("http/1.1",)))
        """A coat for the way: who the SN is shows the handshake inside, whoever ends this TLS."""
        self._file: MemberFile | None = None
        self._members: dict[MemberConfig, Member] = {}
        self._own: tuple[str, ...] = ()
        self._challenges: dict[MemberConfig, dict[str, dict[str, None]]] = {}
        """TXT values for certificates by SN, and there by host relative to our name."""
        self._seeking: set[Did] = set()
        """SNs of others that are being dialled: no SN leads to them."""

    def adopt(self, configs: Sequence[MemberConfig], home: Path) -> None:
        """Belong to these SNs from now on; neither waits nor fails."""
        file = self._file = self._file or MemberFile(home)
        before = self._members
        bridges = self._acquaintance.bridges
        self._members = {
            one: before.get(one) or Member(one, file, self._local, self._domains_but, bridges, self._content)
            for one in configs
        }
        for member in self._members.values():
            member.renew()
        self._say()

    def __iter__(self) -> Iterator[Member]:
        """The best first."""
        return iter(self._members.values())

    def status(self) -> list[dict[str, Any]]:
        """As ``cyfs-gateway status`` shows it."""
        return [member.status() for member in self]

    # What is said to them

    def look(self, picture: Picture) -> None:
        """The links of this machine are these by now."""
        self._own = public_addresses(home.ip for home in picture.homes if home.lasting)
        self._say()

    def network_changed(self) -> None:
        """What they see of us may be another."""
        for member in self:
            member.network_changed()

    def publisher(self, name: str) -> TxtPublisher | None:
        """As ``cyfs_gateway.host.PublisherFor``: the SN below whose domain ``name`` is ours."""
        for member in self:
            ours = f"{member.course.name}.{member.domain}"
            if member.domain and member.course.name and (name == ours or is_below(name, ours)):
                return _Publisher(self, member, name.removesuffix(ours).rstrip("."))
        return None

    def _say(self) -> None:
        for member in self:
            addresses = self._own if member.config.addresses != "none" else ()
            challenges = self._challenges.get(member.config, {})
            word = {host: tuple(values) for host, values in challenges.items() if values}
            member.say(Word(addresses, member.config.addresses == "visitors", word))

    def _domains_but(self, one: Member) -> set[str]:
        return {each.domain for each in self if each is not one and each.domain}

    # What they do for us

    def places(self, did: Did) -> list[Address]:
        """Where the configuration says that ``did`` is, if it is an SN of ours."""
        return [
            one.config.at for one in self if one.config.at is not None and one.config.sn.peer.canonical == did.canonical
        ]

    def doors(self, key: PublicKey) -> frozenset[Address]:
        """Where SNs of ours take tunnels, but for the SN with ``key``.

        Names that they serve lead there, since visitors come in by them; whoever looks for the device of such a name
        finds none at that door.
        """
        device = dev_did(key)
        return frozenset(
            (address, DEFAULT_PORT if one.config.at is None else one.config.at[1])
            for one in self
            if one.course.here is not None
            and device not in (one.config.sn.peer.canonical, one.course.here.did.canonical)
            for address in one.course.here.addresses
        )

    def observers(self) -> Sequence[Address]:
        """Where one can ask how one is seen (STUN), two ports each: the SNs that answered us, the best first."""
        return [
            (address, port)
            for member in self
            if member.course.here is not None and member.course.here.udp
            for address in member.course.here.addresses
            for port in (member.course.here.udp, member.course.here.udp + 1)
            if port < 1 << 16
        ]

    async def relays(self, did: Did, found: Found, heard: Sequence[Did] = ()) -> Sequence[Carrier]:
        """Ways to ``did`` through SNs, the best first; ``heard`` are some that may lead there, beside those that its
        zone names.  Nobody is dialled before one is taken."""
        device, name = dev_did(found.key), did.canonical
        sns = {one.config.sn.peer.canonical: one for one in self}
        if (sn := sns.get(name) or sns.get(device)) is not None:
            return self._by_web(sn)
        if name in self._seeking:
            return ()
        suited = self._suited(did)
        ways = [
            Carrier(
                f"SN {one.name}",
                partial(self._through_own, one, device),
                leads=True,
                hasten=partial(self._hasten, one, device),
            )
            for one in suited
        ]
        if suited and suited[0].answers and self._serves(suited[0], did):
            # What the documents of its zone name is most likely that one; nobody waits to read it there.
            return [*ways, Carrier("SN of its zone", partial(self._through_named, did, device), leads=True)]
        named = self._foreign((*heard, *await self._named_for(did)), did)
        return [*ways, *(Carrier(f"SN {sn}", partial(self._through_foreign, sn, device), leads=True) for sn in named)]

    def _by_web(self, sn: Member) -> list[Carrier]:
        """Ways to an SN of ours by the ports of its ingress, for networks that let nothing else pass: as we would at
        its own port, and as a WebSocket over TLS and without."""
        name = sn.web_name
        host = sn.config.at[0] if sn.config.at is not None else name
        if not host:
            return []
        at_port = partial(self._at_port, host, TLS_PORT)
        ways = [Carrier(f"tcp {Target(host, TLS_PORT)}", at_port, leads=True, is_blind=True)]
        if name:
            ways.append(Carrier(f"wss {name}", partial(self._by_websocket, host, TLS_PORT, name), leads=True))
            ways.append(Carrier(f"ws {name}", partial(self._by_websocket, host, HTTP_PORT, name), leads=True))
        return ways

    async def _at_port(self, host: str, port: int, _host: str, _port: int) -> Pipe:
        return await self._dial(host, port)

    async def _by_websocket(self, host: str, port: int, name: str, _host: str, _port: int) -> Pipe:
        from tunnels.io.websocket import open_websocket  # few ever need it

        pipe = await self._dial(host, port)
        return await open_websocket(await self._tls.wrap(pipe, name) if port == TLS_PORT else pipe, name)

    async def relay_session(self, peer: Did) -> RelaySession | None:
        """A session of the UDP relay of an SN that leads to ``peer``, a key, too; None: nobody gives one."""
        for member in self._suited(peer):
            if not member.answers:
                continue
            try:
                pipe = await self._open(member)
            except (Refused, Unreachable):
                continue
            conversation = Conversation(pipe)
            try:
                reply = await conversation.ask(RelayWith(peer.canonical))
            except (Unreachable, BadWire) as fault:
                _log.debug("no relay session at %s: %s", member.name, fault)
                continue
            finally:
                conversation.close()
            if isinstance(reply, RelaySession):
                return reply
        return None

    async def _open(self, member: Member) -> Pipe:
        """A stream to an SN of ours.  Raises ``Refused`` and ``Unreachable``."""
        try:
            way = self._way(member.config)
        except ConfigFault as fault:
            raise Unreachable(str(fault), "unsupported_scheme") from fault
        return await self._open_stream(member.config.sn.peer, HOST, PORT, **way)

    async def _through_own(self, member: Member, device: Did, _host: str, _port: int) -> Pipe:
        if member.stands and not member.answers:
            raise Unreachable(f"{member.name} is not reached at the moment", "tunnel_open")
        return await connected(await self._open(member), device)

    async def _hasten(self, member: Member, device: Did) -> Pipe:
        """As ``_through_own``, without waiting for the SN to take the stream, where the tunnel to it has a carrier."""
        tunnel = member.tunnel
        if isinstance(tunnel, MuxedTunnel) and tunnel.pipe is not None:
            with suppress(TooSoon):  # who waits for the answer waits for room, too
                begun = tunnel.begin_stream(HOST, PORT)
                begun.is_used()
                return await connected(begun.pipe, device)
        return await self._through_own(member, device, "", 0)

    async def _through_named(self, did: Did, device: Did, host: str, port: int) -> Pipe:
        fault: Unreachable | Refused = Unreachable(f"{did}: no other SN is named", "tunnel_open")
        for sn in self._foreign(await self._named_for(did), did):
            try:
                return await self._through_foreign(sn, device, host, port)
            except (Unreachable, Refused) as failed:
                fault = failed
        raise fault

    async def _through_foreign(self, sn: Did, device: Did, _host: str, _port: int) -> Pipe:
        if sn.canonical in self._seeking:
            raise Unreachable(f"{sn} is being dialled already", "tunnel_open")
        self._seeking.add(sn.canonical)
        try:
            pipe = await self._open_stream(sn, HOST, PORT)
        finally:
            self._seeking.discard(sn.canonical)
        return await connected(pipe, device)

    def _suited(self, did: Did) -> list[Member]:
        """Our SNs, those first that can be asked at once; among them the one whose domain the name is below."""
        return sorted(self, key=lambda one: (not one.answers, not self._serves(one, did)))

    def _serves(self, member: Member, did: Did) -> bool:
        """Whether the name is below the domain of that SN."""
        return bool(member.domain) and is_below(self._host(did), member.domain)

    def _host(self, did: Did) -> str:
        """Its host name; empty: it has none."""
        if did.key is not None:
            return ""
        try:
            return host_of_did(did, self._acquaintance.bridges, case_safe=True).lower()
        except BadWire:
            return ""

    def prove(self, member: Member, host: str, value: str, *, stands: bool) -> None:
        """Whether ``value`` is to stand in the DNS of that SN, for the certificate of ``host``."""
        values = self._challenges.setdefault(member.config, {}).setdefault(host, {})
        if stands:
            values[value] = None
        else:
            values.pop(value, None)
        self._say()

    async def _named_for(self, did: Did) -> list[Did]:
        """The SNs that the documents of the zone of ``did`` name.

        Whoever can forge the DNS can name another one: it would see that we want to talk, as whoever is between does.
        """
        found: dict[Did, None] = {}
        if did.key is not None or did.path or "%" in did.id:
            return []
        with trio.move_on_after(_ASKING):
            for zone in lineage(did)[: 1 + _MOST_ABOVE]:
                with suppress(Refused, Unreachable, BadWire):
                    said = await self._acquaintance.ask(zone, patience=_ASKING)
                    found |= dict.fromkeys(subject(text, self._acquaintance.bridges) for text in _named_in(said))
                if found:
                    break
        return list(found)

    def _foreign(self, named: Iterable[Did], did: Did) -> list[Did]:
        """The first of ``named`` that are neither ours nor ``did`` itself, each once."""
        ours = {one.config.sn.peer.canonical for one in self}
        domains = {one.domain for one in self if one.domain}
        foreign = [
            sn
            for sn in dict.fromkeys(named)
            if sn.canonical not in ours and sn.canonical != did.canonical and self._host(sn) not in domains
        ]
        return foreign[:_MOST_FOREIGN]


def _named_in(said: outcome.Outcome) -> Iterator[str]:
    """The SNs that documents name which are heard here."""
    claims = said.claims if isinstance(said, outcome.Found) else getattr(said, "found", ())
    for claim in claims:
        if isinstance(claim.value, ZoneBoot | ZoneDoc) and claim.value.sn and claim.trust >= Purpose.DIAL.least:
            yield claim.value.sn


class _Publisher:
    """The DNS of one SN, for the certificate of one ``host`` (``cyfs_gateway.host.TxtPublisher``)."""

    def __init__(self, membership: Membership, member: Member, host: str) -> None:
        self._membership, self._member, self._host = membership, member, host

    async def publish(self, name: str, txt: str) -> None:
        self._membership.prove(self._member, self._host, txt, stands=True)
        try:
            await self._member.told()
        except BaseException:
            # Nothing else could be told while this one is refused.
            self._membership.prove(self._member, self._host, txt, stands=False)
            raise

    async def withdraw(self, name: str, txt: str) -> None:
        self._membership.prove(self._member, self._host, txt, stands=False)
        await trio.lowlevel.checkpoint()

"""One SN that this machine belongs to: what is said to it through the tunnel that is kept, and how things stand.

What is to be said, and when, is :class:`cyfs_gateway.membership.Course`'s to know.  Whatever goes wrong here is this
SN's alone, and is tried again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from cyfs_gateway.config.model import MemberConfig
from cyfs_gateway.io.memberfile import MemberFile
from cyfs_gateway.io.sntalk import HOST, PATIENCE, Conversation
from cyfs_gateway.membership import Course, Step, Word, check_domain, is_sane, sign_word
from cyfs_gateway.sn.accounts import NEVER
from cyfs_gateway.sn.admission import Code
from cyfs_gateway.sn.requests import Admit, sign_request
from cyfs_gateway.sn.talk import Here, Lease, Leased, No, Reply, Submit, Update, Where
from cyfs_ns.errors import BadWire, ConfigFault, CyfsError, Refused, Unreachable
from cyfs_ns.identity.did import Bridges, host_of_did
from cyfs_ns.identity.documents import DeviceDoc
from cyfs_ns.identity.reading import read_document
from cyfs_ns.identity.token import Token, read_token
from cyfs_ns.io.logs import SeldomLine
from cyfs_ns.names import is_ip
from rtcp.io.mux import MuxedTunnel
from rtcp.io.roll import AnyTunnel
from rtcp.party import Local
from tunnels.io.waiting import within

if TYPE_CHECKING:
    from collections.abc import Collection

PORT = 1
"""What is asked for by name has no port; something has to stand there."""
_LONGEST_WAIT = 3600.0
_FILE_AGAIN = 60.0
_TELLING = 60.0
"""Seconds for a word to be taken that somebody waits for."""

_log = logging.getLogger("cyfs.sn.member")


def _awake() -> float:
    """Seconds of a clock that runs while the machine sleeps, and is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Paper:
    """The document of this machine, and what it is called in it."""

    token: Token
    label: str


def paper_of(local: Local) -> Paper | None:
    """What ``local`` can show; None: nothing."""
    if local.device_doc_jwt is None:
        return None
    try:
        token = read_token(local.device_doc_jwt)
        document = read_document(token.claims)
    except BadWire:
        return None
    return Paper(token, document.name) if isinstance(document, DeviceDoc) else None


class Member:
    """``local`` is this machine, ``others`` are the domains of its other SNs.  ``content`` is called when all that was
    to be said is said, and the SN has nothing against it."""

    def __init__(
        self,
        config: MemberConfig,
        file: MemberFile,
        local: Callable[[], Local],
        others: Callable[[Member], Collection[str]],
        bridges: Bridges,
        content: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self._content = content
        self._file, self._local, self._others = file, local, others
        self._paper = paper_of(local())
        self.course = Course(config.name, config.expose, document=self._paper is not None)
        self.tunnel: AnyTunnel | None = None
        self.since = 0.0
        """Unix time at which the tunnel stood."""
        self.domain = ""
        """As it was learnt, now or long ago."""
        self._away = ""
        self._host = _host(config, bridges)
        self._news = trio.Event()
        self._outcome = trio.Event()
        """Set, and replaced, when the SN has taken our word, or not."""
        self._seldom = SeldomLine(_log, "%s: %s")

    @property
    def name(self) -> str:
        """What people call the SN."""
        return self.domain or str(self.config.sn.peer)

    @property
    def web_name(self) -> str:
        """The host name by which its ingress knows it; empty: none is known yet."""
        said = self.config.at[0] if self.config.at is not None else ""
        return self.domain or self._host or ("" if is_ip(said) else said)

    @property
    def stands(self) -> bool:
        """Whether there is a tunnel to it."""
        return self.tunnel is not None and not self.tunnel.over.is_set()

    @property
    def answers(self) -> bool:
        """Whether it can be asked at once: there is a tunnel, and something carries it at the moment."""
        return self.stands and not (isinstance(self.tunnel, MuxedTunnel) and self.tunnel.pipe is None)

    def status(self) -> dict[str, Any]:
        """As ``cyfs-gateway status`` shows it."""
        here, course = self.course.here, self.course
        at = self.config.at[0] if self.config.at is not None else ""
        told: dict[str, Any] = {"sn": str(self.config.sn.peer), "at": at, "domain": self.domain, "name": course.name}
        if not self.stands:
            return {**told, "tunnel": "none", "why": self._why_away}
        seen = "" if here is None else here.seen
        leads = [one.name if one.kind == "name" else f"{one.kind}:{one.port}" for one in course.leads]
        why = course.why if self.answers else "nothing carries the tunnel at the moment"
        return {**told, "tunnel": "stands", "since": int(self.since), "seen": seen, "leads": leads, "why": why}

    @property
    def _why_away(self) -> str:
        """Why there is no tunnel: what came of the last call, or how the last tunnel ended."""
        if self._away or self.tunnel is None:
            return self._away or "not reached yet"
        return f"the tunnel ended: {self.tunnel.end.why if self.tunnel.end is not None else 'it broke'}"

    # News

    def tell(self, what: AnyTunnel | CyfsError) -> None:
        """There is a tunnel, or why there is none."""
        if isinstance(what, CyfsError):
            self._away = str(what)
            return
        if what is self.tunnel:
            return
        self.tunnel, self.since, self._away = what, time.time(), ""
        self.course.anew()
        self._wake()

    def say(self, word: Word) -> None:
        """``word`` is what is to stand in its DNS."""
        self.course.say(word)
        self._wake()

    async def told(self) -> None:
        """Until what is to stand in its DNS stands there.  Raises ``Refused`` and ``Unreachable``."""
        with within(_TELLING, f"{self.name} to say it"):
            while not self.course.is_told:
                outcome = self._outcome
                if why := self.course.faults.get(Step.TELL):
                    raise Refused(f"{self.name}: {why}")
                await outcome.wait()

    def network_changed(self) -> None:
        """What it sees of us may be another."""
        self.course.anew()
        self._wake()

    def renew(self) -> None:
        """Our document may be another."""
        paper = paper_of(self._local())
        if paper != self._paper:
            self._paper = paper
            self.course.renewed(document=paper is not None)
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # Its life

    async def run(self) -> None:
        """Say what is to be said, until cancelled."""
        while True:
            try:
                self.domain = (await self._file.of(self.config.sn.peer)).domain
                break
            except ConfigFault as fault:
                self._blame(Step.LOOK, str(fault))
                await trio.sleep(_FILE_AGAIN)
        while True:
            news = self._news
            tunnel = self.tunnel
            if tunnel is None or tunnel.over.is_set():
                await news.wait()
                continue
            if self.course.next_step(_awake()) is None:
                with trio.move_on_after(min(self.course.next_deadline() - _awake(), _LONGEST_WAIT)):
                    await news.wait()
                continue
            await self._talk(tunnel)

    async def _talk(self, tunnel: AnyTunnel) -> None:
        """All that is due, in one conversation."""
        step = self.course.next_step(_awake())
        conversation: Conversation | None = None
        try:
            with within(PATIENCE, "the SN to begin"):
                conversation = Conversation(await tunnel.open_stream(HOST, PORT))
            while (step := self.course.next_step(_awake())) is not None:
                await self._take(step, conversation)
            if not self.course.why:
                self._content()
        except (Unreachable, Refused, BadWire, ConfigFault, OSError) as fault:
            self._blame(step, str(fault))
        except Exception:
            _log.exception("talking to %s failed in a way nobody foresaw", self.name)
            self._blame(step, "an internal error, see the log")
        finally:
            if conversation is not None:
                conversation.close()
            self._outcome.set()
            self._outcome = trio.Event()

    def _blame(self, step: Step | None, why: str) -> None:
        self.course.refused(step or Step.LOOK, why, _awake())
        self._seldom.tell(self.name, self.course.why, by=self.config.sn.peer)

    async def _take(self, step: Step, talk: Conversation) -> None:
        match step:
            case Step.LOOK:
                await self._look(talk)
            case Step.SHOW:
                await self._show(talk)
            case Step.TELL:
                await self._tell(talk)
            case Step.CLAIM:
                await self._claim(talk)

    async def _look(self, talk: Conversation) -> None:
        here = await talk.ask(Where())
        if not isinstance(here, Here):
            self._refused(Step.LOOK, here)
            return
        check_domain(here.domain, self.domain, self._host, self._others(self))
        if not self.domain:
            await self._file.learnt(self.config.sn.peer, here.domain)
            self.domain = here.domain
        self.course.looked(here, _awake())

    async def _show(self, talk: Conversation) -> None:
        local, paper = self._local(), self._paper
        assert paper is not None
        request, _ = sign_request(Admit(paper.token), local.canonical, local.key, self.domain, time.time(), NEVER)
        reply = await talk.ask(Submit(request))
        if isinstance(reply, No):
            self._refused(Step.SHOW, reply)
        else:
            self.course.shown()

    async def _tell(self, talk: Conversation) -> None:
        word, paper, local, peer = self.course.word, self._paper, self._local(), self.config.sn.peer
        assert paper is not None
        reply: Reply = No("", "")
        for _ in range(2):
            wall = time.time()
            seq = await self._file.next_seq(peer, wall)
            token = sign_word(
                word, domain=self.domain, name=self.course.name, device=paper.label, key=local.key, seq=seq, wall=wall
            )
            reply = await talk.ask(Update(token))
            if not isinstance(reply, No):
                self.course.told(word, _awake())
                return
            if not seq <= reply.seq or not is_sane(reply.seq):
                break
            await self._file.heard(peer, reply.seq)  # we have forgotten something
        self._refused(Step.TELL, reply)

    async def _claim(self, talk: Conversation) -> None:
        answers = [await talk.ask(Lease(place)) for place in self.course.places]
        leased = [one for one in answers if isinstance(one, Leased)]
        self.course.claimed(leased, _awake())
        for one in answers:
            if not isinstance(one, Leased):
                self._refused(Step.CLAIM, one)
                break

    def _refused(self, step: Step, reply: Reply) -> None:
        why = reply.why or reply.code if isinstance(reply, No) else "it answers something else"
        if isinstance(reply, No) and reply.code == Code.UNKNOWN and step is not Step.SHOW:
            self.course.unknown()
        self._blame(step, why)


def _host(config: MemberConfig, bridges: Bridges) -> str:
    """The host name that an SN is configured by; empty for a key."""
    peer = config.sn.peer.canonical
    return "" if peer.key is not None else host_of_did(peer, bridges, case_safe=True).lower()

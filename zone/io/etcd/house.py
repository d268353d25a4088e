"""An OOD's part in the zone's etcd: its member, the doors to the others, and the membership where it leads.

Three things go on side by side: the OODs tell each other where they stand (``zone/etcd/talk.py``), every look decides
what is to be done here (``start.py`` until a member runs, ``membership.py`` when it leads), and now and then the file
is cared for.  What is news here is told at once, and what is news from others is looked at at once.  Nothing is
remembered but the mark and the data on disk, so it goes on wherever a crash has left it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import trio

from cyfs_gateway.flow import Identity
from cyfs_ns.errors import BadWire, ConfigFault, Refused, Unreachable
from rtcp.io.pipe import send_all
from tunnels.endpoint import Endpoint
from zone.etcd import membership, start
from zone.etcd.care import Room, care_for
from zone.etcd.launch import QUOTA, Launch, Trouble
from zone.etcd.membership import SILENCE, View, next_step
from zone.etcd.seats import Seat, owner_of
from zone.etcd.start import Mark, Stage, Told, remembered, way_to_start
from zone.etcd.talk import MOST_LINE, Report, read_report, write_report
from zone.io.etcd.admin import Admin
from zone.io.etcd.doors import DoorHost, Doors, judged
from zone.io.etcd.files import begin_life, has_data, load_mark, save_mark
from zone.io.etcd.process import PROGRAM, EtcdMember, find_program
from zone.io.lines import receive_line

_PACE: Final = 1.0
"""Seconds from one look to the next, and from one line to the next, where nothing is new."""
_LEAST: Final = 0.05
"""Seconds from one look to the next at least."""
_GATHER: Final = 5.0
"""Seconds in which the first members of a new cluster have to come; later ones are added to it."""
_PATIENCE: Final = 3.0
"""Seconds for another OOD to answer."""
_CARE: Final = 60.0

_log = logging.getLogger("cyfs.etcd")


@dataclass(frozen=True, slots=True)
class Document:
    """The zone document, as far as it concerns etcd."""

    seats: tuple[Seat, ...]
    iat: int
    others: tuple[Seat, ...] = ()
    """Machines of the zone that are to have no member.  One that has one votes until it is removed, on its own removal
    too: who would not let it would be left without a majority."""


class EtcdHouse:
    """Of the machine at ``own``.

    ``zone`` is the zone's host name; ``known`` gives the newest document known here; ``may_found`` says whether the
    owner permits this machine to found the cluster; ``folder`` is where the member lives.  Needs :meth:`run`.
    """

    def __init__(
        self,
        host: DoorHost,
        zone: str,
        own: Seat,
        known: Callable[[], Document],
        folder: Path,
        may_found: Callable[[], bool],
        pace: float = _PACE,
    ) -> None:
        self._host, self._own, self._known, self._folder, self._may_found = host, own, known, folder, may_found
        self._pace = pace
        self._name = f"etcd-members.{zone}"
        self._doors = Doors(host, zone, folder, self._carriers)
        self.member = EtcdMember(folder)
        self.admin = Admin(self.member.client)
        self._mark: Mark | None = None
        self._runs = False
        self._member_scope = trio.CancelScope()
        self._lost = ""
        self._urls: tuple[str, ...] = ()
        self._talks: dict[Seat, trio.CancelScope] = {}
        self._asked: set[Seat] = set()
        self._told: dict[str, Told | None] = {}
        self._own_told: Told | None = None
        self._heard: dict[str, tuple[Report, float]] = {}
        self._news = trio.Event()
        """Here, for the others."""
        self._stir = trio.Event()
        """There is something to be looked at."""
        self._since = 0.0
        self._acts_again = 0.0
        self._is_over = False
        self._rtt: dict[str, float] = {}
        self.why = "not begun"
        """What is being done or waited for, for people."""
        self.settled = False
        """The member here has a leader; where it leads, all OODs are members too."""

    @property
    def client(self) -> str:
        """Where this machine's store reaches etcd, for gRPC."""
        return self.member.client

    @property
    def members(self) -> tuple[str, ...]:
        """The URLs of all members, as the one here knows them; empty: it knows none."""
        return () if self._own_told is None else self._own_told.urls

    @property
    def has_left(self) -> bool:
        """The member here was removed, and the document wants none here."""
        return self._own not in self._known().seats and not self._runs and bool(self._lost)

    def status(self) -> Mapping[str, Any]:
        """For people and programs."""
        told = self._own_told
        fault = self.member.fault
        return {
            "why": self.why,
            "settled": self.settled,
            "pid": self.member.pid,
            "adopted": self.member.adopted,
            "fault": "" if fault is None else str(fault),
            "cluster": "" if told is None else told.cluster,
            "members": list(self.members),
            "silent": sorted(seat.name for seat in self._others() if seat.name not in self._told),
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then the member is stopped.  Raises ``ConfigFault`` where there can be none."""
        find_program(PROGRAM)
        await trio.Path(self._folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        await trio.Path(self._folder).chmod(0o700)
        self._since = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._doors.run)
                await self._recall()
                self._host.register_offer(self._name, self._answer)
                nursery.start_soon(self._care)
                task_status.started()
                while True:
                    self._stir = trio.Event()
                    self._talk_to_all(nursery)
                    before = self._report()
                    try:
                        await self._look(nursery)
                    except (Unreachable, Refused, ConfigFault, OSError) as fault:
                        self.settled = False
                        self._say(str(fault))
                    if self._report() != before:
                        self._news.set()
                        self._news = trio.Event()
                    await trio.sleep(_LEAST)
                    with trio.move_on_after(self._pace):
                        await self._stir.wait()
        finally:
            self._is_over = True
            self.admin.close()

    async def _recall(self) -> None:
        """Who has been a member says so from its first word on."""
        while True:
            try:
                self._mark = await trio.to_thread.run_sync(load_mark, self._folder)
            except (ConfigFault, OSError) as fault:
                self._say(str(fault))
                await trio.sleep(self._pace)
            else:
                return

    # What OODs tell each other

    def _others(self) -> tuple[Seat, ...]:
        return tuple(seat for seat in self._known().seats if seat != self._own)

    def _machines(self) -> tuple[Seat, ...]:
        known = self._known()
        return (*known.seats, *known.others)

    def _carriers(self) -> tuple[Seat, ...]:
        """Who is to have a member, and who of the zone has one still."""
        known = self._known()
        return (*known.seats, *(one for one in known.others if any(one.owns(url) for url in self._urls)))

    def _report(self) -> Report:
        mark, told = self._mark, self._own_told or remembered(self._mark)
        url = "" if mark is None else self._own.url(mark.life)
        return Report(url=url, runs=self._runs and self.member.pid > 0, told=told)

    async def _answer(self, who: Identity, pipe: Endpoint) -> None:
        """A machine of the zone says where its member stands, now and again."""
        while True:
            with trio.move_on_after(SILENCE) as waiting:
                said = await receive_line(pipe, MOST_LINE)
            if waiting.cancelled_caught or said is None or self._is_over:
                return
            self._hear(judged(who, self._machines()), said)
            await send_all(pipe, write_report(self._report()))

    def _hear(self, seat: Seat, untrusted: bytes) -> None:
        """What the machine there says.  Raises ``BadWire``, ``Refused``."""
        report = read_report(untrusted)
        if report.url and not seat.owns(report.url):
            raise Refused(f"{seat.name} speaks for another's member")
        before, _ = self._heard.get(seat.name, (None, 0.0))
        self._heard[seat.name] = report, trio.current_time()
        if seat in self._others():
            self._told[seat.name] = report.told
        if report != before:
            self._stir.set()

    def _talk_to_all(self, nursery: trio.Nursery) -> None:
        """Have a conversation with each other OOD, as the document names them now."""
        others = set(self._others())
        for seat in self._talks.keys() - others:
            self._talks.pop(seat).cancel()
        for seat in others - self._talks.keys():
            self._talks[seat] = scope = trio.CancelScope()
            nursery.start_soon(self._talk, seat, scope)

    async def _talk(self, seat: Seat, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._converse(seat)
                except (Unreachable, Refused, BadWire, OSError, trio.TooSlowError) as fault:
                    _log.debug("%s does not say where it stands: %s", seat.name, fault)
                finally:
                    self._told.pop(seat.name, None)
                self._asked.add(seat)
                self._stir.set()
                await trio.sleep(self._pace)

    async def _converse(self, seat: Seat) -> None:
        with trio.fail_after(_PATIENCE):
            pipe = await self._host.call_offer(seat.did, self._name)
        try:
            while True:
                news, asked = self._news, trio.current_time()
                with trio.fail_after(_PATIENCE):
                    await send_all(pipe, write_report(self._report()))
                    said = await receive_line(pipe, MOST_LINE)
                if said is None:
                    return
                self._hear(seat, said)
                self._rtt[seat.name] = trio.current_time() - asked
                if seat not in self._asked:
                    self._asked.add(seat)
                    self._stir.set()
                with trio.move_on_after(self._pace):
                    await news.wait()
        finally:
            pipe.close()

    # What is done here

    async def _look(self, nursery: trio.Nursery) -> None:
        if self._runs:
            await self._lead()
            return
        self.settled, self._own_told = False, None
        if not self._asked.issuperset(self._others()):
            self._say("asks the other OODs")
            return
        self._mark = await trio.to_thread.run_sync(load_mark, self._folder)
        way = way_to_start(
            self._own,
            self._known().seats,
            self._mark,
            self._told,
            self._asked_for(),
            has_data=await trio.to_thread.run_sync(has_data, self._folder),
            is_lost=self._lost,
            may_found=self._may_found(),
            is_late=trio.current_time() - self._since >= _GATHER,
        )
        self._say(way.why)
        if isinstance(way, start.Begin):
            self._mark = await trio.to_thread.run_sync(begin_life, self._folder, way.stage)
            self._lost = ""
            self._stir.set()
        elif isinstance(way, start.Found):
            assert self._mark is not None
            self._mark = replace(self._mark, urls=way.urls)
            await trio.to_thread.run_sync(save_mark, self._folder, self._mark)
            self._stir.set()
        elif isinstance(way, start.Run):
            launch = Launch(
                url=self._own.url(way.life),
                urls=way.urls,
                is_new=way.is_new,
                rtt=max(self._rtt.values(), default=0.0),
            )
            self._doors.own = launch.url
            self._urls = way.urls
            self._open_doors()
            self._runs, self._member_scope = True, trio.CancelScope()
            nursery.start_soon(self._keep, launch)

    async def _keep(self, launch: Launch) -> None:
        """Have the member run as long as it makes sense."""
        try:
            with self._member_scope:
                fault = await self.member.keep(launch)
                if fault.trouble is not Trouble.OTHER:
                    self._lost = str(fault)
        except (Unreachable, ConfigFault, OSError) as fault:
            self._say(str(fault))
        finally:
            self._runs, self._doors.own = False, ""
            self._stir.set()

    async def _lead(self) -> None:
        """Look after the member that runs, and after the membership if it leads."""
        known = self._known()
        self._open_doors()
        assert self._mark is not None
        try:
            state = await self.admin.state()
        except Unreachable:
            # Without a majority since it was started, it answers nobody.
            if not self._is_done_for(self._mark):
                raise
            return
        if not state.leader and self._is_done_for(self._mark):
            return
        cluster = f"{state.cluster:x}"
        mark = Mark(self._mark.life, Stage.MEMBER, cluster)
        if state.leader and mark != self._mark:
            self._mark = mark
            await trio.to_thread.run_sync(save_mark, self._folder, mark)
        if state.learns:
            self._say("catches up with the other members")
            return
        members = await self.admin.members()
        self._urls = tuple(member.url for member in members)
        self._own_told = Told(cluster=cluster, urls=self._urls, leads=state.leader != 0)
        if not state.leads:
            self.settled = state.leader != 0
            self._say("a member" if self.settled else "no majority of the members answers: nothing can be written")
            return
        if rivals := start.rivals(cluster, self._told):
            self.settled = False
            self._say(f"{rivals}: of another cluster that lives; stop one of the two, and remove its data")
            return
        # Whoever answers this has a majority behind it, and knows the members as they are.
        acted_on = await self.admin.document()
        members = await self.admin.members()
        self._own_told = replace(self._own_told, urls=tuple(member.url for member in members), acts=True)
        now, heard, report = trio.current_time(), self._heard_of_zone(), self._report()
        step = next_step(
            View(
                seats=known.seats,
                document=known.iat,
                acted_on=acted_on,
                members=members,
                leader=state.id,
                asked=self._asked_for() | {self._own.name: report.url},
                silent={one.url: now - at for one, at in heard.values()} | {report.url: 0.0},
                down=frozenset(one.url for one, _ in heard.values() if not one.runs),
                listening=now - self._since,
            )
        )
        self.settled = isinstance(step, membership.Nothing) and step.settled
        if not isinstance(step, membership.Nothing):
            # However much is news: others may never agree with themselves, as two machines with one key.
            if now < self._acts_again:
                return
            self._acts_again = now + self._pace
        try:
            await self._take(step)
        except Refused as later:
            self._say(f"{step.why}; not yet: {later}")
        else:
            self._say(step.why)

    def _heard_of_zone(self) -> dict[str, tuple[Report, float]]:
        """What machines of the zone said last, each for itself, and when."""
        machines = self._machines()
        return {name: one for name, one in self._heard.items() if owner_of(one[0].url, machines) is not None}

    def _asked_for(self) -> dict[str, str]:
        """The URLs of the members that others have or want to have."""
        return {name: report.url for name, (report, _) in self._heard_of_zone().items()}

    def _is_done_for(self, mark: Mark) -> bool:
        """Whether the life of the member here, which has no leader, is over; then the member is stopped."""
        self._lost = start.removed(self._own, mark, self._told)
        is_done_for = bool(self._lost or start.abandoned(self._known().seats, mark, self._asked_for()))
        if is_done_for:
            self._member_scope.cancel()
        return is_done_for

    async def _take(self, step: membership.Step) -> None:
        """Do it.  Raises ``Refused`` where etcd would not have it now, ``Unreachable``."""
        match step:
            case membership.ActOn():
                await self.admin.follow(step.document)
            case membership.AddLearner():
                await self.admin.add_learner(step.url)
            case membership.Promote():
                await self.admin.promote(step.id)
            case membership.Remove():
                await self.admin.remove(step.id)
            case membership.HandOver():
                await self.admin.hand_over(step.to)

    def _open_doors(self) -> None:
        """To the members that are known here, to those that others know of, and to the others' own.

        When all were off, a member says who belongs to its cluster when it has found the others, and not before.
        """
        seats = [seat for seat in self._carriers() if seat != self._own]
        told = [url for one in self._told.values() if one is not None for url in one.urls]
        own = [report.url for report, _ in self._heard.values()]
        self._doors.want(url for url in (*self._urls, *told, *own) if owner_of(url, seats) is not None)

    async def _care(self) -> None:
        """Now and then, for the file."""
        while True:
            await trio.sleep(_CARE)
            if not self._runs:
                continue
            try:
                await self.care()
            except (Unreachable, Refused) as fault:
                _log.warning("the file of etcd was not looked after: %s", fault)

    async def care(self) -> None:
        """Make room where there is need.  Raises ``Unreachable``, ``Refused``."""
        state = await self.admin.state()
        alarm = await self.admin.has_no_room(state.id)
        care = care_for(Room(size=state.size, used=state.used, quota=QUOTA, alarm=alarm, leads=state.leads))
        if care.why:
            _log.warning("etcd: %s", care.why)
        if care.compact:
            await self.admin.compact(state.revision)
        if care.defragment:
            await self.admin.defragment()
        if care.disarm:
            await self.admin.disarm(state.id)

    def _say(self, why: str) -> None:
        if why != self.why:
            _log.info("%s: %s", self._own.name, why)
            self.why = why

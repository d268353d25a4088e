"""The kinds that run on the machine itself: processes, and scripts that start something.

Both run from the copy of their package, as a user of their own where the daemon is root, without new privileges, with
their volumes as folders below the node's home.  They see the machine; who wants them apart from it takes a container.

A **process** is ``command`` of the page.  A program that is not in the package is looked for on ``PATH``.

A **script** is a package with the program ``start``, and perhaps ``stop``, ``deploy`` and ``status``; they are given
``command`` as arguments.  ``deploy`` prepares, again and again; the run is all that ``start`` starts, and lasts as long
as anything of it; ``status`` ends with 0 while it serves.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import trio

from node.io.run.packages import Packages
from node.io.run.runs import Runs, called
from node.io.run.tokens import Token, drop_token, forget_token, put_token
from node.io.run.users import Users
from node.run.environment import PATH, environment, expanded
from node.run.runner import Ended, Launch, Limits, Order, Place, RunFault
from zone.scheduler.service import Pairs

DEPLOY: Final = 300.0
"""Seconds for ``deploy``."""
STOP: Final = 60.0
"""Seconds for ``stop``; the service is ended sooner, by the loop."""
STATUS: Final = 5.0
"""Seconds for ``status``."""
_CALLS: Final = ("deploy", "stop", "status")

Command = Callable[[Order, Path, Pairs], tuple[str, ...]]
"""The command of an order, from its copy and with its environment; raises ``RunFault``."""


class Processes:
    """The kind ``process``."""

    def __init__(self, node: str, packages: Packages, users: Users, limits: Limits, token: Token | None = None) -> None:
        self._node, self._token = node, token
        self._packages, self._users, self._limits = packages, users, limits

    async def prepare(self, order: Order, place: Place) -> None:
        """See ``Kind``."""
        if not order.work.command:
            raise RunFault("the page has no command, so there is nothing to run", lasting=True)
        await self._unpack(order, place)

    async def _unpack(self, order: Order, place: Place) -> None:
        is_wanted = True
        try:
            await trio.to_thread.run_sync(
                lambda: self._packages.prepare(order.work.image, place, lambda: is_wanted), abandon_on_cancel=True
            )
        finally:
            is_wanted = False

    async def launch(self, order: Order, place: Place) -> Launch:
        """See ``Kind``."""
        token = None if self._token is None else await self._token(order.service)
        launch = await trio.to_thread.run_sync(
            lambda: self._set_out(order, place, self._packages.use(place), self._command, token)
        )
        bounds = await self._limits.enter(order)
        return replace(launch, join=bounds.join, limits=bounds.limits)

    def _command(self, order: Order, copy: Path, env: Pairs) -> tuple[str, ...]:
        name, *arguments = expanded(order.work.command, env)
        program = str(copy / name) if "/" in name else shutil.which(name, path=f"{copy}:{copy}/bin:{PATH}")
        if program is None or not Path(program).is_file():
            raise RunFault(f"there is no program {name[:200]!r}, neither in the package nor on PATH", lasting=True)
        if Path(program).is_relative_to(copy):
            # From where it stands: the way from the root may be closed to the service's user.
            program = f"./{Path(program).relative_to(copy)}"
        return (program, *arguments)

    def _set_out(self, order: Order, place: Place, copy: Path, command: Command, token: str | None) -> Launch:
        """Make the folders and files that a program of the service needs; raises ``RunFault``."""
        user = self._users.user_of(order.service)
        volumes = {name: place.volume(name) for name, _ in order.work.volumes}
        try:
            for path in volumes.values():
                _own(Path(path), user)
            if token is not None:
                put_token(place, token, user)
            if user is not None:
                _check_way(Path(place.home))
        except OSError as bad:
            raise RunFault(f"its folders cannot be made: {bad}") from bad
        told = place.token if Path(place.token).exists() else ""
        env = environment(order, self._node, str(copy), volumes, told)
        return Launch(argv=command(order, copy, env), env=env, cwd=str(copy), user=user)

    async def run_once(self, order: Order, place: Place, own: Place, runs: Runs) -> Ended:
        """Run the command of ``order`` to its end, beside the service; its package and log are at ``own``.

        Cancelled, it is ended.  Raises ``RunFault``.
        """
        await self._unpack(order, own)
        launch = await trio.to_thread.run_sync(
            lambda: self._set_out(order, place, self._packages.linked(own, "prepared"), self._command, None)
        )
        ended = await self._to_its_end(replace(order, service=own.service), launch, runs)
        assert ended is not None  # There is no end to the patience.
        return ended

    async def _to_its_end(self, order: Order, launch: Launch, runs: Runs, patience: float = math.inf) -> Ended | None:
        """How a run ended that has the limits of its order; None: it took too long, and was ended."""
        bounds = await self._limits.enter(order)
        try:
            ended = await runs.call(order, replace(launch, join=bounds.join, limits=bounds.limits), patience)
            why = "" if ended is None else self._limits.explain(order.service, ended)
            return replace(ended, fault=why) if ended is not None and why else ended
        finally:
            with trio.CancelScope(shield=True):
                await self._limits.leave(order.service)

    async def stop(self, order: Order, place: Place) -> bool:
        """See ``Kind``."""
        return False

    async def probe(self, order: Order, place: Place) -> str:
        """See ``Kind``."""
        return ""

    async def release(self, place: Place) -> None:
        """See ``Kind``."""
        await trio.to_thread.run_sync(drop_token, place)
        await self._limits.leave(place.service)

    async def forget(self, place: Place) -> None:
        """See ``Kind``."""
        await trio.to_thread.run_sync(self._packages.forget, place)
        await trio.to_thread.run_sync(forget_token, place)

    def explain(self, place: Place, ended: Ended) -> str:
        """See ``Kind``."""
        why = self._limits.explain(place.service, ended) or str(ended)
        if ended.code == 0 and ended.left:
            return f"{why}, leaving {ended.left} processes behind: a service must stay in the foreground"
        return why


class Scripts(Processes):
    """The kind ``script``."""

    def __init__(
        self, node: str, packages: Packages, users: Users, limits: Limits, runs: Runs, token: Token | None = None
    ) -> None:
        super().__init__(node, packages, users, limits, token)
        self._runs = runs

    async def prepare(self, order: Order, place: Place) -> None:
        """See ``Kind``."""
        await self._unpack(order, place)
        if why := await self._call(order, place, "prepared", "deploy", DEPLOY):
            raise RunFault(why)

    async def launch(self, order: Order, place: Place) -> Launch:
        """See ``Kind``."""
        return replace(await super().launch(order, place), lingers=True)

    def _command(self, order: Order, copy: Path, env: Pairs) -> tuple[str, ...]:
        if not (copy / "start").is_file():
            raise RunFault("the package has no program 'start'", lasting=True)
        return ("./start", *expanded(order.work.command, env))

    async def stop(self, order: Order, place: Place) -> bool:
        """See ``Kind``."""
        try:
            copy = await trio.to_thread.run_sync(lambda: self._packages.linked(place, "running"))
            if not (copy / "stop").is_file():
                return False
            await self._call(order, place, "running", "stop", STOP)
        except RunFault:
            return False
        return True

    async def forget(self, place: Place) -> None:
        """See ``Kind``."""
        for name in _CALLS:  # of a daemon that was killed
            await self._limits.leave(called(place.service, name))
        await super().forget(place)

    async def probe(self, order: Order, place: Place) -> str:
        """See ``Kind``."""
        try:
            return await self._call(order, place, "running", "status", STATUS)
        except RunFault as fault:
            return str(fault)

    async def _call(
        self, order: Order, place: Place, link: Literal["prepared", "running"], name: str, patience: float
    ) -> str:
        """Run a program of the package beside the service, if it has it: what was wrong, or nothing."""

        def command(order: Order, copy: Path, env: Pairs) -> tuple[str, ...]:
            return (f"./{name}", *expanded(order.work.command, env))

        def set_out() -> Launch | None:
            copy = self._packages.linked(place, link)
            return self._set_out(order, place, copy, command, None) if (copy / name).is_file() else None

        launch = await trio.to_thread.run_sync(set_out)
        if launch is None:
            return ""
        call = replace(order, service=called(order.service, name))
        ended = await self._to_its_end(call, launch, self._runs, patience)
        if ended is None:
            return f"{name} did not end within {patience:g} s"
        return "" if ended.code == 0 else f"{name} {ended}"


def _own(volume: Path, user: tuple[int, int] | None) -> None:
    for folder in (volume.parent.parent, volume.parent):
        _open_way(folder)
    volume.mkdir(mode=0o700, exist_ok=True)
    if user is not None and volume.stat().st_uid != user[0]:
        os.chown(volume, *user)


def _open_way(folder: Path) -> None:
    """A folder that others may pass through, and not look into."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


def _check_way(home: Path) -> None:
    for folder in (home, *home.parents):
        if not folder.stat().st_mode & 0o001:
            raise RunFault(f"{folder} is closed to the user of the service: chmod o+x {folder}")

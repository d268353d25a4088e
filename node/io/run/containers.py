"""Run items of kind ``container``: images are found and unpacked, containers built, and their ports opened.

What a container is stands in ``node/run/container.py``.  The image ``notes:1.4`` is ``<home>/packages/notes/1.4``, a
layout or a root, or ``1.4.tar`` beside it; without a version it is ``latest``.
``<home>/items/<service>`` has, of a service:

* ``image``: the unpacked image of its next run, by name, and ``running``: of its last; nobody removes those;
* ``users``: the first of the machine's users that are the container's; no two services of a node share any;
* ``spec``: the last container that was built, from which its ports are known to a daemon that was not there.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from cyfs_ns.errors import BadWire
from cyfs_ns.identity.strictjson import read_object, write_json
from cyfs_ns.io.atomic import write_atomic
from node.image.oci import ImageConfig
from node.io.image.store import Image, ImageStore
from node.io.run import sandbox as sandbox_program
from node.io.run.doors import Doors
from node.io.run.exits import Exits, Outside
from node.io.run.packages import source_of
from node.io.run.tokens import Token, drop_token, forget_token, put_token
from node.run.container import SPEC, USERS, Container, Runtime, plan, sandbox
from node.run.runner import Ended, Launch, Limits, Order, Place, RunFault
from node.run.seccomp import program
from tunnels.io.reactor import Reactor

_FIRST_USER: Final = 0x5000_0000
"""Far above the users of a machine, and those that other programs give to containers (subuid(5))."""
_MOST_CONTAINERS: Final = 4096
_MOST_ACCOUNTS: Final = 1 << 20
"""Bytes of ``/etc/passwd`` or ``/etc/group`` of an image."""
_SPARE_IMAGES: Final = 4


@dataclass(frozen=True, slots=True)
class Able:
    """What builds containers on this machine."""

    runtime: Runtime
    path: str
    filter: bytes = b""
    why: str = ""
    """Why it is this one."""


def look(machine: str | None = None) -> Able:
    """Bubblewrap where it is installed, else crun; raises ``RunFault`` where neither can be.

    Links are followed here, because where containers are built not all folders are the machine's.
    """
    if os.geteuid() != 0:
        raise RunFault("containers need users of their own, which only a daemon of root can give them", lasting=True)
    try:
        code = program(machine or os.uname().machine)
    except KeyError:
        code = b""
    if code and (path := shutil.which("bwrap")):
        return Able("bwrap", os.path.realpath(path), code, "bubblewrap is installed")
    if path := shutil.which("crun"):
        why = "bubblewrap is not installed" if code else "no filter of system calls for bubblewrap on this machine"
        return Able("crun", os.path.realpath(path), why=why)
    raise RunFault("neither bubblewrap (bwrap) nor crun is installed", lasting=True)


class Containers:
    """``Kind`` of containers, of the node whose files are below ``home``."""

    def __init__(
        self,
        node: str,
        home: str,
        limits: Limits,
        reactor: Reactor,
        doors: trio.Nursery,
        token: Token | None = None,
        able: Able | None = None,
        host: str = "127.0.0.1",
        outside: Outside | None = None,
    ) -> None:
        """``doors`` is where the ports of containers are served, at ``host``; ``able`` None: what there is.

        ``outside`` None: nothing leads out of them.
        """
        self._node, self._home, self._limits, self._token = node, home, limits, token
        self._reactor, self._nursery, self._host, self._able = reactor, doors, host, able
        self._images = ImageStore(Path(home, "images"))
        self._unpacking = trio.Lock()
        self._giving = threading.Lock()
        self._outside = outside
        self._open: dict[str, tuple[Doors, Exits | None]] = {}

    async def prepare(self, order: Order, place: Place) -> None:
        """See ``Kind``: the image is unpacked."""
        async with self._unpacking:
            image = await trio.to_thread.run_sync(self._load, order)
            await trio.to_thread.run_sync(self._keep, place, image)

    def _load(self, order: Order) -> Image:
        source = source_of(Path(self._home, "packages"), order.work.image)
        archive = source.with_name(f"{source.name}.tar")
        try:
            return self._images.load(source if source.is_dir() else archive, "", _is_wanted)
        except BadWire as bad:
            raise RunFault(f"image {order.work.image}: {bad}", lasting=True) from bad
        except OSError as fault:
            raise RunFault(f"image {order.work.image}: {fault}") from fault

    def _keep(self, place: Place, image: Image) -> None:
        state = Path(place.state)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(state / "image", (image.name or str(image.rootfs)).encode())
        items = Path(self._home, "items")
        # Of a process, ``running`` is the folder of its package.
        used = {_text(path) for name in ("image", "running") for path in items.glob(f"*/{name}") if not path.is_dir()}
        unpacked = Path(self._home, "images")
        spare = sorted((p for p in unpacked.glob("sha256-*") if p.name not in used), key=lambda p: p.stat().st_mtime)
        self._images.collect(used | {path.name for path in spare[-_SPARE_IMAGES:]})

    async def launch(self, order: Order, place: Place) -> Launch:
        """See ``Kind``."""
        token = None if self._token is None else await self._token(order.service)
        launch = await trio.to_thread.run_sync(self._launch, order, place, token)
        bounds = await self._limits.enter(order)
        return replace(launch, join=bounds.join, limits=bounds.limits)

    def _launch(self, order: Order, place: Place, token: str | None) -> Launch:
        able = self._able or look()
        state = Path(place.state)
        try:
            name = _text(state / "image")
            config, rootfs = self._image(name)
            write_atomic(state / "running", name.encode())
            first = self._users(state)
            passwd, group = (_account_file(rootfs, name) for name in ("passwd", "group"))
            container = plan(
                order,
                place,
                config,
                str(rootfs),
                first,
                self._node,
                token is not None,
                passwd,
                group,
                self._outside is not None,
            )
            for folder, _ in container.volumes:
                Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
                os.chown(folder, first + container.user[0], first + container.user[1])
            if token is not None:
                put_token(place, token, (first + container.user[0], first + container.user[1]))
            spec = sandbox(container, able.runtime, able.path, able.filter)
            write_atomic(state / "spec", write_json({"ports": _ports(container), **spec}))
        except BadWire as bad:
            raise RunFault(f"image {order.work.image}: {bad}") from bad
        except OSError as fault:
            raise RunFault(f"the container cannot be prepared: {fault}") from fault
        return Launch(
            argv=(sys.executable, "-I", "-S", sandbox_program.__file__),
            env=(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),),
            inputs=((SPEC, str(state / "spec")),),
            # Bubblewrap stays outside, and is process 1 inside; of crun only the one outside is not the service.
            carriers=2 if able.runtime == "bwrap" else 1,
        )

    def _image(self, name: str) -> tuple[ImageConfig, Path]:
        if name.startswith("/"):
            return ImageConfig(), Path(name)
        image = self._images.find(name)
        if image is None:
            raise RunFault("its image is not unpacked any more")
        return image.config, image.rootfs

    def _users(self, state: Path) -> int:
        """The first user of the service; chosen once, because its volumes belong to them."""
        if (text := _text(state / "users")).isdigit():
            return int(text)
        with self._giving:
            taken = {_text(path) for path in state.parent.glob("*/users")}
            for number in range(_MOST_CONTAINERS):
                if (first := str(_FIRST_USER + number * USERS)) not in taken:
                    write_atomic(state / "users", first.encode())
                    return int(first)
        raise RunFault(f"there are {_MOST_CONTAINERS} containers here already")

    async def stop(self, order: Order, place: Place) -> bool:
        """See ``Kind``: by SIGTERM."""
        return False

    async def probe(self, order: Order, place: Place) -> str:
        """See ``Kind``; and its doors are opened, also by a daemon that comes after the one that started it."""
        service = order.service
        try:
            ports = await trio.to_thread.run_sync(_ports_of, place)
            network = await trio.to_thread.run_sync(_network_of, place)
            try:
                if service not in self._open or self._open[service][0].ports != ports:
                    self._close(service)
                    self._begin(place, ports, network)
            finally:
                os.close(network)
        except OSError as fault:
            return f"its ports cannot be opened: {fault.strerror or fault}"
        return ""

    def _begin(self, place: Place, ports: dict[int, int], network: int) -> None:
        doors = Doors(self._reactor, ports, lambda: _network_of(place), self._host)
        exits = None
        try:
            if self._outside is not None:
                exits = Exits(place.service, self._outside, self._reactor, network, ports.values())
        except OSError:
            doors.close()
            raise
        self._open[place.service] = doors, exits
        for each in (doors,) if exits is None else (doors, exits):
            self._nursery.start_soon(each.serve)

    async def release(self, place: Place) -> None:
        """See ``Kind``: its network and its file systems ended with it; only the doors are ours."""
        self._close(place.service)
        await trio.to_thread.run_sync(drop_token, place)
        await self._limits.leave(place.service)

    def _close(self, service: str) -> None:
        for each in self._open.pop(service, ()):
            if each is not None:
                each.close()

    async def forget(self, place: Place) -> None:
        """See ``Kind``: but its users are kept, with the volumes that belong to them."""
        for name in ("image", "running", "spec"):
            await trio.Path(place.state, name).unlink(missing_ok=True)
        await trio.to_thread.run_sync(forget_token, place)

    def explain(self, place: Place, ended: Ended) -> str:
        """See ``Kind``."""
        if why := self._limits.explain(place.service, ended):
            return why
        if ended.code is not None and 128 < ended.code < 193:  # the service's own end, as both runtimes tell it
            return f"killed by signal {ended.code - 128}"
        return str(ended)


def _ports(container: Container) -> dict[str, int]:
    return {str(outside): inside for outside, inside in container.ports}


def _ports_of(place: Place) -> dict[int, int]:
    """The ports of the last container that was built; raises ``OSError``."""
    try:
        ports = read_object(Path(place.state, "spec").read_bytes()).get("ports")
    except BadWire as bad:
        raise OSError(str(bad)) from None
    found = ports if isinstance(ports, dict) else {}
    return {int(outside): inside for outside, inside in found.items() if isinstance(inside, int)}


def _network_of(place: Place) -> int:
    """The network of the container that runs, opened; raises ``OSError``.

    It is that of the first process below the keeper's that is in another network than we, and one of its users, who
    are nobody else's.  What a process has for its environment is its own affair.
    """
    ours = Path("/proc/self/ns/net").stat().st_ino
    first = int(_text(Path(place.state, "users")) or 0)
    state = dict(line.partition("=")[::2] for line in _text(Path(place.runs, "state")).splitlines())
    pending = [state.get("main", "0")]
    while pending:
        pid = pending.pop(0)
        with suppress(OSError):
            if 0 <= Path(f"/proc/{pid}").stat().st_uid - first < USERS:
                network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(network).st_ino != ours:
                    return network
                os.close(network)
            pending += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    raise OSError("the container is not there yet")


def _account_file(rootfs: Path, name: str) -> str:
    """``/etc/passwd`` or ``/etc/group`` of an image, where that is a file in a folder; no link is followed."""
    try:
        etc = os.open(rootfs / "etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=etc), "rb") as file:
                return file.read(_MOST_ACCOUNTS).decode("utf-8", "replace")
        finally:
            os.close(etc)
    except OSError:
        return ""


def _text(path: Path) -> str:
    """Empty where there is no such file; raises ``OSError`` where it cannot be read, which says nothing of it."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _is_wanted() -> bool:
    """Raises ``trio.Cancelled`` when nobody waits for this thread any more."""
    trio.from_thread.check_cancelled()
    return True

"""The seam between the node loop and what runs: orders, places, launches, and what a kind of item has to know.

A **run** is one start of an item, from its launch until nothing of it runs any more.  The launcher
(``node/io/run/runs.py``) makes runs, and does for every kind: a keeper process for each run (log, exit status, no
process left over), signals and grace, and adoption by the next daemon.  A :class:`Kind` does the rest, in this order:

    prepare, (launch, the run, release)*, forget

``prepare`` brings what is slow to come, before anything of an older version is stopped.  ``launch`` takes what one
run holds outside its processes (control groups, network namespaces), and repairs what an earlier run left of it;
``release`` gives it back, when nothing of the run runs any more.  A daemon may be killed between any two of them, so
each may be called again, and ``release`` also where no ``launch`` was.  No two calls for one service overlap; calls
for different services do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from cyfs_ns.errors import CyfsError
from zone.scheduler.service import Pairs, Work

MARK: Final = "CYFS_RUN"
"""The variable of the environment by which a process is known as one of a run; its value is the name of the run."""


class RunFault(CyfsError):
    """An item cannot be run; the message says why, to the owner of the page.

    ``lasting``: trying again changes nothing while the page and the node stay as they are.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to run: the part of an item that, when it is another, means another run."""

    service: str
    work: Work
    ports: tuple[tuple[str, int], ...] = ()
    """Name and number on this node."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of one service are, below the node's home."""

    home: str
    service: str

    @property
    def runs(self) -> str:
        """What the launcher keeps of its runs."""
        return f"{self.home}/runs/{self.service}"

    @property
    def state(self) -> str:
        """For the kind: what goes with the service."""
        return f"{self.home}/items/{self.service}"

    @property
    def logs(self) -> str:
        """Lines that it wrote, and those of before."""
        return f"{self.home}/logs/{self.service}"

    @property
    def token(self) -> str:
        """The service's own token, mode 0600; never in the environment, which its children and crash reports show."""
        return f"{self.home}/tokens/{self.service}/token"

    def volume(self, name: str) -> str:
        """The directory that is volume ``name``."""
        return f"{self.home}/volumes/{self.service}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run, as the keeper is told to start it.  Nothing of it is looked up in a shell or a ``PATH``."""

    argv: tuple[str, ...]
    """``argv[0]`` is an absolute path, or one below ``cwd``."""
    env: Pairs = field(default=(), repr=False)
    """All of it: nothing is inherited but ``MARK``."""
    cwd: str = "/"
    user: tuple[int, int] | None = None
    """User and group it becomes, without other groups; None: it stays who the daemon is."""
    join: tuple[str, ...] = ()
    """Files (``cgroup.procs``) into which it writes ``0`` before it gives up any right."""
    limits: tuple[tuple[int, int], ...] = ()
    """``RLIMIT_*`` and the number that becomes its soft and hard limit."""
    inputs: tuple[tuple[int, str], ...] = ()
    """Descriptor, from 3 to 63, and the file that it finds there for reading."""
    new_privileges: bool = False
    """Whether programs may give it rights it has not (set-user-ID); only for one that sets that itself."""
    carriers: int = 0
    """Generations of processes that only carry the service, such as a sandbox's own: not told to stop, but killed."""
    lingers: bool = False
    """The run goes on when ``argv`` has ended with 0, until nothing that it started is left, or it is told to stop."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.  Nothing of it runs any more."""

    code: int | None = None
    """Of ``argv``: its exit status, or minus the number of the signal that ended it; None: nobody knows."""
    fault: str = ""
    """Why ``argv`` was never started."""
    left: int = 0
    """Processes that were still there when ``argv`` ended, and were killed."""

    def __str__(self) -> str:
        if self.fault:
            return self.fault
        if self.code is None:
            return "ended while nobody was looking"
        return f"killed by signal {-self.code}" if self.code < 0 else f"exited with {self.code}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds a run within its limits."""

    join: tuple[str, ...] = ()
    """As ``Launch.join``."""
    limits: tuple[tuple[int, int], ...] = ()
    """As ``Launch.limits``."""


class Limits(Protocol):
    """Makes the limits of a page hold, for every kind alike."""

    async def enter(self, order: Order) -> Bounds:
        """Bounds for a run that is to start; what an earlier run of the service left is taken back first."""

    async def leave(self, service: str) -> None:
        """Nothing of the run runs any more."""

    def explain(self, service: str, ended: Ended) -> str:
        """Why the run ended, if a limit ended it; before ``leave``.  Empty: none did."""


class Kind(Protocol):
    """What differs between kinds of items.  Every method but ``explain`` may take its time and may be cancelled."""

    async def prepare(self, order: Order, place: Place) -> None:
        """Have everything there that ``launch`` needs and that takes long; raises ``RunFault``."""

    async def launch(self, order: Order, place: Place) -> Launch:
        """Take what one run needs, and say how it starts; raises ``RunFault``, and ``release`` follows then, too."""

    async def stop(self, order: Order, place: Place) -> bool:
        """Ask the run to end in the kind's own way; False: it has none, so the launcher sends SIGTERM."""

    async def probe(self, order: Order, place: Place) -> str:
        """Why a run that is going on does not serve; empty: it may.  Beside the health check of the page."""

    async def release(self, place: Place) -> None:
        """Give back what a run held; nothing of it runs any more."""

    async def forget(self, place: Place) -> None:
        """Give back what was prepared.  Volumes stay: they are the owner's."""

    def explain(self, place: Place, ended: Ended) -> str:
        """How the run ended, in words for the owner, before ``release``; ``str(ended)`` if there is no more to it."""

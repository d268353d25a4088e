"""How etcd is started, and what its last words mean for people and for the next step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from zone.etcd.seats import CLIENT

QUOTA: Final = 1024 * 1024 * 1024
"""Bytes of the file with all revisions that are kept; beyond it nothing is written until room is made."""
_HISTORY: Final = "1h"
_SNAPSHOT_COUNT: Final = 10_000
_MOST_OPERATIONS: Final = 2048
_LEAST_BEAT, _MOST_BEAT = 100, 1000
_BEATS: Final = 10
"""Heartbeats that may be missed before an election."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of the program, in a directory of its own."""

    url: str
    """Its peer URL."""
    urls: tuple[str, ...] = ()
    """All members of the cluster that it begins in, if it has no data."""
    is_new: bool = False
    """The cluster begins with it."""
    data: str = "data"
    """The directory of its data, in that of the launch."""
    rtt: float = 0.0
    """Seconds to the farthest other member and back, 0: not known."""
    quota: int = QUOTA


def flags(launch: Launch) -> tuple[str, ...]:
    """For the program that runs in the directory where its sockets are to be."""
    beat = heartbeat(launch.rtt)
    told = {
        "name": _name(launch.url),
        "data-dir": launch.data,
        "listen-client-urls": f"unix://{CLIENT}",
        "advertise-client-urls": f"unix://{CLIENT}",
        "listen-peer-urls": launch.url,
        "initial-advertise-peer-urls": launch.url,
        "initial-cluster": ",".join(f"{_name(url)}={url}" for url in launch.urls or (launch.url,)),
        "initial-cluster-state": "new" if launch.is_new else "existing",
        # Who begins the same cluster says the same.
        "initial-cluster-token": (launch.urls or (launch.url,))[0],
        "heartbeat-interval": str(beat),
        "election-timeout": str(beat * _BEATS),
        "max-txn-ops": str(_MOST_OPERATIONS),
        "quota-backend-bytes": str(launch.quota),
        "snapshot-count": str(_SNAPSHOT_COUNT),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": _HISTORY,
        "strict-reconfig-check": "true",
        "logger": "zap",
        "log-outputs": "stderr",
    }
    return tuple(f"--{name}={value}" for name, value in told.items())


def _name(url: str) -> str:
    """Of the member there, which etcd wants to be another for each."""
    return url.removeprefix("unix://").partition(":")[0]


def heartbeat(rtt: float) -> int:
    """Milliseconds between two signs of life of a leader: about a round trip, within what keeps elections short."""
    return min(max(_LEAST_BEAT, round(rtt * 1000 / 50 + 0.5) * 50), _MOST_BEAT)


class Trouble(Enum):
    """What is wrong with a member that ended."""

    REMOVED = auto()
    """It is a member no more, and never will be again in this life."""
    DAMAGED = auto()
    """Its data cannot be read."""
    NO_ROOM = auto()
    """The disk is full."""
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a member ended, for people, and what to do."""

    trouble: Trouble
    said: str

    def __str__(self) -> str:
        return _MEANING[self.trouble].format(self.said)


_MEANING: Final = {
    Trouble.REMOVED: "etcd: this member was removed from its cluster",
    Trouble.DAMAGED: "etcd: the data are damaged ({}); restore a snapshot, or let the other OODs replace them",
    Trouble.NO_ROOM: "etcd: the disk is full; make room on it",
    Trouble.OTHER: "etcd: it ended: {}",
}

_SIGNS: Final = (
    ("no space left on device", Trouble.NO_ROOM),
    ("disk quota exceeded", Trouble.NO_ROOM),
    ("file too large", Trouble.NO_ROOM),
    ("permanently removed from the cluster", Trouble.REMOVED),
    ("crc mismatch", Trouble.DAMAGED),
    ("checksum", Trouble.DAMAGED),
    ("corrupt", Trouble.DAMAGED),
    ("invalid database", Trouble.DAMAGED),
    ("version mismatch", Trouble.DAMAGED),
    ("failed to recover v3 backend from snapshot", Trouble.DAMAGED),
    ("wal: file not found", Trouble.DAMAGED),
    ("unexpected eof", Trouble.DAMAGED),
    ("failed to read wal", Trouble.DAMAGED),
    ("failed to open wal", Trouble.DAMAGED),
)
_MOST_SAID: Final = 240
_HARMLESS: Final = ('"level":"info"', '"level":"debug"')
_PASSING: Final = ('"level":"warn"', '"level":"error"')
"""Said of what it goes on from: a peer whose connection ended is no damage here."""


def diagnose(lines: Sequence[str]) -> Diagnosis:
    """What the last lines of its log say.  The first sign that stands in any counts, in the order of how sure it is."""
    grave = [line for line in lines if line.strip() and not any(word in line for word in _HARMLESS)]
    for sign, trouble in _SIGNS:
        for line in reversed(grave):
            if trouble is Trouble.DAMAGED and any(word in line for word in _PASSING):
                continue
            if sign in line.lower():
                return Diagnosis(trouble, _said(line))
    last = next((line for line in reversed(grave) if '"fatal"' in line or '"panic"' in line), "")
    return Diagnosis(Trouble.OTHER, _said(last or (grave or ["without a word"])[-1]))


def _said(line: str) -> str:
    try:
        told = json.loads(line)
        line = f"{told['msg']}: {told['error']}" if "error" in told else str(told["msg"])
    except (ValueError, TypeError, KeyError):
        pass
    return line.strip()[:_MOST_SAID]

"""This machine, asked for its facts."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from node.loop.facts import Facts, Usage, addresses_of, memory_of


def look(home: str, did: str, net_id: str) -> tuple[Facts, Usage]:
    """Facts and usage now.  Raises ``OSError``."""
    total, used = memory_of(Path("/proc/meminfo").read_text())
    disk = os.statvfs(home)
    facts = Facts(
        did=did,
        net_id=net_id,
        cpu_num=len(os.sched_getaffinity(0)),
        total_mem=total,
        os=platform.system().lower(),
        arch=platform.machine(),
        hostname=platform.node(),
        ips=addresses_of(_read("/proc/net/fib_trie"), _read("/proc/net/if_inet6")),
    )
    return facts, Usage(load=round(os.getloadavg()[0], 2), used_mem=used, free_disk=disk.f_bavail * disk.f_frsize)


def _read(path: str) -> str:
    """Empty where the kernel has no such family."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""

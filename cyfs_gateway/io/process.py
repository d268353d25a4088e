"""Which local process holds the other end of a connection, as mihomo's process rules want to know.

The kernel's socket tables (``/proc/net/{tcp,udp}{,6}``, proc_pid_net(5)) turn the client's address into an inode and an
owner; the processes' descriptors turn the inode into a process.  Both are files, so the search runs in a thread, behind
a deadline, and only for clients of this machine.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

import trio

from cyfs_gateway.flow import Flow
from cyfs_gateway.io.transparent import is_own_address

_DEADLINE: Final = 1.0
_searches = trio.CapacityLimiter(4)


async def find_process(flow: Flow) -> None:
    """Fill ``process``, ``process_path`` and ``uid`` of a flow that began on this machine; leave them when unknown."""
    if flow.process or flow.uid >= 0:
        return
    with trio.move_on_after(_DEADLINE):
        found = await trio.to_thread.run_sync(
            _search, flow.network, flow.src_ip, flow.src_port, abandon_on_cancel=True, limiter=_searches
        )
        if found is not None:
            flow.uid, flow.process_path = found
            flow.process = flow.process_path.rpartition("/")[2]


def _search(network: str, host: str, port: int) -> tuple[int, str] | None:
    if not is_own_address(host):
        return None
    entry = _socket_of(network, host, port)
    if entry is None:
        return None
    uid, inode = entry
    return uid, _holder_of(inode)


def _socket_of(network: str, host: str, port: int) -> tuple[int, int] | None:
    """(uid, inode) of the socket bound to this address, also when it is an IPv6 socket that speaks IPv4."""
    wanted = {_spell(host, port)}
    if "." in host:
        wanted.add(_spell(f"::ffff:{host}", port))
    if network == "udp":
        wanted |= {_spell("0.0.0.0", port), _spell("::", port)}
    for table in (network, f"{network}6"):
        try:
            with Path(f"/proc/net/{table}").open() as lines:
                next(lines)
                for line in lines:
                    words = line.split(maxsplit=10)
                    if words[1] in wanted and words[9] != "0":
                        return int(words[7]), int(words[9])
        except OSError:
            continue
    return None


def _spell(host: str, port: int) -> str:
    """An address as the kernel's tables print it: 32-bit words in host byte order, in hex."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _leads_to(descriptor: str) -> str:
    """What a descriptor is, by its link; it may be closed by now, which says nothing of its neighbours."""
    try:
        return os.readlink(descriptor)
    except OSError:
        return ""


def _holder_of(inode: int) -> str:
    """Path of the program that has this socket open; empty when it cannot be seen."""
    wanted = f"socket:[{inode}]"
    for process in os.scandir("/proc"):
        if not process.name.isdigit():
            continue
        try:
            with os.scandir(f"/proc/{process.name}/fd") as descriptors:
                if any(_leads_to(descriptor.path) == wanted for descriptor in descriptors):
                    return os.readlink(f"/proc/{process.name}/exe")
        except OSError:
            continue
    return ""

"""System calls that no container may use: a filter in classic BPF for bubblewrap, and its names for OCI runtimes.

The list denies what changes the machine (modules, clocks, swap, restart), what looks at other processes or into the
kernel (ptrace, bpf, perf), what makes a new world (mounts, namespaces), and doors of the kernel that no service needs
and that were the way out of many a sandbox (io_uring, userfaultfd, key rings).  It denies sockets to the host of a
virtual machine (vsock(7)), which are in no network namespace and would lead out of any.  All else is allowed: an image
is not known, and one that dies of an unknown call helps nobody.  ``clone3`` does not exist for a container, because its
flags cannot be looked at; C libraries then use ``clone``, whose flags are.

We write the sixty instructions ourselves: the Python bindings of libseccomp are not kept (the last of them is of 2021).
"""

from __future__ import annotations

import struct
from typing import Final

NAMESPACES: Final = 0x7E02_0000
"""``CLONE_NEW*`` of clone(2)."""
_TYPE_INTO: Final = (0x5412, 0x541C)
"""``TIOCSTI`` and ``TIOCLINUX``: they type into the terminal of who started us."""
_EPERM: Final = 1
_ENOSYS: Final = 38
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
_KILL: Final = 0x8000_0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where they are in ``struct seccomp_data``; of the arguments the low half, on little-endian machines."""
_X32: Final = 0x4000_0000
_MACHINES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1), "riscv64": (0xC000_00F3, 1)}
"""``AUDIT_ARCH_*``, and the column of the numbers below: of x86-64, and of all machines that came after it."""
_CALLS: Final[dict[str, tuple[int | None, int | None]]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "uselib": (134, None),
    "vhangup": (153, 58),
}
_CLONE, _CLONE3, _IOCTL, _SOCKET = (56, 220), (435, 435), (16, 29), (41, 198)
_VSOCK: Final = 40


def program(machine: str) -> bytes:
    """The filter for ``machine`` (as uname(2) names it), as ``bwrap --seccomp`` takes it.

    Raises ``KeyError`` for a machine whose numbers are not known here.
    """
    architecture, column = _MACHINES[machine]
    code = _Code()
    code.load(_ARCHITECTURE)
    # Another architecture has other numbers: of 32 bits on a machine of 64.
    code.unless(_EQUAL, architecture, _KILL)
    code.load(_NUMBER)
    if machine == "x86_64":
        code.when(_AT_LEAST, _X32, _ERRNO | _ENOSYS)
    for numbers in _CALLS.values():
        number = numbers[column]
        if number is not None:
            code.when(_EQUAL, number, _ERRNO | _EPERM)
    code.when(_EQUAL, _CLONE3[column], _ERRNO | _ENOSYS)
    code.inspect(_CLONE[column], _FIRST, [(_ANY_BIT, NAMESPACES)])
    code.inspect(_SOCKET[column], _FIRST, [(_EQUAL, _VSOCK)])
    code.inspect(_IOCTL[column], _SECOND, [(_EQUAL, request) for request in _TYPE_INTO])
    code.add(_RETURN, 0, 0, _ALLOW)
    return bytes(code.out)


def for_runtime() -> dict[str, object]:
    """The same, as ``linux.seccomp`` of an OCI runtime's ``config.json`` (runtime-spec 1.0, config-linux.md)."""

    def refused(names: list[str], number: int, index: int = 0, **when: object) -> dict[str, object]:
        rule: dict[str, object] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number}
        return rule | {"args": [{"index": index, **when}]} if when else rule

    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            refused(list(_CALLS), _EPERM),
            refused(["clone3"], _ENOSYS),
            # One rule for each flag: libseccomp compares what is left of a mask with one value.
            *(
                refused(["clone"], _EPERM, 0, value=1 << bit, valueTwo=1 << bit, op="SCMP_CMP_MASKED_EQ")
                for bit in range(32)
                if NAMESPACES >> bit & 1
            ),
            refused(["socket"], _EPERM, 0, value=_VSOCK, op="SCMP_CMP_EQ"),
            *(refused(["ioctl"], _EPERM, 1, value=request, op="SCMP_CMP_EQ") for request in _TYPE_INTO),
        ],
    }


class _Code:
    """Instructions (``struct sock_filter``): operation, how many to skip when true and when false, operand."""

    def __init__(self) -> None:
        self.out = bytearray()

    def add(self, code: int, when_true: int, when_false: int, operand: int) -> None:
        self.out += struct.pack("=HBBI", code, when_true, when_false, operand)

    def load(self, offset: int) -> None:
        self.add(_LOAD, 0, 0, offset)

    def when(self, test: int, operand: int, verdict: int) -> None:
        self.add(test, 0, 1, operand)
        self.add(_RETURN, 0, 0, verdict)

    def unless(self, test: int, operand: int, verdict: int) -> None:
        self.add(test, 1, 0, operand)
        self.add(_RETURN, 0, 0, verdict)

    def inspect(self, number: int, argument: int, tests: list[tuple[int, int]]) -> None:
        """Of call ``number``, deny those whose ``argument`` passes one of ``tests``."""
        self.add(_EQUAL, 0, 2 * len(tests) + 2, number)
        self.load(argument)
        for test, operand in tests:
            self.when(test, operand, _ERRNO | _EPERM)
        self.load(_NUMBER)

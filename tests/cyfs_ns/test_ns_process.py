"""What a process that stays arranges with the kernel."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

_TOLD = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
from cyfs_ns.io.process import settle_in
settle_in()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], int(status["FDSize"]))
"""


def test_the_table_of_descriptors_need_not_grow_while_others_wait() -> None:
    hard = 4096
    told = subprocess.run([sys.executable, "-c", _TOLD.format(hard=hard)], capture_output=True, text=True, check=True)
    limit, room = map(int, told.stdout.split())
    assert limit == hard and room >= hard, told.stdout


def test_a_limit_of_few_descriptors_is_no_fault() -> None:
    told = subprocess.run([sys.executable, "-c", _TOLD.format(hard=64)], capture_output=True, text=True, check=True)
    assert told.stdout.split()[0] == "64" and not told.stderr


_FAULTS = """
import resource
from cyfs_ns.io.process import keep_spare_memory
keep_spare_memory()
[bytearray(1 << 20) for _ in range(16)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [bytearray(1 << 20) for _ in range(16)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="says so to GNU's C library alone")
def test_buffers_that_come_and_go_are_not_asked_of_the_kernel_each_time() -> None:
    told = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    pages = 10 * (16 << 20) // resource.getpagesize()
    assert int(told.stdout) < pages / 10

"""What holds for all tests: interrupts arrive, no example of Hypothesis fails because the machine has other things to
do, and where everything must run nothing skips.

With ``CYFS_TESTS_MUST_RUN=1`` a test that cannot run fails, and says what it lacks; and Hypothesis draws the same
examples each time, so that a change is judged by what it changed.  Elsewhere it goes on looking for new ones.

On somebody's laptop a test without its real peer skips.  Where a change is judged (``.ci/run``) that would hide behind
a green line that what must be shown was never looked at.  What no installation can give a machine is listed here, and
only that may skip there.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
from collections.abc import Callable, Generator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)

_BEYOND_INSTALLING: dict[str, Callable[[], bool]] = {
    "needs root:": lambda: os.geteuid() != 0,
    "netns-lab needs root:": lambda: os.geteuid() != 0,
    # Containers without CAP_SYS_ADMIN; each of these has tried.
    "needs network namespaces, which this machine does not allow": lambda: True,
    "needs mount namespaces, which this machine does not allow": lambda: True,
    "netns-lab cannot make network namespaces": lambda: True,
    "needs control groups, which this machine does not allow": lambda: True,
    # A module, which a container cannot load; the test has tried to make a set.
    "needs ipset in the kernel": lambda: True,
    # The node is published for this machine only.
    "tools/install-chain installs anvil": lambda: platform.machine() != "x86_64",
    # A new Unicode came with a new web3, and our tables are of the one before: no fault of the machine or the change.
    "another edition of the specification is installed": lambda: True,
}
"""How reasons to skip begin, and when they count."""


def may_skip(reason: str) -> bool:
    """Whether a test may skip for ``reason`` where everything has to run."""
    return any(reason.startswith(start) and counts() for start, counts in _BEYOND_INSTALLING.items())


def _everything_must_run() -> bool:
    return os.environ.get("CYFS_TESTS_MUST_RUN") == "1"


def pytest_configure() -> None:
    # Started in the background of a script we ignore interrupts, and so would every program a test interrupts.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("ci" if _everything_must_run() else "patient")


def pytest_collection_finish() -> None:
    gc.freeze()  # ten thousand tests stay to the end: whoever collects garbage need not look at them again


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judged((yield))  # a whole file that skips


def _judged(report: _Report) -> _Report:
    if _everything_must_run() and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not may_skip(reason):
            report.outcome = "failed"
            report.longrepr = f"CYFS_TESTS_MUST_RUN: it did not run: {reason}"
    return report

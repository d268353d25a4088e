"""The pytest side: a fixture that gives each test its own undeclared lab, or says why there is none."""

from __future__ import annotations

import functools
import shutil

import pytest

from netnslab.lab import Lab, why_not

__all__ = ["lab", "need"]

_reason = functools.cache(why_not)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    """An empty lab named after the test.  Declare networks and hosts, then ``async with lab.up():``."""
    if (reason := _reason()) is not None:
        pytest.skip(f"netns-lab {reason}")
    return Lab(request.node.name)


def need(*programs: str) -> None:
    """Skip the test when this machine lacks one of these."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: tools/install-packages test")

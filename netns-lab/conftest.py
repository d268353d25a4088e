"""Every scenario has the fixture ``lab`` and the mark of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from netnslab.plugin import lab

from tests.conftest import pytest_configure, pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["lab", "pytest_configure", "pytest_make_collect_report", "pytest_runtest_makereport"]

_HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-matrix", action="store_true", help="look at every pair of kinds of networks")
    parser.addoption("--minutes", type=float, default=5.0, help="how long the bad days of a zone last")
    parser.addoption("--seed", type=int, help="what happens in them; without it, something else each time")
    parser.addoption("--keep-history", metavar="FILE", help="where to write what clients did then")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("lab")

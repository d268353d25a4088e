"""Every scenario has the fixture ``lab`` and the mark of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from netnslab.plugin import lab

__all__ = ["lab"]

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("lab")

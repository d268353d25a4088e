"""A configuration file with everything that is wrong with it, sections of modules too, and nothing started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from cyfs_gateway.config.model import Loaded
from cyfs_gateway.host import ENTRY_POINTS
from cyfs_gateway.io.configfile import read_config
from cyfs_ns.config.written import Fault
from cyfs_ns.errors import ConfigFault


def read_checked(path: Path, home: Path) -> Loaded:
    """As :func:`~cyfs_gateway.io.configfile.read_config`, after the modules have looked at their sections."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    loaded = read_config(path, home, list(points))
    if loaded.config is None:
        return loaded
    faults = tuple(_faults(loaded.config.modules, points))
    return replace(loaded, config=None, faults=(*loaded.faults, *faults)) if faults else loaded


def _faults(sections: Mapping[str, Any], points: Mapping[str, EntryPoint]) -> Iterator[Fault]:
    """What modules say of their sections; the key is in the words, the line is not known to them."""
    for section, value in sections.items():
        if value is False:
            continue
        try:
            points[section].load().check(value)
        except ConfigFault as fault:
            yield Fault(f"/{section}", 0, 0, str(fault))

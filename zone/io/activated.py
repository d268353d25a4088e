"""Whether a machine belongs to a zone, asked by a gateway that starts: without anything else being imported."""

from __future__ import annotations

from pathlib import Path


def is_activated(home: Path) -> bool:
    """Whether this machine was activated, however long ago (``zone/io/membership.py``)."""
    return (home / "identity" / "membership.json").exists()

"""One log record as those who watch a log get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LogLine:
    """See the module's text."""

    time: float
    """Seconds since the epoch."""
    level: str
    """debug info warning error."""
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)

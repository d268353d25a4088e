"""The vectors of ``docs/rtcp-v5.md``: the document is the fixture, so nobody has to copy a number from it."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "rtcp-v5.md"


class Vectors(list[tuple[str, str]]):
    """What stands in one section: labels and what is beside or below them, in order."""

    def text(self, label: str, nth: int = 0) -> str:
        return [value for name, value in self if name == label][nth]

    def hex(self, label: str, nth: int = 0) -> bytes:
        return bytes.fromhex(self.text(label, nth))


def section(number: str) -> Vectors:
    """The vectors of §``number``, for example ``16.2``."""
    text = DOCUMENT.read_text().split(f"\n### {number} ")[1]
    text = re.split(r"\n##", text)[0]
    found = Vectors()
    for line in text.splitlines():
        if line.startswith("      ") and found:  # more of the value, or all of it
            label, value = found.pop()
            found.append((label, value + line.strip()))
        elif line.startswith("    "):
            label, _, value = line.strip().partition("  ")
            found.append((label, value.strip()))
    return found

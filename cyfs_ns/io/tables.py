"""Tables for people: fitted to the terminal when there is one, plain aligned columns when the output goes elsewhere.

Cells hold host names and other words of strangers, so every cell is made harmless before it is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyfs_ns.printable import printable

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print to standard output."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_on_terminal(columns, cells)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [list(columns), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def bytes_text(count: int) -> str:
    """``1536`` as ``1.5 KiB``."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def seconds_text(seconds: float) -> str:
    """``93784`` as ``1d 2h 3m``; below a minute whole seconds."""
    left = int(seconds)
    parts = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if left >= size:
            parts.append(f"{left // size}{name}")
            left %= size
    return " ".join(parts) or f"{left}s"


def _show_on_terminal(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)

"""How work on what models write grows with its size: milliseconds a megabyte, up to ten megabytes.

    python tests/bench/growth.py [WORD ...]

Each kind of work meets the worst texts and structures of its kind. Where work is linear, milliseconds per megabyte stay
the same from column to column; rows where they do not are red. A row ends where the next size would take minutes if
it were not linear. Words choose rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table
from support.growth import ON_STRUCTURES, ON_TEXT, STRUCTURES, TEXTS

SIZES = [0.01, 0.1, 1.0, 10.0]  # MB
PATIENCE = 4.0  # seconds a megabyte


def rows() -> Iterator[tuple[str, str, Callable[..., Any], Callable[[int], Any]]]:
    """The work, the kind of input, what does the one and what makes the other."""
    for work, on_text in ON_TEXT.items():
        for name, write in TEXTS.items():
            yield work, name, on_text, write
    for work, on_structure in ON_STRUCTURES.items():
        for name, (kind, build) in STRUCTURES.items():
            yield work, name, lambda given, do=on_structure, kind=kind: do(given, kind), build


def measure(do: Callable[..., Any], make: Callable[[int], Any]) -> Iterator[float]:
    """Milliseconds per megabyte, size by size."""
    for size in SIZES:
        given = make(int(size * 1e6))
        written = given if isinstance(given, str) else json.dumps(given, default=str)
        started = time.process_time()
        do(given)
        seconds = time.process_time() - started
        yield seconds * 1e9 / len(written.encode())
        if seconds > max(1.0, PATIENCE * size):
            return


def main() -> None:
    """Time all rows and print them."""
    table = Table(title="ms per MB", box=None)
    for heading in ("work", "on", *(f"{size:g} MB" for size in SIZES)):
        table.add_column(heading)
    for work, name, do, make in rows():
        if all(word in f"{work} {name}" for word in sys.argv[1:]):
            cells = [*measure(do, make)]
            shown = [f"{cell:,.0f}" for cell in cells] + ["-"] * (len(SIZES) - len(cells))
            table.add_row(work, name, *shown, style="red" if len(cells) > 1 and cells[-1] > 3 * cells[-2] else "")
            print(work, name, *shown, file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

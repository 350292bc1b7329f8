"""A benchmark's result as a table: what it is of, in which unit, and how each number was come by.

Three columns, everywhere: here (measured or emulated), modelled for a chip, published. A cell that
is empty has a reason, which the conditions say. Nothing is measured here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anefast.bench.predictions import Row

Cell = float | int | str | None


@dataclass(frozen=True)
class Line:
    """One quantity."""

    name: str
    unit: str
    here: Cell
    modelled: Cell
    published: Cell


@dataclass(frozen=True)
class Table:
    """Lines and the conditions they hold under."""

    name: str
    title: str
    here: str  # measured or emulated, and on what
    chip: str
    conditions: tuple[str, ...]
    lines: tuple[Line, ...]

    def json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


def merged(rows: Sequence[Row], here: Mapping[str, Cell]) -> tuple[Line, ...]:
    """Published rows with the model's times and ours, by name; each of ours must have a row."""
    if stray := set(here) - {row.name for row in rows}:
        raise KeyError(f"[bench] no published row is called {sorted(stray)}.")
    return tuple(Line(r.name, r.unit, here.get(r.name), r.modelled, r.said) for r in rows)


def render(table: Table) -> list[str]:
    """Lines of text: title, conditions, a header that labels every column, the numbers."""
    header = ("", "unit", table.here.split(" ")[0] + " here", f"modelled {table.chip}", "published")
    cells = [
        (line.name, line.unit, text(line.here), text(line.modelled), text(line.published))
        for line in table.lines
    ]
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(len(header))]

    def joined(row: Sequence[str]) -> str:
        left = f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}"
        right = "  ".join(c.rjust(w) for c, w in zip(row[2:], widths[2:], strict=True))
        return f"  {left}  {right}".rstrip()

    return [
        f"{table.name}: {table.title}",
        *textwrap.wrap(
            "; ".join(table.conditions), 96, initial_indent="  ", subsequent_indent="  "
        ),
        joined(header),
        *(joined(row) for row in cells),
    ]


def text(cell: Cell) -> str:
    """Three digits at least of a measurement, never an exponent; a dash for nothing."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell}"
    if cell == 0 or not math.isfinite(cell):
        return f"{cell:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(cell))))
    return f"{cell:.{digits}f}"

"""The time model against published times of other chips: `bench model --held-out` prints them.

Most of these rows a chip's rates were fitted to (benchmarks/fit_time_model.py), and each is also
predicted there from rates that did not see it; rows marked held, no fit has seen. The form of the
model is the M1 Pro's (`fuse/timing.py`), with a few rates a chip. A row shows where it fails.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from operator import le
from pathlib import Path
from statistics import median

from anefast.bench import predictions
from anefast.bench.published import Described
from anefast.files import read_toml
from anefast.fuse.timing import Product

MOST = 0.20  # median relative error of a chip
KINDS = ("fitted", "held", "cliff")
# 128 convolutions of 768 channels take 2.7 times as long as those of 640, whose products are 1.4
# times as many: their weights are the first of more than 1 MiB each.
CLIFF = "beyond the cliff of an M3 Pro at 768 stacked channels, which the form does not have"


@dataclass(frozen=True)
class Published:
    """A published time of a program: 1x1 convolutions one after the other."""

    table: str
    source: str
    chip: str
    kind: str  # fitted, held or cliff
    convolutions: int
    channels_in: int
    channels_out: int
    positions: int
    us: float

    @property
    def slow(self) -> bool:
        """True if a larger program of its table took less time: a governor lowers the clock where
        the host leaves gaps (751K/Apple-Neural-Engine-Microarchitecture-Study-M6), as before the
        first rows of a table."""
        return any(
            row.table == self.table and row.us < self.us and all(map(le, self.size, row.size))
            for row in published()
        )

    @property
    def size(self) -> tuple[int, int, int, int]:
        return self.convolutions, self.channels_in, self.channels_out, self.positions

    @property
    def name(self) -> str:
        first = self.channels_in if self.convolutions == 1 else self.convolutions
        return f"{first}x{self.channels_out} sp{self.positions}"

    @property
    def work(self) -> Described:
        """Stacks count their weights once: every record of these benchmarks (maderix/ANE
        inmem_peak.m) says that its data begins at byte 0, and the compiler stores equal constants
        once (joshuaswarren/mil-hwx-compiler)."""
        flops = 2 * self.channels_in * self.channels_out * self.positions
        first = Product(flops, 2 * self.channels_in * self.channels_out, 0)
        again = (Product(flops, 0, 0),) * (self.convolutions - 1)
        return Described((first, *again), self.channels_in + self.channels_out, self.positions)


@functools.cache
def published() -> tuple[Published, ...]:
    """Every row of published.toml."""
    tables = read_toml(Path(__file__).with_name("published.toml"))["tables"]
    return tuple(
        Published(t["name"], t["source"], t["chip"], kind, *row)
        for t in tables
        for kind in KINDS
        for row in t.get(kind, ())
    )


def predicted(row: Published) -> predictions.Row:
    """The row with the time that the table's rates predict."""
    us = 1e3 * predictions.Machine(row.chip).evaluate(row.work)
    return predictions.Row(row.table, row.name, "us", row.us, us)


def errors() -> dict[str, list[float]]:
    """The absolute relative errors of all rows, by chip."""
    found: dict[str, list[float]] = {}
    for row in published():
        found.setdefault(row.chip, []).append(abs(predicted(row).error))
    return found


def report() -> list[str]:
    """Every row, the median and the worst of each table, and the median of each chip."""
    lines = ["times of one evaluation, us, each of one machine of others; modelled by rates.py"]
    for table in dict.fromkeys(row.table for row in published()):
        mine = [row for row in published() if row.table == table]
        made = [predicted(row) for row in mine]
        worst = max(made, key=lambda r: abs(r.error))
        lines += [
            "",
            f"{table} ({mine[0].chip}; {mine[0].source}): median "
            f"{100 * median(abs(r.error) for r in made):.0f} %, worst {100 * worst.error:+.0f} % "
            f"of {worst.name}",
        ]
        lines += [
            f"  {row.name:18} {row.us:8.0f} {r.modelled:8.0f} {100 * r.error:+6.0f} %  {said(row)}"
            for row, r in zip(mine, made, strict=True)
        ]
    lines.append("")
    lines += [
        f"{chip}: {len(sizes)} rows, median {100 * median(sizes):.0f} % of {100 * MOST:.0f} %, "
        f"worst {100 * max(sizes):.0f} %"
        for chip, sizes in errors().items()
    ]
    return lines


def said(row: Published) -> str:
    notes = [{"fitted": "", "held": "not seen by the fit", "cliff": CLIFF}[row.kind]]
    notes += ["slower than a larger program: a low clock"] * row.slow
    return "; ".join(filter(None, notes))

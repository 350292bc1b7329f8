"""The time model's own error, row by row: published against modelled for the M1 Pro."""

from __future__ import annotations

from anefast.bench import model, seed
from anefast.bench.context import Bench
from anefast.bench.table import Line

TITLE = "the time model against every published time of the M1 Pro"
CHIP = seed.CHIP


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    rows = model.rows()
    worst, typical = model.errors(rows)
    return [
        f"{len(rows)} rows: worst {100 * worst:.1f} % of {100 * model.WORST:.0f} %, median "
        f"{100 * typical:.1f} % of {100 * model.TYPICAL:.0f} %; {model.PARAMETERS}",
        "nothing is measured here; the model's error is behind the name",
    ], [
        Line(f"{r.table} {r.name} ({100 * r.error:+.1f} %)", r.unit, None, r.modelled, r.said)
        for r in rows
    ]

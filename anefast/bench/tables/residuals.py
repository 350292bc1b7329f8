"""The time model's own error, row by row: published against modelled for the M1 Pro."""

from __future__ import annotations

from anefast.bench import predictions, published
from anefast.bench.context import Bench
from anefast.bench.table import Line

TITLE = "the time model against every published time of the M1 Pro"
CHIP = published.CHIP


def measure(bench: Bench) -> tuple[list[str], list[Line]]:
    rows = predictions.rows()
    worst, typical = predictions.errors(rows)
    return [
        f"{len(rows)} rows: worst {100 * worst:.1f} % of {100 * predictions.WORST:.0f} %, median "
        f"{100 * typical:.1f} % of {100 * predictions.TYPICAL:.0f} %; {predictions.PARAMETERS}",
        "nothing is measured here; the model's error is behind the name",
    ], [
        Line(f"{r.table} {r.name} ({100 * r.error:+.1f} %)", r.unit, None, r.modelled, r.said)
        for r in rows
    ]

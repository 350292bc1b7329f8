"""FFN-only proxy: one layer, twelve in one evaluation, twelve in twelve."""

from __future__ import annotations

from anefast.bench import published
from anefast.bench.context import Bench

TITLE = "FFN-only layers with residuals, fused and apart, per forward pass"
QUICK = 4  # the largest is left out


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    here: dict[str, float] = {}
    for f in published.FFNS[: QUICK if bench.quick else None]:
        found = bench.ffn(f)
        here |= {
            f"{f.name}: 1 layer": found.one,
            f"{f.name}: 12 fused": found.fused,
            f"{f.name}: 12 apart": found.separate,
            f"{f.name}: compile": found.compile_ms,
        }
    return [
        "one sequence; medians, fused and apart taken in turns; D channels, H hidden, S positions",
        "apart: here 12 evaluations of 12 programs; published and modelled 12 times one layer",
        *["--quick leaves the largest out here"] * bench.quick,
    ], here

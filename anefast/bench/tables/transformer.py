"""Whole transformer layers: one mega-kernel against attention and FFN of every layer apart."""

from __future__ import annotations

from anefast.bench import published
from anefast.bench.context import Bench

TITLE = "whole transformer layers, partial fusion included, per forward pass"
QUICK = 2


def measure(bench: Bench) -> tuple[list[str], dict[str, float]]:
    here: dict[str, float] = {}
    for t in published.MEGAS[: QUICK if bench.quick else None]:
        found = bench.transformer(t)
        here |= {
            f"{t.name}: fused": found.fused,
            f"{t.name}: apart": found.separate,
            f"{t.name}: compile": found.compile_ms,
        }
    return [
        f"one sequence of {published.SEQ} positions (not published); apart: 2 programs a layer",
        "here with RoPE, published without; compile: here with cutting, text and weight file",
        *["--quick leaves the largest two out here"] * bench.quick,
    ], here

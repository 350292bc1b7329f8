"""The published tables, one file each: what is run here for it, and under which conditions.

A module has TITLE and `measure(bench)`, which gives (conditions, {row: value}) where rows are those
of `model.py`, or (conditions, lines) where there is no time to model. CHIP, where it has one: what
its modelled column is of, whatever chip was asked for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from anefast.bench.context import Bench
from anefast.bench.table import Table, merged

MODULES = {  # name on the command line: module
    "ffn": "ffn",
    "transformer": "transformer",
    "accumulation": "accumulation",
    "step": "step",
    "compiles": "compiles",
    "cache": "cache",
    "async": "asynchronous",
    "hide": "hide",
    "stack": "stack",
    "cpu": "cpu",
    "weights": "weights",
    "terminal": "terminal",
    "model": "residuals",
}
FAST = ("weights", "cache", "cpu", "model")  # seconds, all together


def module(name: str) -> ModuleType:
    return importlib.import_module(f"anefast.bench.tables.{MODULES[name]}")


def make(name: str, bench: Bench) -> Table:
    """Measures one table."""
    found = module(name)
    conditions, result = found.measure(bench)
    lines = merged(bench.rows(name), result) if isinstance(result, dict) else tuple(result)
    chip = getattr(found, "CHIP", bench.machine.name)
    return Table(name, found.TITLE, bench.here, chip, tuple(conditions), lines)

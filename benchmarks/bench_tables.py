"""The published tables, each as a benchmark: printed, and checked for labels and conditions.

    python -m pytest benchmarks/bench_tables.py -s -k transformer

The same as `anefast bench transformer`.
"""

from __future__ import annotations

import pytest

from anefast.bench.table import render
from anefast.bench.tables import MODULES, make


@pytest.mark.parametrize("name", MODULES)
def test_table(bench, name):
    table = make(name, bench)
    print("", *render(table), sep="\n")
    assert table.conditions and table.lines
    assert table.here.split(" ")[0] == bench.device.label

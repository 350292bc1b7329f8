"""Counts of a training step against the saved ones: any change fails until it is saved as meant.

python -m pytest benchmarks/bench_counters.py
python -m pytest benchmarks/bench_counters.py --update-baseline
"""

from __future__ import annotations

import pytest

from anefast.bench import counters
from benchmarks.conftest import BASELINES

FILE = BASELINES / "counters.json"


@pytest.fixture(scope="module")
def saved(request):
    found = counters.measure()
    if request.config.option.update_baseline:
        counters.write(FILE, found)
    return found, counters.read(FILE)


@pytest.mark.parametrize("plan", counters.PLANS)
def test_counts(saved, plan):
    found, baseline = saved
    changed = counters.compare({plan: found[plan]}, baseline)
    assert not changed, "\n".join([*changed, "meant? then --update-baseline"])

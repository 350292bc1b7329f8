"""Counts of a training step against the saved ones: any change fails until it is saved as meant.

python -m pytest benchmarks/bench_counters.py
python -m pytest benchmarks/bench_counters.py --update-baseline
"""

from __future__ import annotations

import pytest

from anefast.bench import counters, instructions
from benchmarks.conftest import BASELINES

FILE, INSTRUCTIONS = BASELINES / "counters.json", BASELINES / "instructions.json"


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


@pytest.fixture(scope="module")
def counted(request):
    """(key, instructions of a micro-step, and with groups off, what is saved)."""
    try:
        counter = instructions.find_counter()
    except instructions.NoCounter as reason:
        pytest.skip(str(reason))
    key, (count, apart) = instructions.measure(counter, "", "groups=off")
    baseline = counters.read(INSTRUCTIONS)
    if request.config.option.update_baseline:
        baseline[key] = count
        counters.write(INSTRUCTIONS, baseline)
    print(f"\n{count:,} instructions in a micro-step of {instructions.JOB} ({key})")
    if key not in baseline:
        pytest.skip(f"no instructions saved for {key}. Hint: --update-baseline saves them.")
    return key, count, apart, baseline


def test_instructions(counted):
    key, count, _, baseline = counted
    wrong = instructions.compare(key, count, baseline)
    assert not wrong, f"{wrong}; meant? then --update-baseline"


def test_instructions_of_a_slower_path_fail(counted):
    """Operations one by one instead of in groups: the counts above and all bytes stay the same."""
    key, _, apart, baseline = counted
    assert apart > baseline[key] and instructions.compare(key, apart, baseline)

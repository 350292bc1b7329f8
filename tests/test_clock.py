"""What a chip's clock may do to modelled times, and what fewer and shorter gaps are worth."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from anefast.chips.behaviour import find_chip
from anefast.chips.rates import KEPT_GAP_US, LOW_CLOCK
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.fuse.cost import Cost, modelled
from anefast.fuse.count import Counter
from anefast.plan import PlanCommand, report
from anefast.presets import preset_settings

CONFIG = ModelConfig(**preset_settings("stories15m")["model"])


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    counter, rates = Counter(CONFIG, 1, 256), modelled(find_chip("m6"))
    specs = ("unfused", "layer", "all", "all,ports=packed")
    return {spec: Cost(counter.count(find_plan(spec)), rates) for spec in specs}


@pytest.mark.parametrize("spec", ["unfused", "layer", "all", "all,ports=packed"])
def test_gaps_and_work_make_up_the_step(costs: dict[str, Cost], spec: str) -> None:
    cost = costs[spec]
    assert 0 < cost.busy < cost.step
    assert cost.busy + cost.gap * cost.count.evaluations == pytest.approx(cost.step)
    dispatches = cost.rates.dispatch * cost.count.evaluations
    copies = sum(p.copied_bytes for p in cost.count.programs) / cost.rates.copied_bytes
    assert cost.busy == pytest.approx(
        cost.device("forward") + cost.device("backward") - dispatches - copies
    )


def test_at_the_low_clock_only_computing_takes_longer(costs: dict[str, Cost]) -> None:
    for cost in costs.values():
        assert cost.step < cost.at_low_clock < LOW_CLOCK.value * cost.step
        no_work = replace(cost, rates=replace(cost.rates, flops=float("inf"), product=0.0))
        assert no_work.at_low_clock == pytest.approx(no_work.step)


def test_short_gaps_keep_the_clock(costs: dict[str, Cost]) -> None:
    cost = costs["unfused"]
    quick = replace(cost.rates, dispatch=1e-6, cpu_flops=1e18, logit=0.0, copied_bytes=1e18)
    busy = replace(cost, rates=quick)
    assert 1e6 * busy.gap < KEPT_GAP_US.value and busy.at_low_clock == busy.step


def test_fusing_leaves_less_time_in_gaps_and_overlap_shorter_ones(costs: dict[str, Cost]) -> None:
    unfused, fused = costs["unfused"], costs["layer"]
    assert fused.step - fused.busy < unfused.step - unfused.busy
    alone = replace(fused, rates=replace(fused.rates, beside=False))
    assert alone.gap > fused.gap


def test_plan_prints_the_range_and_its_source() -> None:
    text = "\n".join(report(PlanCommand(preset="stories15m", chip="m6")))
    assert "852 MHz" in text and "Microarchitecture-Study-M6" in text.replace("-\n  ", "-")
    found = re.findall(
        r"    (\S+).*: ([\d.]+) to ([\d.]+) ms; (\d+) gaps of \d+ us, \d+ % busy", text
    )
    assert len(found) == 3 and all(float(low) < float(high) for _, low, high, _ in found)
    assert "without overlap: " in text
    assert "gaps of" not in "\n".join(report(PlanCommand(preset="tiny", device="host")))

"""Regressions are seen by counts and by ratios of CPU time; a busy neighbour is not one.

What would slow a step is put in by replacing methods of the runtime, in the test only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from anefast import _C
from anefast.bench import clock, counters, instructions
from anefast.bench.context import signal
from anefast.fuse import find_plan
from anefast.models import init_ffn
from anefast.runtime import fused_ffn
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.device import Device
from anefast.runtime.step import TrainingStep

PLAN = "2"


@pytest.fixture(scope="module")
def baseline():
    return counters.measure((PLAN,))


def changes(baseline, plan=PLAN):
    return counters.compare(counters.measure((plan,)), baseline)


def test_nothing_changed(baseline):
    assert changes(baseline) == []


def test_counts_agree_with_the_planner_s(baseline):
    from anefast.fuse.count import Counter

    planned = Counter(counters.MODEL, 1, counters.SEQ).count(find_plan(PLAN))
    found = baseline[PLAN]
    assert found["evaluations"] == found["evaluate_spans"] == planned.evaluations
    assert found["evaluate_flops"] == planned.flops
    assert found["surface_bytes"] == planned.surface_bytes
    assert found["compiles_per_update"] == planned.compiles_per_update


def test_an_extra_evaluation_is_seen(baseline, monkeypatch):
    run = CompiledGraph.run

    def twice(self, which):
        which = list(which)
        run(self, [*which[:1], *which])

    monkeypatch.setattr(CompiledGraph, "run", twice)
    assert any("evaluations" in line and "more" in line for line in changes(baseline))


def test_an_extra_copy_between_surfaces_is_seen(baseline, monkeypatch):
    run = CompiledGraph.run

    def copying(self, which):
        run(self, which)
        value = next(iter(self.surfaces.values()))
        with value.read() as data:
            data.copy()

    monkeypatch.setattr(CompiledGraph, "run", copying)
    found = changes(baseline)
    assert any("surface_locks" in line for line in found)
    assert any("python_peak_bytes" in line for line in found)


def test_an_extra_copy_in_memory_is_seen(baseline, monkeypatch):
    micro_step = TrainingStep.micro_step

    def copying(self, x, y, loss_scale):
        np.empty((1, counters.MODEL.dim, 1, counters.SEQ), np.float16).copy()
        return micro_step(self, x, y, loss_scale)

    monkeypatch.setattr(TrainingStep, "micro_step", copying)
    assert any("python_peak_bytes" in line for line in changes(baseline))


def test_disabled_fusion_is_seen(baseline, monkeypatch):
    monkeypatch.setattr(counters, "find_plan", lambda spec: find_plan("layer"))
    found = changes(baseline)
    assert any("evaluations" in line for line in found)
    assert any("programs_alive" in line for line in found)


def test_what_is_kept_after_a_step_is_seen(baseline, monkeypatch):
    kept: list[object] = []
    micro_step = TrainingStep.micro_step

    def keeping(self, x, y, loss_scale):
        kept.extend(object() for _ in range(50))
        return micro_step(self, x, y, loss_scale)

    monkeypatch.setattr(TrainingStep, "micro_step", keeping)
    assert any("python_blocks_kept" in line for line in changes(baseline))


def test_fewer_counts_are_a_change_too():
    counts = {"p": {"evaluations": 2}}
    assert counters.compare(counts, {"p": {"evaluations": 3}}) == [
        "p: evaluations 2, baseline 3: less, so save it"
    ]
    assert counters.compare(counts, {}) == ["p: evaluations 2, no baseline"]


def test_a_baseline_is_written_and_read(tmp_path, baseline):
    assert counters.read(tmp_path / "none") == {}
    counters.write(tmp_path / "new" / "counters.json", baseline)
    assert counters.read(tmp_path / "new" / "counters.json") == baseline


# Instructions.


PERF, VALGRIND = instructions.COUNTERS


def counting(tmp_path, like, lines, name="fake"):
    """A counter whose command runs its arguments and says `lines` (sh) where `like` would."""
    script = tmp_path / name
    script.write_text(f'#!/bin/sh\nout=$("$@") || exit\necho "$out"\n{lines}\n')
    script.chmod(0o755)
    return instructions.Counter(name, (str(script),), like.said, like.apart)


@pytest.mark.parametrize(
    ("like", "lines"),
    [
        (PERF, 'echo "$((9000100 + 7 * ${4%:*}));;instructions:u;1;100.00;;" >&2'),
        (
            VALGRIND,
            """for pid in $(echo "$out" | grep -o '"[0-9]*"' | tr -d '"'); do
            n=$((n + 7)); echo "==$pid== I   refs:      9,000,$((100 + n))" >&2; done""",
        ),
    ],
    ids=["perf", "valgrind"],
)
def test_start_up_is_not_counted_and_the_key_says_what_the_number_depends_on(tmp_path, like, lines):
    key, counts = instructions.measure(counting(tmp_path, like, lines), "", "groups=off")
    assert counts == [7, 7]
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    assert key == f"{_C.compiler()}, {_C.gemm_isa()}, {python}, fake"
    assert _C.compiler().split()[0] in ("gcc", "clang")


def test_a_child_that_fails_is_no_count(tmp_path):
    counter = counting(tmp_path, PERF, 'echo "5;;instructions:u" >&2')
    with pytest.raises(instructions.NoCounter, match=r"fake counted nothing: .*gruops"):
        instructions.measure(counter, "gruops=off")


def test_the_first_counter_that_counts_is_taken(tmp_path, monkeypatch):
    missing = instructions.Counter("absent", ("no-such-command",), "", False)
    says = 'echo "<not supported>;;instructions:u;0;100.00;;" >&2'
    without = counting(tmp_path, PERF, says, "without")
    works = counting(tmp_path, VALGRIND, 'echo "==12== I refs: 1" >&2', "works")
    monkeypatch.setattr(instructions, "COUNTERS", (missing, without, works))
    assert instructions.find_counter() == works
    monkeypatch.setattr(instructions, "COUNTERS", (missing, without))
    with pytest.raises(instructions.NoCounter) as reason:
        instructions.find_counter()
    assert "absent is not installed" in str(reason.value)
    assert "without counted nothing: <not supported>" in str(reason.value)
    assert "Hint: apt install valgrind" in str(reason.value)


def test_instructions_are_judged_within_their_tolerance():
    allowed = round(0.9e6 * instructions.TOLERANCE)
    assert instructions.compare("k", 10**6 + allowed, {"k": 10**6}) == ""
    for off in (-2 * allowed, 2 * allowed):
        assert "instructions, baseline 1,000,000" in instructions.compare(
            "k", 10**6 + off, {"k": 10**6}
        )


# Ratios.


def ratio() -> float:
    """CPU time of twelve tiny layers apart over fused: fusing saves their dispatch."""
    device, x = Device("host"), signal(32, 32)
    params = init_ffn(32, 32, 12, 0)
    with (
        fused_ffn(32, 32, 12, 32, params, device, "all") as fused,
        fused_ffn(32, 32, 12, 32, params, device, "layer") as apart,
    ):
        runs = {"fused": partial(fused, x), "apart": partial(apart, x)}
        return clock.cpu_ratios(runs, "fused", turns=101)["apart"]


@pytest.fixture
def neighbours():
    """A busy loop for every CPU, and one more."""
    code = "while True: pass"
    count = (os.cpu_count() or 1) + 1
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    yield
    for process in busy:
        process.kill()
        process.wait()


def test_neighbours_change_neither_counts_nor_ratio(baseline, neighbours):
    assert changes(baseline) == []
    assert ratio() >= clock.FLOOR


def test_a_slower_fused_pass_fails_the_ratio(monkeypatch):
    run = CompiledGraph.run

    def slow_when_fused(self, which):
        which = list(which)
        for _ in range(8 if len(which) == 1 else 1):
            run(self, which)

    monkeypatch.setattr(CompiledGraph, "run", slow_when_fused)
    assert ratio() < clock.FLOOR

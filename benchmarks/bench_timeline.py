"""What the timeline costs, and what Python costs between native calls.

    python -m pytest benchmarks/bench_timeline.py -s

stories15m, B 1, S 256. Updates of two micro-steps with the timeline on and off take turns in one
run; on means spans, their sums and a row per update. The ratio must be 1.01 at most, and so
must the sum of what was measured piece by piece: the price of a span times their number, and the
emptying of the rings.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.presets import preset_settings
from anefast.telemetry import RunFolder
from anefast.telemetry.timeline import PYTHON, Timeline
from benchmarks.paired import ratio, taken

ROUNDS, STEPS, SEQ = 40, 2, 256


@pytest.fixture
def micro_step():
    config = ModelConfig(**preset_settings("stories15m")["model"])
    params = anefast.init_params(config, 0)
    model = anefast.Model(config, params, anefast.open_tokenizer("bytes"))
    step = model.training_step(anefast.Device("host"), 1, SEQ, plan="unfused")
    x = np.random.default_rng(0).integers(0, 32000, (1, SEQ)).astype(np.int32)

    def run() -> None:
        step.micro_step(x, x, 64.0)
        step.wait()

    run()
    yield run
    step.close()


def test_timeline(micro_step, tmp_path):
    run = RunFolder(tmp_path / "run", resume=False)
    run.open_logs(0)
    rows, records = [], []
    updates = 0
    timeline = Timeline()
    timeline.start(run.background)

    def on() -> None:
        nonlocal updates
        updates += 1
        _C.spans_record(True)
        timeline.begin_update()
        for _ in range(STEPS):
            micro_step()
            timeline.tick()
        timeline.end_update(updates, STEPS)
        run.log({"step": updates}, {"step": updates}, timeline.row)
        run.background.call(lambda: rows.append(timeline.row()))
        _C.spans_record(False)

    def off() -> None:
        for _ in range(STEPS):
            micro_step()

    seconds = taken({"off": off, "on": on}, ROUNDS)
    found = ratio(seconds["on"], seconds["off"])
    timeline.stop(tmp_path / "breakdown.json")

    _C.spans_record(True)
    for _ in range(STEPS):
        micro_step()
    records = _C.spans_drain()
    span = _C.Span(_C.Component.LOCK)
    for _ in range(2000):
        with span:
            pass
    inside = _C.spans_drain()
    _C.spans_record(False)
    price = float(np.median(np.diff(inside["start"])))  # Python's part of the loop included
    began = time.perf_counter()
    for _ in range(100):
        _C.spans_drain()
    drain = (time.perf_counter() - began) / 100
    run.close()

    step_ms = 1e3 * median(seconds["off"]) / STEPS
    pieces = (len(records) / STEPS * price / 1e6 + 1e3 * drain) / step_ms
    python = median(row["spans_ms"][PYTHON] / sum(row["spans_ms"].values()) for row in rows)
    print(
        f"\nstories15m, B 1, S {SEQ}, {_C.threads()} threads, {ROUNDS} rounds, measured here:"
        f"\n  timeline on / off {found}"
        f"\n  piece by piece {100 * pieces:.3f}%: {len(records) // STEPS} spans per micro-step of "
        f"{step_ms:.0f} ms at {price:.0f} ns, rings emptied in {1e6 * drain:.0f} us"
        f"\n  Python between native calls {100 * python:.2f}% of an update"
    )
    assert found.low <= 1.01
    assert pieces <= 0.01
    assert python < 0.02

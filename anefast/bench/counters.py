"""Counts of a training step: equal on every machine, so that a change is a change of code.

Evaluations, compiles, bytes copied, staged and held, programs alive, locks and what Python
allocates. No clock is read. `compare` holds counts against a saved baseline; benchmarks/
bench_counters.py judges with it, and `--update-baseline` there saves anew what was meant.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anefast import _C
from anefast.bench.context import nudge
from anefast.config import ModelConfig
from anefast.files import make_folder, read_json, write_atomic
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import TrainingStep
from anefast.runtime.device import Device
from anefast.telemetry.timeline import Sums

Counts = dict[str, int]

MODEL = ModelConfig(
    dim=128, n_layers=3, n_heads=4, n_kv_heads=2, hidden_dim=256, vocab_size=256, max_seq_len=256
)
SEQ, THREADS = 256, 2
PLANS = (
    "unfused",
    "layer",
    "all",
    "all,recompute",
    "all,async",
    "2,ports=packed",
    "all,weights=params",
    "all,weights=packed",
)
# Counts that may differ a little from run to run; a copy of one activation is 65,536 bytes.
SLACK = {"python_peak_bytes": 16384, "python_blocks_kept": 64}


def measure(plans: tuple[str, ...] = PLANS) -> dict[str, Counts]:
    """Counts by plan, of one sequence and one update."""
    threads = _C.threads()
    _C.set_threads(THREADS)  # programs keep scratch for each
    try:
        return {plan: count(plan) for plan in plans}
    finally:
        _C.set_threads(threads)


def count(spec: str) -> Counts:
    """One plan's."""
    device = Device("host")
    x = (np.arange(SEQ, dtype=np.int32) % MODEL.vocab_size)[None]
    step = TrainingStep(MODEL, init_params(MODEL, 0), device, 1, SEQ, find_plan(spec))
    compiled, programs = step.compiled, device.programs.counters

    def micro_step() -> None:
        step.micro_step(x, x, 1.0)
        step.wait()

    for _ in range(3):
        micro_step()
    found: Counts = {"compiles_at_start": programs.compiles, "programs_alive": device.programs.live}
    before = compiled.evaluations, compiled.copied_bytes
    spans = recorded(micro_step)
    found["evaluations"] = compiled.evaluations - before[0]
    found["copied_bytes"] = compiled.copied_bytes - before[1]
    found |= spans
    staged, compiles = compiled.staged_bytes, programs.compiles
    nudge(step)
    step.update_weights()
    step.settle()
    found["compiles_per_update"] = programs.compiles - compiles
    found["staged_bytes"] = compiled.staged_bytes - staged
    found["surface_bytes"] = compiled.surface_bytes
    found["program_bytes"] = device.programs.nbytes
    micro_step()
    found |= allocated(micro_step)
    step.close()
    return found


def recorded(call: object) -> Counts:
    """The spans of one call: their number by component, and their bytes and flops."""
    assert callable(call)
    _C.spans_drain()
    _C.spans_record(True)
    try:
        call()
    finally:
        _C.spans_record(False)
    sums = Sums()
    sums.take(_C.spans_drain(), _C.spans_thread())
    _, counts, flops, nbytes = sums.driving.sum(axis=1).astype(np.int64)
    names = {
        "surface_locks": counts[_C.Component.LOCK],
        "evaluate_spans": counts[_C.Component.EVALUATE],
        "evaluate_flops": flops[_C.Component.EVALUATE],
        "evaluate_bytes": nbytes[_C.Component.EVALUATE],
        "staged_spans": counts[_C.Component.STAGE],
        "read_back_spans": counts[_C.Component.READ_BACK],
        "weight_gradients": counts[_C.Component.DW_SUBMIT],
    }
    return {name: int(n) for name, n in names.items()}


def allocated(call: object) -> Counts:
    """Memory that Python and NumPy take in a call: most bytes at once, blocks kept after ten."""
    assert callable(call)
    gc.collect()
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        call()
        peak = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(10):
        call()
    gc.collect()
    return {
        "python_peak_bytes": peak,
        "python_blocks_kept": max(0, sys.getallocatedblocks() - blocks),
    }


def compare(found: Mapping[str, Counts], baseline: Mapping[str, Counts]) -> list[str]:
    """One line per count that differs from the baseline; a lower count is a change too."""
    lines = []
    for plan, counts in found.items():
        for name, n in counts.items():
            known = baseline.get(plan, {}).get(name)
            slack = SLACK.get(name, 0)
            if known is None:
                lines.append(f"{plan}: {name} {n}, no baseline")
            elif n > known + slack:
                lines.append(f"{plan}: {name} {n}, baseline {known}: more")
            elif n < known - slack:
                lines.append(f"{plan}: {name} {n}, baseline {known}: less, so save it")
    return lines


def read(path: Path) -> dict[str, Any]:
    """A saved baseline; empty if there is no file."""
    if not path.exists():
        return {}
    saved: dict[str, Any] = read_json(path, where="bench")
    return saved


def write(path: Path, counts: Mapping[str, Any]) -> None:
    make_folder(path.parent, "bench")
    text = json.dumps(counts, indent=1, sort_keys=True) + "\n"
    write_atomic(path, text.encode(), "bench")

"""Groups of the host executor on and off, in turn in one process: what fusing buys, and its bytes.

    python -m pytest benchmarks/bench_groups.py -s

Device programs only, forward and backward under `plan=all`: no classifier, no weight gradients.
Both sides run the same products on the same cores and give the same bytes; the ratio holds where
absolute times drift. GFLOP/s counts what the programs say, hidden keys included: one that is
skipped is a gain.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.fuse.count import Counter
from anefast.presets import preset_settings
from anefast.runtime import TrainingStep

ROUNDS = 5


@pytest.mark.parametrize(
    ("model", "batch", "seq"),
    [("stories15m", 1, 256), ("stories15m", 8, 256), ("stories15m", 1, 1024)],
)
def test_groups_against_single_operations(model, batch, seq):
    settings = preset_settings(model)["model"] | {"max_seq_len": seq}
    config = ModelConfig(**(settings | {"vocab_size": 512}))  # the classifier is not measured
    tokens = np.random.default_rng(0).integers(0, 512, (batch, seq), dtype=np.int32)
    params, plan = anefast.init_params(config, 0), find_plan("all")
    steps = {}
    for word in ("on", "off"):
        device = anefast.Device("host", f"groups={word}")
        step = steps[word] = TrainingStep(config, params, device, batch, seq, plan)
        step.micro_step(tokens, tokens, 64.0)  # the work of a real step, and warm
        step.wait()
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for word, step in steps.items():
            for way, programs in (("forward", step._forward), ("backward", step._backward)):
                start = time.perf_counter()
                step.compiled.run(programs)
                times.setdefault((word, way), []).append(time.perf_counter() - start)
    took = {key: median(t) for key, t in times.items()}
    count = Counter(config, batch, seq).count(plan)
    print(f"\n{model}, B {batch}, S {seq}, {_C.threads()} threads, medians of {ROUNDS}:")
    for way in ("forward", "backward"):
        flops = sum(p.flops for p in count.programs if p.direction == way)
        on, off = took["on", way], took["off", way]
        print(
            f"  {way:8} {1e3 * on:7.1f} ms grouped, {1e3 * off:7.1f} ms one by one, "
            f"ratio {off / on:.2f}x; {flops / on / 1e9:.1f} and {flops / off / 1e9:.1f} GFLOP/s"
        )
    kib = {w: s.device.programs.nbytes - count.weight_bytes >> 10 for w, s in steps.items()}
    print(f"  inside programs {kib['on']:,} KiB grouped, {kib['off']:,} KiB one by one")
    assert sum(took["off", w] for w in ("forward", "backward")) > 0.9 * sum(
        took["on", w] for w in ("forward", "backward")
    )

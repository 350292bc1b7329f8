"""Does training in fp16 on this executor end at a higher loss than PyTorch in fp32?

    python -m benchmarks.bench_penalty rows.jsonl        # some 12 minutes of one core; resumable
    python -m benchmarks.bench_penalty rows.jsonl --only "torch fp32,exact" --seeds 3

Every way trains the same small model from the same initial weights on the same batches under the
same schedule, AdamW and clipping; a seed decides all three. A gap is the difference of two losses
of one seed. Two trainings that differ in the last bit drift apart, so a gap of one seed says
little: `nudged` is fp32 once more, from weights moved by a millionth of themselves, `moved` by
3e-4 of themselves, as much as a rounding to fp16. They show how far chance alone goes. Each run is
a process of its own and a row of the file, which a second call goes on with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anefast.config import (
    DataConfig,
    LossScaleConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from benchmarks.twin import MOVED, Twin

STEPS, EVERY, BATCHES = 400, 100, 24
# Student's t for 95%, two-sided, by degrees of freedom.
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
BASE = "torch fp32"
WAYS = {  # name: seeds
    BASE: 10, "exact": 10, "nudged": 10, "moved": 10, "torch bf16": 10, "emulated fp16": 3,
    "relaxed": 10, "m1": 3, "m4": 3, "async": 3,
}  # fmt: skip


def config_of(seed: int, **more: Any) -> TrainConfig:
    """The run of one seed: 0.17 M weights, built-in stories as bytes. No preset: rows of one file
    stay comparable when presets change."""
    settings: dict[str, Any] = {
        "plan": "all,weights=params",
        "steps": STEPS, "eval_every": EVERY, "eval_batches": BATCHES, "seed": seed,
        "sample_tokens": 0, "timeline": False, "health_every": 0, "checkpoint_every": STEPS,
        "device": "host",
        "model": ModelConfig(
            dim=64, n_layers=3, n_heads=2, vocab_size=0, max_seq_len=256, init_std=0.07,
        ),
        "data": DataConfig(
            source="stories:2000", tokenizer="bytes", seq_len=128, batch=8, seed=seed,
        ),
        "optim": OptimConfig(name="adamw", lr=6e-3, warmup_steps=20, accumulation=1),
        "loss_scale": LossScaleConfig(initial=64.0, maximum=64.0),
    }  # fmt: skip
    return TrainConfig(**(settings | more))


def ours(way: str, seed: int) -> dict[str, Any]:
    """One run of this package."""
    from anefast.train import fit

    more: dict[str, Any] = {}
    if way in ("m1", "m4"):
        more = {"chip": way, "plan": "all"}
    config = config_of(seed, **more)
    if way == "async":  # a quarter of an update's micro-batches, of the same sequences, is stale
        config = config.replace(
            plan="all,async", max_compiles=10**6, eval_batches=4 * BATCHES,
            data=config.data.replace(batch=config.data.batch // 4),
            optim=config.optim.replace(accumulation=4),
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = fit(config.replace(out=f"{folder}/run"), bar=False)
    return {"val": dict(result.val_losses), "train": float(np.mean(result.losses[-50:]))}


def theirs(way: str, seed: int) -> dict[str, Any]:
    """One run of PyTorch."""
    losses, val = Twin(config_of(seed), way).run()
    return {"val": val, "train": float(np.mean(losses[-50:]))}


def run(ways: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Rows of one seed's runs, in a process of their own: `relaxed` is decided at its start."""
    environment = os.environ | {"ANEFAST_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "relaxed" in ways:
        environment["ANEFAST_ISA"] = "relaxed"
    code = "from benchmarks import bench_penalty as b; b.several()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(seed), *ways], env=environment, text=True,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"the runs of seed {seed} failed")


def several() -> None:
    """What the process of some runs does."""
    for way in sys.argv[2:]:
        is_theirs = way in (BASE, *MOVED, "torch bf16", "emulated fp16")
        make: Callable[[str, int], dict[str, Any]] = theirs if is_theirs else ours
        seed = int(sys.argv[1])
        print(json.dumps({"way": way, "seed": seed, **make(way, seed)}), flush=True)


def half(values: list[float]) -> float:
    """Half of the 95% interval of their mean, by Student's t."""
    n = len(values)
    return T95.get(n - 1, 1.96) * float(np.std(values, ddof=1)) / math.sqrt(n)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: the loss at the end, and the gap to fp32 of the same seed."""
    last = str(STEPS)
    ends = {(r["way"], r["seed"]): r["val"][last] for r in rows}
    yield "| way | seeds | last validation loss | gap to fp32 of the same seed, nats (95%) |"
    yield "|---|---|---|---|"
    for way in WAYS:
        seeds = sorted(s for w, s in ends if w == way)
        if not seeds:
            continue
        found = [ends[way, s] for s in seeds]
        spread = f" ± {np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
        gaps = [ends[way, s] - ends[BASE, s] for s in seeds if (BASE, s) in ends]
        told = ""
        if way != BASE and gaps:
            told = f"{np.mean(gaps):+.4f}" + (f" ± {half(gaps):.4f}" if len(gaps) > 1 else "")
        yield f"| {way} | {len(seeds)} | {np.mean(found):.4f}{spread} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="a file of rows, made or gone on with")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, with commas between")
    parser.add_argument("--seeds", type=int, default=10, help="at most so many of each way")
    asked = parser.parse_args()
    rows = (
        [json.loads(line) for line in asked.rows.read_text().splitlines()]
        if (asked.rows.exists())
        else []
    )
    done = {(r["way"], r["seed"]) for r in rows}
    for seed in range(asked.seeds):
        left = [w for w in asked.only.split(",") if seed < WAYS[w] and (w, seed) not in done]
        for ways in ([w for w in left if w != "relaxed"], [w for w in left if w == "relaxed"]):
            for row in run(ways, seed) if ways else ():
                rows.append(row)
                with asked.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row["way"], seed, f"{row['val'][str(STEPS)]:.4f}", flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()

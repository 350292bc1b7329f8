"""What training on weights that are one update old costs in loss: sync against async, one run each.

    python -m pytest benchmarks/bench_staleness.py -s

The same model, data and seeds; only the part of each accumulation that runs on the programs of the
update before differs. It prints the validation losses as a table. Not about time: bench_compile.py.
"""

from __future__ import annotations

from statistics import mean

from anefast.config import TrainConfig
from anefast.train import fit

SEEDS = (0, 1, 2)
CASES = {"sync": ("all", 0.5), "async 0.5": ("all,async", 0.5), "async 1.0": ("all,async", 1.0)}
SETTINGS = {
    "model": {"dim": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "data": {"source": "stories:400", "seq_len": 64, "batch": 4},
    "optim": {"lr": 3e-3, "warmup_steps": 20, "accumulation": 8},
}


def curve(out: str, case: str, seed: int) -> dict[int, float]:
    """Validation loss by update."""
    plan, swap_after = CASES[case]
    config = TrainConfig.from_preset(
        "tiny", **SETTINGS, steps=160, eval_every=20, sample_tokens=0, device="host", seed=seed,
        plan=plan, swap_after=swap_after, out=out, max_compiles=10**6,
    )  # fmt: skip
    return dict(fit(config).val_losses)


def test_one_update_of_staleness_costs_little(tmp_path):
    curves = {
        case: [curve(str(tmp_path / f"{case}-{seed}"), case, seed) for seed in SEEDS]
        for case in CASES
    }
    means = {
        case: {step: mean(run[step] for run in runs) for step in runs[0]}
        for case, runs in curves.items()
    }
    print(f"\nvalidation loss, nats per token, mean of {len(SEEDS)} seeds")
    print("update    " + "".join(f"{case:>12}" for case in CASES))
    for step in means["sync"]:
        print(f"{step:>6}    " + "".join(f"{means[case][step]:12.4f}" for case in CASES))
    last = max(means["sync"])
    spread = max(run[last] for run in curves["sync"]) - min(run[last] for run in curves["sync"])
    print(f"between the seeds of sync at the end: {spread:.4f}")
    learnt = means["sync"][0] - means["sync"][last]
    assert means["async 1.0"][last] - means["sync"][last] < 0.05 * learnt

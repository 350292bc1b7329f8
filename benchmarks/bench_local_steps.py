"""What training apart costs in loss: ranks that meet after 8 or 32 updates against every update.

    python -m pytest benchmarks/bench_local_steps.py -s

The same model, data and number of ranks, which one process emulates. The step that ranks take when
they meet is as published (rate 0.7, momentum 0.9), or it is the plain mean of their weights (rate
1, momentum 0). It prints the validation losses, of the weights that all ranks have in common.
"""

from __future__ import annotations

import pytest

from anefast.config import TrainConfig
from anefast.train import fit

STEPS, EVERY = 256, 32
PUBLISHED, MEAN = (0.7, 0.9), (1.0, 0.0)  # rate and momentum of the outer step
CASES = {
    "H 1": (1, *PUBLISHED),
    "H 8": (8, *PUBLISHED),
    "H 32": (32, *PUBLISHED),
    "H 8, mean": (8, *MEAN),
    "H 32, mean": (32, *MEAN),
}


def curve(out: str, ranks: int, case: str) -> dict[int, float]:
    """Validation loss by update."""
    local_steps, lr, momentum = CASES[case]
    dist = {"emulate": ranks, "local_steps": local_steps}
    if local_steps > 1:
        dist |= {"outer_lr": lr, "outer_momentum": momentum}
    config = TrainConfig.from_preset(
        "bytes", steps=STEPS, eval_every=EVERY, sample_tokens=0, device="host", out=out,
        plan="all", keep_last=1, health_every=0,
        model={"dim": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        data={"source": "stories:2000", "seq_len": 64, "batch": 4},
        optim={"lr": 3e-3, "warmup_steps": 20, "accumulation": 1},
        dist=dist,
    )  # fmt: skip
    return dict(fit(config).val_losses)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_meet_seldom_still_learn(tmp_path, ranks):
    curves = {case: curve(str(tmp_path / case), ranks, case) for case in CASES}
    print(f"\nvalidation loss, nats per token, {ranks} ranks")
    print("| update | " + " | ".join(CASES) + " |\n" + "|---" * (len(CASES) + 1) + "|")
    synchronous = curves["H 1"]
    for step in synchronous:
        if step:
            print(f"| {step} | " + " | ".join(f"{curves[c][step]:.2f}" for c in CASES) + " |")
    learnt = synchronous[0] - synchronous[STEPS]
    assert curves["H 32, mean"][STEPS] - synchronous[STEPS] < 0.15 * learnt

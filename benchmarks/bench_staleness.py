"""What training on weights that are one update old costs in loss: sync against async.

    python -m pytest benchmarks/bench_staleness.py -s

The same model, data and seeds; only the part of each accumulation that runs on the programs of the
update before differs. It prints the validation losses as a table. Not about time: bench_compile.py.
"""

from __future__ import annotations

import pytest

from anefast.config import TrainConfig
from anefast.train import fit

CASES = {
    "sync": ("all", 0.25),
    "async 0.25": ("all,async", 0.25),
    "async 0.5": ("all,async", 0.5),
    "async 1.0": ("all,async", 1.0),
}


def curve(out: str, case: str, lr: float) -> dict[int, float]:
    """Validation loss by update."""
    plan, swap_after = CASES[case]
    config = TrainConfig.from_preset(
        "bytes", steps=160, eval_every=20, sample_tokens=0, device="host", out=out,
        plan=plan, swap_after=swap_after, max_compiles=10**6,
        model={"dim": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        data={"source": "stories:400", "seq_len": 64, "batch": 4},
        optim={"lr": lr, "warmup_steps": 20, "accumulation": 4},
    )  # fmt: skip
    return dict(fit(config).val_losses)


@pytest.mark.parametrize("lr", [1e-3, 3e-3])
def test_a_quarter_of_stale_micro_steps_costs_little(tmp_path, lr):
    curves = {case: curve(str(tmp_path / case), case, lr) for case in CASES}
    print(f"\nvalidation loss, nats per token, lr {lr:g}")
    print("update    " + "".join(f"{case:>12}" for case in CASES))
    for step in curves["sync"]:
        print(f"{step:>6}    " + "".join(f"{curves[case][step]:12.4f}" for case in CASES))
    last = max(curves["sync"])
    learnt = curves["sync"][0] - curves["sync"][last]
    assert curves["async 0.25"][last] - curves["sync"][last] < 0.05 * learnt

"""A run trains the same under every plan: the metrics rows are equal byte for byte."""

from __future__ import annotations

import pytest

import anefast
from anefast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig

PLANS = [
    "layer",
    "all",
    "all,recompute",
    "1/all,ports=packed",
    "all,weights=params",
    "layer,weights=packed",
]


def metrics(tmp_path, plan):
    config = TrainConfig(
        steps=6,
        eval_every=3,
        eval_batches=2,
        sample_tokens=0,
        plan=plan,
        out=str(tmp_path / "run"),
        model=ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64),
        data=DataConfig(source="stories:40", seq_len=64, batch=1),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, accumulation=3),
    )
    result = anefast.fit(config)
    assert result.val_losses[-1][1] < result.val_losses[0][1]
    return (result.run_dir / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def unfused(tmp_path_factory):
    return metrics(tmp_path_factory.mktemp("unfused"), "unfused")


@pytest.mark.parametrize("plan", PLANS)
def test_same_metrics_under_every_plan(unfused, tmp_path, plan):
    assert metrics(tmp_path, plan) == unfused

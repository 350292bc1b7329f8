"""Attention whose scores are large but finite: no position sees a later one, however large."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.runtime import Device, TrainingStep
from tests.reference import loss_and_grads

CONFIG = ModelConfig(dim=64, n_layers=1, n_heads=2, n_kv_heads=2, hidden_dim=96, vocab_size=65)
TOKENS = np.random.default_rng(0).integers(0, 65, (1, 64), dtype=np.int32)
TARGETS = np.roll(TOKENS, -1, 1)


@pytest.mark.parametrize("plan", ["unfused", "all"])
@pytest.mark.parametrize("options", ["", "groups=off"])
def test_a_hidden_key_stays_hidden(options, plan):
    """Scores reach 30,000 either way here. With a mask of -1e4 the loss was off by 0.06."""
    params = anefast.init_params(CONFIG.replace(init_std=0.1), 1)
    for name in ("wq", "wk"):
        params[f"layers.0.attn.{name}"] *= 140
    exact = {n: p.astype(np.float64) for n, p in params.items()}
    want, _, _ = loss_and_grads(exact, CONFIG, TOKENS, TARGETS)
    step = TrainingStep(CONFIG, params, Device("host", options), 1, 64, find_plan(plan))
    loss, tokens = step.micro_step(TOKENS, TARGETS, 1.0)
    step.close()
    assert abs(loss - want) / tokens < 2e-3

"""Where the residual stream would leave fp16 it is kept smaller by a power of two: the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.config import ConfigError, ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.runtime import Device, TrainingStep
from anefast.runtime.stream import LARGEST, ROOM, peak, stream_scale
from anefast.telemetry import read_config
from tests.reference import loss_and_grads, relative_error

CONFIG = ModelConfig(
    dim=64, n_layers=3, n_heads=4, n_kv_heads=2, hidden_dim=96, vocab_size=65, tied=False
)
PLANS = ["unfused", "layer", "all", "all,recompute", "all,weights=params", "layer,ports=packed"]
TOKENS = np.random.default_rng(0).integers(0, 65, (1, 64), dtype=np.int32)
TARGETS = np.roll(TOKENS, -1, 1)


def loud(octaves: int) -> anefast.nn.Params:
    """Parameters that write 2^octaves times as much to the stream, and into two channels much more:
    what fp16 holds of one model is beyond it in the next."""
    params = anefast.init_params(CONFIG.replace(init_std=0.1), 3)
    params["layers.1.ffn.norm"] *= 6
    params["layers.1.ffn.w2"][[7, 9]] *= 8
    for name in params:
        if name == "tok_embeddings" or name.endswith((".wo", ".w2")):
            params[name] *= np.float32(2.0**octaves)
    return params


@pytest.mark.parametrize("octaves", [0, 9, 13])
@pytest.mark.parametrize("chip", ["", "m1", "m3", "m5"])
def test_loss_and_gradients_are_those_of_the_model(octaves, chip):
    params = loud(octaves)
    scale = stream_scale(CONFIG, params, TOKENS[0])
    config = CONFIG.replace(stream_scale=scale)
    assert peak(config, params, TOKENS[0]) <= (LARGEST if scale == 1 else ROOM)
    assert (scale < 1) == (octaves > 0)
    loss_scale = max(4.0, 64 * scale)  # as a run that starts from such a model
    exact = {n: p.astype(np.float64) for n, p in params.items()}
    loss, grads, _ = loss_and_grads(exact, CONFIG, TOKENS, TARGETS)
    want = loss / TOKENS.size
    for plan in PLANS:
        step = TrainingStep(config, params, Device("host", chip=chip), 1, 64, find_plan(plan))
        loss, tokens = step.micro_step(TOKENS, TARGETS, loss_scale)
        step.wait()
        assert abs(loss / tokens - want) < (5e-3 if chip else 2e-3), plan
        for name, grad in step.grads.items():
            error = relative_error(grad / loss_scale, grads[name])
            assert error < (5e-2 if chip else 1.5e-2), (plan, name, error)
        assert not any(f.kind == "overflow" for f in step.health.look(params).findings)
        step.close()


def test_without_it_the_model_is_beyond_fp16():
    """So that the test above judges something."""
    assert peak(CONFIG, loud(13), TOKENS[0]) == np.inf
    step = TrainingStep(CONFIG, loud(13), Device("host"), 1, 64, find_plan("all"))
    assert not np.isfinite(step.micro_step(TOKENS, TOKENS, 64.0)[0])
    step.close()


if __name__ == "__main__":
    for s in (0,9,11,13):
        print(s, stream_scale(CONFIG, loud(s), TOKENS[0]), peak(CONFIG, loud(s), TOKENS[0]), peak(CONFIG.replace(stream_scale=2.0**-12), loud(s), TOKENS[0]))

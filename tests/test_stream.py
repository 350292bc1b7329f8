"""A residual stream that would leave fp16 is kept smaller by a power of two: the same model."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import anefast
from anefast import models
from anefast.cli import train_config
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


def loud(octaves: int) -> models.Params:
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


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
def test_no_scale_changes_a_family(family):
    """Biases and learned positions are part of the stream; the norm before the classifier too."""
    config = CONFIG.replace(family=family, n_kv_heads=4)
    params = anefast.init_params(config, 5)
    rng = np.random.default_rng(6)
    for p in params.values():
        if p.ndim == 1:  # gains of 1 and biases of 0 would hide a scale that is missing
            p += rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.3)
    results = []
    for scale in (1.0, 2.0**-5):
        config = config.replace(stream_scale=scale)
        step = TrainingStep(config, params, Device("host"), 1, 64, find_plan("layer"))
        loss, _ = step.micro_step(TOKENS, TARGETS, 64 * scale)
        step.wait()
        results.append((loss / 64, {n: g / (64 * scale) for n, g in step.grads.items()}))
        step.close()
    (loss, grads), (scaled, theirs) = results
    assert abs(scaled - loss) < 1e-3
    for name, grad in grads.items():
        if np.linalg.norm(grad) > 1e-3:  # keys' biases have none
            assert relative_error(theirs[name], grad) < 1e-2, name


def test_without_it_the_model_is_beyond_fp16():
    """So that the test above judges something."""
    assert peak(CONFIG, loud(13), TOKENS[0]) == np.inf
    step = TrainingStep(CONFIG, loud(13), Device("host"), 1, 64, find_plan("all"))
    assert not np.isfinite(step.micro_step(TOKENS, TOKENS, 64.0)[0])
    step.close()


@pytest.mark.parametrize("chip", ["", "m1"])
def test_inference_that_overflows_says_so_once_and_goes_on(caplog, chip):
    params, prompt = loud(13), [int(i) for i in TOKENS[0, :40]]
    with caplog.at_level(logging.WARNING, "anefast"):
        model = anefast.Model(CONFIG, params, anefast.open_tokenizer("bytes"))
        inference = model.inference(Device("host", chip=chip))
        got = [inference.logits(prompt[:n]) for n in (5, 6, 40)]
        inference.close()
    scale = inference.config.stream_scale
    lines = [r.getMessage() for r in caplog.records]  # a budget of compiles may be said, too
    (said,) = [line for line in lines if not line.startswith("[compile]")]
    assert said.startswith("[generate] layers.") and " overflowed in " in said
    assert f"kept times {scale:g} from here on" in said
    sure = anefast.Model(CONFIG.replace(stream_scale=scale), params, model.tokenizer).inference(
        Device("host", chip=chip)
    )
    for n, logits in zip((5, 6, 40), got, strict=True):
        assert np.isfinite(logits).all()
        assert np.array_equal(logits, sure.logits(prompt[:n]))
    sure.close()


def test_a_step_that_overflows_says_so_once_by_name():
    params, said = loud(13), []
    step = TrainingStep(CONFIG, params, Device("host"), 1, 64, find_plan("all"))
    step.say = said.append
    for _ in range(2):
        step.evaluate(TOKENS, TARGETS)
        step.micro_step(TOKENS, TARGETS, 1.0)
        step.wait()
    scale = stream_scale(CONFIG, params, TOKENS[0])
    (line,) = said
    assert line.startswith("[step] layers.") and " overflowed in " in line
    assert line.endswith(
        f"Hint: model.stream_scale {scale:g} keeps the residual stream within fp16."
    )
    step.close()


def small(out, **changes):
    config = TrainConfig.from_preset("bytes", steps=2, out=str(out), **changes)
    return config.replace(
        data=config.data.replace(source="stories:100", batch=2, seq_len=32),
        sample_tokens=0, eval_every=0, eval_batches=1, plan="all",
    )  # fmt: skip


def test_a_run_from_a_large_model_chooses_a_scale_records_it_and_resumes_with_it(tmp_path):
    tokenizer = anefast.open_tokenizer("bytes")
    vocabulary = {"vocab_size": tokenizer.vocab_size}
    params = anefast.init_params(CONFIG.replace(**vocabulary), 3)
    for name, p in loud(13).items():
        if p.shape == params[name].shape:
            params[name] = p
    model = anefast.Model(CONFIG.replace(**vocabulary), params, tokenizer)
    said: list[str] = []
    result = anefast.fit(small(tmp_path / "run"), model=model, show=said.append)
    chosen = read_config(tmp_path / "run")["model"]["stream_scale"]
    (line,) = [s for s in said if "stream_scale" in s]
    assert chosen < 1 and f"model.stream_scale 1 -> {chosen:g}" in line
    assert "loss_scale.initial 64 -> 4" in line
    assert np.isfinite(result.losses).all() and not any("health" in s for s in said)
    # Checkpoints hold the model's own weights, and what loads them its scale.
    again = anefast.Model.load(tmp_path / "run")
    assert again.config.stream_scale == chosen
    assert np.abs(again.params["layers.0.ffn.w2"]).max() > 1000
    config, _ = train_config(["--resume", str(tmp_path / "run"), "--steps", "3"])
    resumed = anefast.fit(config)
    assert len(resumed.losses) == 3 and np.isfinite(resumed.losses).all()


def test_a_run_from_an_ordinary_model_says_nothing(tmp_path):
    first = anefast.fit(small(tmp_path / "a"))
    said: list[str] = []
    anefast.fit(small(tmp_path / "b", init=str(first.run_dir)), show=said.append)
    assert read_config(tmp_path / "b")["model"]["stream_scale"] == 1
    assert not any("stream_scale" in s for s in said)


@pytest.mark.parametrize("scale", [0.0, -0.5, 0.3, 2.0, float("nan"), float("inf")])
def test_other_scales_are_refused(scale):
    with pytest.raises(ConfigError, match=r"stream_scale must be 1 or a half"):
        CONFIG.replace(stream_scale=scale)

"""Settings: checks, presets, and the layering of flag > file > preset > default."""

from __future__ import annotations

import pytest

from anefast import config as c
from anefast.config import (
    ConfigError,
    DataConfig,
    LossScaleConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from anefast.models import count_params
from anefast.presets import preset_names

BAD = [
    (lambda: DataConfig(seq_len=100), "multiple of 32, got 100. Hint: use 128"),
    (lambda: DataConfig(seq_len=0), "multiple of 32"),
    (lambda: DataConfig(batch=0), "batch must be at least 1"),
    (lambda: DataConfig(val_fraction=1.0), "between 0 and 1"),
    (lambda: DataConfig(order="sorted"), "data.order must be one of"),
    (lambda: ModelConfig(dim=64, n_heads=6), "not divisible by model.n_heads 6"),
    (lambda: ModelConfig(dim=64, n_heads=8, n_kv_heads=3), "not divisible by model.n_kv_heads 3"),
    (lambda: ModelConfig(dim=12, n_heads=4), "head_dim 3 is odd"),
    (lambda: ModelConfig(n_layers=0), "n_layers must be at least 1"),
    (lambda: ModelConfig(hidden_dim=-1), "must not be negative"),
    (lambda: ModelConfig(vocab_size=1), "vocab_size"),
    (lambda: ModelConfig(dim="64"), "dim expected int, got '64'"),  # type: ignore[arg-type]
    (lambda: ModelConfig(dim=True), "dim expected int"),
    (lambda: ModelConfig(rope_theta=float("nan")), "rope_theta must be positive"),
    (lambda: OptimConfig(lr=-1), "lr must be finite and not negative"),
    (lambda: OptimConfig(beta2=1.0), "beta2"),
    (lambda: OptimConfig(accumulation=0), "accumulation must be at least 1"),
    (lambda: LossScaleConfig(initial=3.0), "power of two"),
    (lambda: LossScaleConfig(initial=8192.0), "above loss_scale.maximum"),
    (lambda: TrainConfig(steps=0), "steps must be at least 1"),
    (lambda: TrainConfig(device="anne"), "did you mean ane?"),
    (lambda: TrainConfig(data=DataConfig(seq_len=512)), "longer than model.max_seq_len"),
    (lambda: TrainConfig(resume="a", init="b"), "both given"),
    (lambda: TrainConfig.from_preset("tinny"), "did you mean tiny?"),
    (lambda: c.from_settings({"model": {"n_layer": 2}}), "did you mean model.n_layers?"),
    (lambda: c.from_settings({"modle": 2}), "unknown setting 'modle'"),
]


@pytest.mark.parametrize("build,message", BAD, ids=[m for _, m in BAD])
def test_bad_settings_say_so_in_one_line(build, message):
    with pytest.raises(ConfigError) as caught:
        build()
    text = str(caught.value)
    assert message in text and text.startswith("[config] ") and "\n" not in text


def test_sizes_left_at_zero_are_derived():
    model = ModelConfig(dim=288, n_heads=6)
    assert (model.n_kv_heads, model.head_dim, model.hidden_dim) == (6, 48, 768)
    again = model.replace(n_heads=8, n_kv_heads=4)
    assert (again.n_kv_heads, again.head_dim) == (4, 36)
    assert ModelConfig(dim=64, n_heads=4, head_dim=64).replace(dim=128).head_dim == 64


def test_default_accumulation_is_a_hundred():
    assert OptimConfig().accumulation == 100
    assert OptimConfig(lr=1e-4).peak_lr == 1e-4
    assert OptimConfig(lr=1e-5, scale_lr_with_accumulation=True).peak_lr == pytest.approx(1e-3)


def test_published_parameter_counts():
    known = {
        "stories260k": 0.26e6,
        "stories15m": 15.2e6,
        "stories42m": 41.7e6,
        "stories110m": 109.5e6,
    }
    for name, count in known.items():
        assert count_params(TrainConfig.from_preset(name).model) == pytest.approx(
            count, rel=0.01
        ), name
    assert count_params(TrainConfig.from_preset("smollm2-135m").model) == pytest.approx(
        134.5e6, rel=0.001
    )


@pytest.mark.parametrize("name", preset_names())
def test_settings_round_trip(name):
    config = TrainConfig.from_preset(name)
    assert c.from_settings(c.to_settings(config)) == config


def test_default_is_the_bytes_preset_in_shape():
    model = TrainConfig.from_preset("bytes").model
    assert model.replace(init_std=TrainConfig().model.init_std) == TrainConfig().model

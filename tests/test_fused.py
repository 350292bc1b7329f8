"""Fused forward passes: right by an independent float64 model, the same bytes in any cut."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan
from anefast.models import ffn_shapes, init_ffn, training_graph
from anefast.presets import preset_settings
from anefast.runtime import fused_ffn, fused_transformer
from tests.reference import attention_forward, relative_error, rms_forward, silu
from tests.test_judges import CONFIGS, random_case

FFNS = [(64, 128, 12, 64), (40, 72, 3, 128), (32, 24, 5, 256), (1, 1, 1, 32)]  # D, H, layers, S


@pytest.fixture(scope="module")
def device():
    return anefast.Device("host")


def signal(dim, seq, seed=0):
    return np.random.default_rng(seed).standard_normal((1, dim, 1, seq)).astype(np.float16)


def ffn_float64(x, params, layers):
    """The proxy in float64, x: [1, C, 1, S], weights rounded to fp16 as the device has them."""
    h = x[0, :, 0].astype(np.float64)
    for i in range(layers):
        w1, w2, w3 = (
            params[f"layers.{i}.ffn.{w}"].astype(np.float16).astype(np.float64)
            for w in ("w1", "w2", "w3")
        )
        h = h + w2 @ (silu(w1 @ h) * (w3 @ h))
    return h[None, :, None]


def trunk_float64(x, params, config):
    """Every layer in float64, from the parts of tests/reference.py. x: [1, C, 1, S]."""
    p = {name: a.astype(np.float16).astype(np.float64) for name, a in params.items()}
    h = x[0, :, 0].T[None].astype(np.float64)  # [1, S, C]
    for i in range(config.n_layers):
        a, f = f"layers.{i}.attn", f"layers.{i}.ffn"
        xn, _ = rms_forward(h, p[f"{a}.norm"], config.norm_eps)
        h = h + config.residual_scale * (attention_forward(xn, p, a, config)[0] @ p[f"{a}.wo"].T)
        xn, _ = rms_forward(h, p[f"{f}.norm"], config.norm_eps)
        gate = silu(xn @ p[f"{f}.w1"].T) * (xn @ p[f"{f}.w3"].T)
        h = h + config.residual_scale * (gate @ p[f"{f}.w2"].T)
    return h[0].T[None, :, None]


@pytest.mark.parametrize("sizes", FFNS)
def test_ffn_against_numpy_float64(device, sizes):
    dim, hidden, layers, seq = sizes
    params, x = init_ffn(dim, hidden, layers, seed=1), signal(dim, seq)
    with fused_ffn(dim, hidden, layers, seq, params, device, "all") as ffn:
        h = ffn(x)
    want = ffn_float64(x, params, layers)
    assert h.dtype == np.float16 and h.shape == x.shape
    # 12 additions to the stream, each rounded to 11 bits
    assert relative_error(h, want) < 2e-3
    if dim > 1:
        assert relative_error(x, want) > 1e-2  # what was computed is not lost in that


@pytest.mark.parametrize("name", CONFIGS)
def test_transformer_against_numpy_float64(device, name):
    config = CONFIGS[name]
    params, _, _ = random_case(config)
    x = signal(config.dim, 64)
    with fused_transformer(config, params, 64, device, "all") as trunk:
        assert relative_error(trunk(x), trunk_float64(x, params, config)) < 1e-2


def test_every_plan_gives_the_same_ffn_bytes_in_its_number_of_evaluations(device):
    params, x = init_ffn(48, 80, 12, seed=2), signal(48, 64)
    results = {}
    for plan, count in (("all", 1), ("4", 3), ("layer", 12), ("unfused", 12)):
        with fused_ffn(48, 80, 12, 64, params, device, plan) as ffn:
            results[plan] = ffn(x).tobytes()
            assert (len(ffn.programs), ffn.evaluations) == (count, count), plan
            assert ffn(x).tobytes() == results[plan]  # and again, from the same surfaces
            assert ffn.evaluations == 2 * count
    assert len(set(results.values())) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_plan_gives_the_same_transformer_bytes(device, name):
    config = CONFIGS[name].replace(n_layers=5)
    params, _, _ = random_case(config)
    x = signal(config.dim, 96)
    results = set()
    plans = [("all", 1), ("4", 2), ("layer", 5), ("unfused", 10)]
    plans += [("all,weights=packed", 1), ("4,weights=params,ports=packed", 2)]
    for plan, count in plans:
        with fused_transformer(config, params, 96, device, plan) as trunk:
            results.add(trunk(x).tobytes())
            assert (len(trunk.programs), trunk.evaluations) == (count, count), plan
    assert len(results) == 1


@pytest.mark.parametrize(("preset", "unfused"), [("stories15m", 36), ("stories110m", 72)])
def test_programs_of_a_training_step(preset, unfused):
    """6 a layer unfused: attention and FFN forward; FFN and three parts of attention backward."""
    config = ModelConfig(**preset_settings(preset)["model"])
    graph = training_graph(config, 1, 256)
    for plan, count in (("unfused", unfused), ("layer", unfused // 3), ("all", 2)):
        names = [p.name for p in cut(graph, find_plan(plan).key).programs]
        assert len(names) == count, plan
        assert sum(n.startswith("forward.") for n in names) == (
            count // 3 if plan == "unfused" else count // 2
        )


def test_a_fused_program_holds_each_weight_once(device):
    params = init_ffn(64, 96, 4, seed=0)
    weights = sum(2 * p.size for p in params.values())
    surface = 2 * 64 * 64
    for plan, surfaces in (("all", 2), ("layer", 5), ("all,weights=params", 2)):
        with fused_ffn(64, 96, 4, 64, params, device, plan) as ffn:
            assert 0 <= ffn.nbytes - weights - surfaces * surface < 4096, plan
            assert ffn.compile_seconds > 0


def test_parameters_of_the_proxy():
    shapes = ffn_shapes(8, 20, 2)
    assert list(shapes) == [f"layers.{i}.ffn.{w}" for i in range(2) for w in ("w1", "w2", "w3")]
    assert shapes["layers.1.ffn.w2"] == (8, 20)
    two, three = init_ffn(8, 20, 2, seed=3), init_ffn(8, 20, 3, seed=3)
    assert {n: p.shape for n, p in two.items()} == shapes
    assert np.array_equal(two["layers.1.ffn.w1"], three["layers.1.ffn.w1"])
    assert not np.array_equal(two["layers.0.ffn.w1"], two["layers.1.ffn.w1"])
    assert not np.array_equal(two["layers.0.ffn.w1"], init_ffn(8, 20, 2, seed=4)["layers.0.ffn.w1"])


def test_mistakes_are_named(device):
    params = init_ffn(32, 64, 2, seed=0)
    with fused_ffn(32, 64, 2, 64, params, device, "all") as ffn:
        with pytest.raises(
            ValueError, match=r"\[fused\] expected x to be float16 of shape \(1, 32, 1, 64\)"
        ):
            ffn(np.zeros((1, 32, 1, 32), np.float16))
        with pytest.raises(ValueError, match="got float32"):
            ffn(np.zeros((1, 32, 1, 64), np.float32))
        assert ffn.evaluations == 0
        assert "1 program)" in repr(ffn)
    with pytest.raises(ValueError, match="multiple of 32"):
        fused_ffn(32, 64, 2, 48, params, device, "all")
    with pytest.raises(ValueError, match="expected layers to be an int of at least 1, got 0"):
        fused_ffn(32, 64, 0, 64, params, device, "all")
    with pytest.raises(ValueError, match=r"got 'al'\. Hint: did you mean 'all'"):
        fused_ffn(32, 64, 2, 64, params, device, "al")
    with pytest.raises(KeyError, match=r"layers\.2\.ffn"):
        fused_ffn(32, 64, 3, 64, params, device, "all")
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.w1"):
        fused_ffn(32, 96, 2, 64, params, device, "all")

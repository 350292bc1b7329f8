"""The record of an adapter: what it refuses, what merging makes, there and back as tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from anefast.models import init_params, shapes
from anefast.models.adapter import Adapter, AdapterError, Base, Pair, adaptable, fingerprint

from .test_families import SMALL

CONFIG = SMALL["qwen3"]


def drawn(config=CONFIG, rank: int = 4, names=None, **settings) -> Adapter:
    """An adapter of random numbers for every matrix, or for `names`."""
    rng = np.random.default_rng(5)
    sizes = adaptable(config)
    pairs = {
        name: Pair(
            rng.standard_normal((rank, sizes[name][1])).astype(np.float32) * 0.1,
            rng.standard_normal((sizes[name][0], rank)).astype(np.float32) * 0.1,
        )
        for name in names or sizes
    }
    return Adapter(**{"rank": rank, "alpha": 8.0, "rslora": False, "pairs": pairs} | settings)


def test_the_factor_is_alpha_over_rank_or_its_root() -> None:
    assert drawn(alpha=6.0).scale == 1.5
    assert drawn(alpha=6.0, rslora=True).scale == 3.0


def test_merging_is_rounded_once_and_touches_nothing_else() -> None:
    params, adapter = init_params(CONFIG, 0), drawn(names=["layers.1.ffn.w2"])
    before = {name: value.tobytes() for name, value in params.items()}
    merged = adapter.merged(params)
    a, b = (m.astype(np.longdouble) for m in adapter.pairs["layers.1.ffn.w2"])
    want = (params["layers.1.ffn.w2"] + np.longdouble(adapter.scale) * (b @ a)).astype(np.float32)
    assert np.array_equal(merged.pop("layers.1.ffn.w2"), want)
    assert all(merged[name] is params[name] for name in merged)
    assert {name: value.tobytes() for name, value in params.items()} == before


def test_tensors_and_settings_go_there_and_back() -> None:
    adapter = drawn(base=Base("some/folder", "ab" * 32), rslora=True)
    again = Adapter.of(adapter.tensors(), json.loads(json.dumps(adapter.settings())))
    assert again.settings() == adapter.settings()
    assert again.pairs.keys() == adapter.pairs.keys()
    for name, pair in adapter.pairs.items():
        assert all(np.array_equal(x, y) for x, y in zip(pair, again.pairs[name], strict=True))


def test_every_matrix_of_the_layers_can_be_adapted() -> None:
    for config in SMALL.values():
        found = adaptable(config)
        per_layer = 4 + (2 if config.family == "gpt2" else 3)
        assert len(found) == per_layer * config.n_layers
        assert all(shapes(config)[name] == shape for name, shape in found.items())
        drawn(config).check(config)


def test_another_base_is_refused_by_name() -> None:
    params = init_params(CONFIG, 0)
    adapter = drawn(base=Base("runs/base", fingerprint(params)))
    adapter.check(CONFIG, fingerprint(params))
    params["norm"] = params["norm"] * 2
    with pytest.raises(AdapterError, match=r"expected the model runs/base .* Hint: name that"):
        adapter.check(CONFIG, fingerprint(params))


Q = "layers.0.attn.wq"


@pytest.mark.parametrize(
    "change,said",
    [
        ({"rank": 0}, "a rank from 1 to"),
        ({"rank": 8}, r"lora_a of rank 8 in float32, got float32 of shape \[4, 32\]"),
        ({"alpha": float("nan")}, "alpha above 0, at most 1,048,576, got nan"),
        ({"pairs": {}}, "at least one matrix"),
        ({"pairs": {Q: Pair(np.ones((4, 32)), np.ones((64, 4)))}}, "in float32, got float64"),
        ({"pairs": {Q: Pair(np.full((4, 2), np.nan, "f4"), np.ones((2, 4), "f4"))}}, "numbers in"),
    ],
)
def test_what_is_no_adapter_is_refused(change, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        replace(drawn(), **change)


def test_what_a_model_has_not_is_refused() -> None:
    a, b = np.ones((4, 32), np.float32), np.ones((32, 4), np.float32)
    for pairs, said in (
        ({"output": Pair(a, b)}, "matrices of the model's layers, got output"),
        ({Q: Pair(a, b)}, r"wq to be \[64, 32\] as the model's, got \[32, 32\]"),
    ):
        with pytest.raises(AdapterError, match=said):
            replace(drawn(), pairs=pairs).check(CONFIG)
    with pytest.raises(AdapterError, match="for each matrix"):
        Adapter.of({"layers.0.attn.wq.lora_a": a}, drawn().settings())
    with pytest.raises(AdapterError, match="rank, alpha, rslora and base"):
        Adapter.of(drawn().tensors(), {"rank": 4})

"""Generation with a key-value cache against one evaluation of the whole prefix, to the byte."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.nn import classifier, init_params
from anefast.runtime import Device, Inference, fused_transformer
from anefast.runtime.infer import CHUNK, bucket_length

SHAPES = {
    "plain": {"n_heads": 4},
    "grouped heads": {"n_heads": 4, "n_kv_heads": 2, "tied": False, "residual_scale": 0.7},
}
LENGTHS = [1, 2, 31, 32, 33, 64, 65, 97, 40, 5, 96, 97, 129, 130, 40, 129]  # forth and back


def model_of(**shape):
    config = ModelConfig(dim=32, n_layers=2, hidden_dim=64, vocab_size=61, max_seq_len=140, **shape)
    return anefast.Model(config, init_params(config, 1), anefast.open_tokenizer("bytes"))


def whole_prefix(model, device, tokens):
    """Logits from one forward program over every position."""
    config, params, n = model.config, model.params, len(tokens)
    padded = np.zeros((1, -(-n // 32) * 32), np.int32)
    padded[0, :n] = tokens
    x = np.zeros((1, config.dim, 1, padded.shape[1]), np.float16)
    _C.embed(padded, params["tok_embeddings"], x)
    with fused_transformer(config, params, padded.shape[1], device) as forward:
        h = forward(x)
    out, at = np.empty((1, config.vocab_size), np.float32), np.array([n - 1], np.int32)
    _C.head_logits(h, params["norm"], params[classifier(params)], config.norm_eps, at, out)
    return out[0]


@pytest.mark.parametrize("plan", ["unfused", "all,weights=params", "2,ports=packed"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_the_whole_prefix(shape, plan):
    model, device = model_of(**shape), Device("host")
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, 61, 140)]
    inference = model.inference(device, plan)
    for n in LENGTHS:
        want = whole_prefix(model, device, tokens[:n])
        assert inference.logits(tokens[:n]).tobytes() == want.tobytes(), n
    other = [*tokens[:40], 7, 8, *tokens[42:100]]  # parts from the cached prefix inside a chunk
    assert (inference.logits(other) == whole_prefix(model, device, other)).all()
    inference.close()


def test_a_token_costs_one_evaluation_of_a_chunk(monkeypatch):
    model, runs = model_of(n_heads=4), []
    inference = model.inference(Device("host"), "all")
    evaluate = anefast.runtime.Sequence.run
    monkeypatch.setattr(
        anefast.runtime.Sequence, "run", lambda self, which: (runs.append(1), evaluate(self, which))
    )
    tokens = [i % 61 for i in range(100)]
    inference.logits(tokens[:50])
    assert len(runs) == 2  # the prompt's chunks
    for n in range(51, 101):
        inference.logits(tokens[:n])
    assert len(runs) == 2 + 50
    inference.close()


def test_buckets_hold_what_is_cached():
    assert [bucket_length(n) for n in (0, 32, 33, 64, 96, 1024)] == [32, 32, 64, 64, 128, 1024]
    assert CHUNK == 32


@pytest.mark.parametrize("count", [0, 141])
def test_lengths_outside_the_context_are_refused(count):
    inference: Inference = model_of(n_heads=4).inference(Device("host"))
    with pytest.raises(ValueError, match=f"1 to 140 tokens, got {count}"):
        inference.logits([1] * count)


def test_a_prompt_may_be_ids():
    config = model_of(n_heads=4).config.replace(vocab_size=259)
    model = anefast.Model(config, init_params(config, 1), anefast.open_tokenizer("bytes"))
    ids = model.tokenizer.encode("Once", bos=True)
    assert list(model.stream(ids, 8, 0.0)) == list(model.stream("Once", 8, 0.0))

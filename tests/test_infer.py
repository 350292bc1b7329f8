"""Generation with a key-value cache against one evaluation of the whole prefix, to the byte."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.models import classifier, init_params
from anefast.runtime import Device, Inference, fused_transformer
from anefast.runtime.bucket import CHUNK, bucket_length
from anefast.runtime.prefixes import ROOT, Prefixes

SHAPES = {
    "plain": {"n_heads": 4},
    "grouped heads": {"n_heads": 4, "n_kv_heads": 2, "tied": False, "residual_scale": 0.7},
    "sizes of no whole block": {"n_heads": 3, "dim": 48, "hidden_dim": 100},
}
PLANS = ["all", "unfused", "all,weights=params", "2,ports=packed"]  # parts, and chunks of 32
LENGTHS = [1, 2, 31, 32, 33, 64, 65, 97, 40, 5, 96, 97, 129, 130, 40, 129]  # forth and back


def model_of(**shape):
    usual = {"dim": 32, "n_layers": 2, "hidden_dim": 64, "vocab_size": 61, "max_seq_len": 140}
    config = ModelConfig(**(usual | shape))
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
    table = params[classifier(params)].astype(np.float16)
    _C.head_logits(h, params["norm"], table, config.norm_eps, at, out)
    return out[0]


@pytest.mark.parametrize("plan", PLANS)
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


@pytest.mark.parametrize("plan", PLANS)
def test_logits_of_several_positions_are_those_of_each(plan):
    model, device = model_of(n_heads=4), Device("host")
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 61, 120)]
    inference, single = model.inference(device, plan), model.inference(device, plan)
    for n, count in [(20, 9), (20, 3), (57, 1), (60, 3), (58, 2), (120, 17), (100, 32), (120, 1)]:
        got = inference.last_logits(tokens[:n], count)
        for i in range(count):
            want = single.logits(tokens[: n - count + 1 + i])
            assert got[i].tobytes() == want.tobytes(), (n, count, i)
    inference.close()
    single.close()


def random_texts(seed, count, vocab=61):
    """Texts with a common beginning, some of which go on from others."""
    rng = np.random.default_rng(seed)
    draw = lambda n: [int(t) for t in rng.integers(0, vocab, n)]  # noqa: E731
    common = draw(20)
    texts = [
        common[: int(rng.integers(0, 20))] + draw(int(rng.integers(1, 30))) for _ in range(count)
    ]
    return [*texts, texts[0] + draw(3), texts[0][:-1], list(texts[1])]


@pytest.mark.parametrize("chip, plan", [("", "all"), ("", "2,ports=packed"), ("m4", "auto")])
@pytest.mark.parametrize("shape", [SHAPES["grouped heads"], {"n_heads": 4, "sliding_window": 16}])
def test_texts_side_by_side_are_those_of_each_alone(chip, plan, shape):
    """To the byte, however they come, go and grow, and whatever of them is asked for again."""
    model, device = model_of(**shape), Device("host", chip=chip)
    beside, alone = model.inference(device, plan), model.inference(device, plan)
    rng = np.random.default_rng(5)
    texts, turns = random_texts(1, 5), 12
    for turn in range(turns):
        asked = [(text, min(len(text), int(rng.integers(1, 4)))) for text in texts]
        for (text, count), got in zip(asked, beside.logits_of(asked), strict=True):
            assert got.tobytes() == alone.last_logits(text, count).tobytes(), (turn, text)
        texts = [text + [int(t) for t in rng.integers(0, 61, 1 + turn % 3)] for text in texts]
        if turn % 4 == 3:
            texts = texts[int(rng.integers(1, 5)) :] + random_texts(turn + 2, 2)
    beside.close()
    alone.close()


def test_texts_side_by_side_share_evaluations_and_beginnings():
    model = model_of(n_heads=4)
    inference = model.inference(Device("host"))
    prompt = [i % 61 for i in range(40)]
    inference.logits_of([(prompt, 1)] * 4)
    assert inference.evaluations == 1 and len(inference._prefixes) == 40
    inference.logits_of([([*prompt, i], 1) for i in range(4)])
    assert inference.evaluations == 2 and len(inference._prefixes) == 44
    inference.logits_of([([*prompt, i, i], 1) for i in range(4)])
    assert inference.evaluations == 3 and len(inference._prefixes) == 48
    inference.logits([*prompt[:30], 60])  # of the longest common prefix, nothing is evaluated again
    assert inference.evaluations == 4 and len(inference._prefixes) == 31
    inference.close()


def test_an_interrupted_evaluation_leaves_nothing_behind(monkeypatch):
    model = model_of(n_heads=4)
    inference = model.inference(Device("host"))
    text = [i % 61 for i in range(60)]
    inference.logits(text[:20])
    with monkeypatch.context() as patch:
        patch.setattr(
            anefast.runtime.CompiledGraph,
            "run",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            inference.logits_of([(text, 1), (text[:30], 1)])
    want = model.inference(Device("host")).logits(text)
    assert inference.logits(text).tobytes() == want.tobytes()


@pytest.mark.parametrize("plan, prompt", [("all", 1), ("unfused", 2)])
def test_a_token_costs_one_evaluation_of_a_chunk(plan, prompt):
    model = model_of(n_heads=4)
    inference = model.inference(Device("host"), plan)
    tokens = [i % 61 for i in range(100)]
    inference.logits(tokens[:50])
    assert inference.evaluations == prompt
    for n in range(51, 101):
        inference.logits(tokens[:n])
    assert inference.evaluations == prompt + 50
    inference.logits(tokens)  # nothing new
    assert inference.evaluations == prompt + 50
    inference.close()


def test_parts_are_what_is_computed(monkeypatch):
    """The host is told of the columns that are there, and of no others: not all, not too few."""
    model, told = model_of(n_heads=4), []
    inference = model.inference(Device("host"), "all")
    run = anefast.runtime.CompiledGraph.run
    monkeypatch.setattr(
        anefast.runtime.CompiledGraph,
        "run",
        lambda self, which, extents=(): (told.append(list(extents)), run(self, which, extents)),
    )
    inference.logits([1] * 40)
    inference.logits([1] * 41)
    names = [name for name, _ in inference._bucket._ports]
    x, past = names.index("x"), names.index("past_mask")
    shapes = [[parts[4 * i : 4 * i + 4] for i in (x, past)] for parts in told]
    assert shapes == [[[1, 32, 1, 40], [1, 1, 40, 32]], [[1, 32, 1, 1], [1, 1, 1, 64]]]
    inference.close()


def test_a_device_that_emulates_a_chip_takes_no_parts():
    assert Device("host").takes_parts and not Device("host", chip="m4").takes_parts


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


def test_columns_of_texts_that_go_on_are_those_of_a_walk_from_the_beginning():
    rng, prefixes = np.random.default_rng(7), Prefixes()
    texts = random_texts(4, 6, vocab=5)
    for turn in range(60):
        found = prefixes.paths(texts)
        assert found == [prefixes.path(tokens) for tokens in texts]
        for tokens, path in zip(texts, found, strict=True):
            path = prefixes.path(tokens, path)
            for token in tokens[len(path) :]:
                path.append(prefixes.add(path[-1] if path else ROOT, token))
        if turn % 5 == 1:
            prefixes.cut(int(rng.integers(0, len(prefixes))))
        if turn % 7 == 2:
            prefixes.keep([prefixes.path(tokens) for tokens in texts[::2]])
        texts = [[*tokens[: int(rng.integers(1, 60))], int(rng.integers(0, 5))] for tokens in texts]
        if turn % 4 == 3:
            texts = [*texts[1:], *random_texts(turn, 2, vocab=5)][:7]

"""The loop that continues ids: speculation changes nothing, stops stop, a full context is said."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import ModelConfig
from anefast.decode import LONGEST, Lookup, Made, StopText
from anefast.nn import init_params
from anefast.runtime import Device
from anefast.sampling import sample

CHOICES = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 1.0, "top_k": 5},
    {"temperature": 0.6, "min_p": 0.05, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def model():
    """Drawn, with a head so loud that it repeats itself: drafts are often right, or wrong."""
    config = ModelConfig(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=160
    )
    params = init_params(config, 4)
    params["tok_embeddings"] *= 6
    return anefast.Model(config, params, anefast.open_tokenizer("bytes"))


@pytest.mark.parametrize("chip", ["", "m4"])
def test_speculation_changes_no_text(model, chip):
    device, made, fresh = Device("host", chip=chip), Made(), np.random.default_rng(2)
    for number in range(12 if chip else 60):
        length = int(fresh.integers(1, 40))
        prompt = [1, *(int(i) for i in fresh.integers(3, 9, length))]
        how = CHOICES[number % len(CHOICES)] | {"seed": number, "tokens": 40, "device": device}
        plain = list(model.stream(prompt, speculate=False, **how))
        assert list(model.stream(prompt, made=made, **how)) == plain, (number, how)
    assert 0 < made.accepted < made.drafted
    assert made.evaluations < made.tokens
    assert f"{made.accepted} of {made.drafted} drafted" in made.line()


def test_drafts_are_what_followed_and_learn():
    lookup = Lookup([5, 6, 7, 8, 9, 5, 6, 7])
    assert lookup.draft(LONGEST) == [8, 9, 5, 6, 7]
    assert lookup.draft(2) == [8, 9]
    lookup.learn(5, 1)
    assert lookup.draft(LONGEST) == [8, 9]
    lookup.learn(2, 2)
    assert len(lookup.draft(LONGEST)) == 4
    lookup.push(4)
    assert lookup.draft(LONGEST) == []


def test_a_second_text_compiles_nothing(model):
    device = Device("host")
    first = model.generate("ab", tokens=8, seed=3, device=device)
    compiles = device.programs.counters.compiles
    assert model.generate("ab", tokens=8, seed=3, device=device) == first
    assert list(model.stream("abab", tokens=8, device=device))
    assert device.programs.counters.compiles == compiles > 0
    name = "layers.0.ffn.w2"
    kept = model.params[name].copy()
    model.params[name] *= -1  # training changes weights in place
    changed = model.generate("ab", tokens=8, seed=3, device=device)
    assert device.programs.counters.compiles > compiles
    model.params[name][...] = kept
    again = model.generate("ab", tokens=8, seed=3, device=device)
    assert again == first != changed
    model.close()


def test_a_full_context_is_said(model, caplog):
    made = Made()
    limit = model.config.max_seq_len
    prompt = [1, *[70] * (limit - 4)]
    tokens = list(model.stream(prompt, tokens=50, temperature=0, made=made))
    assert len(tokens) == 4 and made.full  # one after every prefix of up to max_seq_len
    assert [m for m in caplog.messages if f"context of {limit} tokens is full" in m]


def test_log_probabilities_are_the_models_own(model):
    made, device = Made(keeps=True), Device("host")
    prompt = [1, 70, 71]
    tokens = list(model.stream(prompt, 12, 0.9, 0, 0.5, 1, device, made=made))
    inference = model.inference(device)
    for i, (token, said) in enumerate(zip(tokens, made.log_probabilities, strict=True)):
        logits = inference.logits(prompt + tokens[:i]).astype(np.float64)
        top = logits.max()
        assert said == pytest.approx(logits[token] - top - np.log(np.exp(logits - top).sum()))
    inference.close()


def test_texts_end_at_stop_strings(model):
    text = model.generate("ab", tokens=30, seed=9)
    made = text[len("ab") :]
    stop = made[3:5]
    assert len(made) > 6
    assert model.generate("ab", tokens=30, seed=9, stop=[stop]) == "ab" + made[: made.find(stop)]
    with pytest.raises(ValueError, match="stop"):
        model.generate("ab", stop="x")


def test_what_may_become_a_stop_is_held_back():
    end = StopText(["</s>", "###"])
    assert [end.push(p) for p in ("a<", "/s", "b#", "#c", "##")] == ["a", "", "</sb", "##c", ""]
    assert end.close() == "##" and not end.met
    assert [end.push(p) for p in ("x##", "#y")] == ["x", ""] and end.met and end.close() == ""


def test_draws_are_distributed_as_they_should_be():
    """Chi-square over every token that may come, a bound passed once in a million."""
    rng, logits = np.random.default_rng(8), np.array([2, 1.5, 0, 1, -1, -2, 1.5], np.float32)
    n = 20_000
    for how in ({}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.2}):
        weights = np.exp(logits.astype(np.float64) / how.get("temperature", 1))
        order = np.argsort(-weights, kind="stable")[: how.get("top_k", len(logits))]
        shares = weights[order] / weights[order].sum()
        before = np.cumsum(shares) - shares
        kept = order[(before < how.get("top_p", 1)) & (shares >= how.get("min_p", 0) * shares[0])]
        expected = n * weights[kept] / weights[kept].sum()
        drawn = np.bincount([sample(logits, rng=rng, **how) for _ in range(n)], minlength=7)
        assert drawn.sum() == drawn[kept].sum()
        chi2 = float(((drawn[kept] - expected) ** 2 / expected).sum())
        assert chi2 < {2: 24, 3: 28, 4: 31, 5: 34, 7: 39}[len(kept)], (how, chi2)


def test_penalties_count_each_id_once():
    logits = np.array([2, -2, 1, 0], np.float32)
    _C.penalise(logits, np.array([0, 1, 0, 3, 99], np.int32), 2.0)
    assert logits.tolist() == [1, -4, 1, 0]

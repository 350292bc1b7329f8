"""Scores of a text against the same sums made position by position."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import anefast
from anefast.config import ModelConfig
from anefast.data import open_data
from anefast.eval import EvalConfig, evaluate, run, windows
from anefast.models import init_params
from anefast.models.adapter import Base, Pair, adaptable
from anefast.models.lora import draw
from anefast.runtime import Device
from anefast.score import Score
from anefast.telemetry import read_rows

TEXT = "One day, a cat sat on a mat. It saw a dog, and the dog saw it. é ok\n" * 2


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=96
    )
    return anefast.Model(config, init_params(config, 2), anefast.open_tokenizer("bytes"))


@pytest.mark.parametrize("context", [0, 33, 2])
def test_scores_are_those_of_every_prefix(model, context):
    device = Device("host")
    score = evaluate(model, TEXT, context, device=device)
    ids, inference = model.tokenizer.encode(TEXT), model.inference(device)
    want = []
    for begin, first, last in windows(len(ids), context or 96):
        nats = 0.0
        for i in range(first, last + 1):
            logits = inference.logits(ids[begin:i]).astype(np.float64)
            top = logits.max()
            nats += top + np.log(np.exp(logits - top).sum()) - logits[ids[i]]
        want.append(nats)
    inference.close()
    assert score.nats == pytest.approx(want, rel=1e-4)
    assert score.tokens.sum() == len(ids) - 1
    assert score.bytes.sum() == len(TEXT.encode())


def test_an_adapter_counts(model):
    """It is scored in the weights, where it was left out before without a word."""
    config, device = model.config, Device("host")
    adapter = draw(4, 8.0, False, adaptable(config), Base(), 0)
    rng = np.random.default_rng(0)
    pairs = {n: Pair(a, 0.2 * rng.standard_normal(b.shape, np.float32)) for n, (a, b) in
             adapter.pairs.items()}  # fmt: skip
    adapter = replace(adapter, pairs=pairs)
    beside = anefast.Model(config, model.params, model.tokenizer)
    beside.adapt(adapter)
    merged = anefast.Model(config, adapter.merged(model.params), model.tokenizer)
    plain, adapted, want = (evaluate(m, TEXT, device=device).nats for m in (model, beside, merged))
    assert adapted.tobytes() == want.tobytes() != plain.tobytes()


def test_windows_score_every_token_once_with_half_a_context_before_it():
    for count in range(2, 60):
        for length in range(2, 20):
            scored = []
            for begin, first, last in windows(count, length):
                assert last - begin <= length
                assert first - begin >= (1 if first == 1 else length / 2)
                scored += range(first, last + 1)
            assert scored == list(range(1, count))


def test_units_and_uncertainty_of_a_ratio():
    score = Score(np.array([2.0, 4.0]), np.array([1, 1]), np.array([2, 4]), 8)
    nats, off = score.per(score.tokens)
    assert (nats, off) == (3, pytest.approx(1.0))  # the standard error of 2 and 4
    assert score.per(score.bytes) == (1, 0)  # the same in both windows
    assert f"bits per byte   {1 / math.log(2):.4f} ± 0.0000" in score.lines()


def test_what_cannot_be_scored_is_refused(model):
    for text, how in (("", {}), (TEXT, {"context": 97}), (TEXT, {"context": 1})):
        with pytest.raises(ValueError, match=r"^\[eval\] expected"):
            evaluate(model, text, **how)


def test_the_command_prints_a_score(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(anefast.Model, "load", lambda *_: model)
    data = tmp_path / "text.txt"
    data.write_text(TEXT)
    run(EvalConfig("a model", str(data), device="host", tokens=50))
    said = capsys.readouterr().out
    assert "50 tokens" in said and "bits per byte" in said and "±" in said


def test_a_run_s_validation_is_what_eval_says_of_the_same_windows(model, tmp_path, capsys):
    """Training reads the classifier in fp32 and eval in fp16, which is all the difference."""
    text, lines = (
        tmp_path / "text.txt",
        [f"{i} cats sat on {i % 13} mats\n" for i in range(900)],
    )
    text.write_text("".join(lines))
    fitted = anefast.Model.from_config(model.config, model.tokenizer, 3).fit(
        text, device=Device("host"), batch=3, seq_len=64, steps=3, accumulation=1,
        eval_batches=1000, sample_tokens=0, out=tmp_path / "run",
    )  # fmt: skip
    row = [row for row in read_rows(fitted.run_dir / "metrics.jsonl") if "val/loss" in row][-1]
    model = anefast.Model.load(fitted.run_dir)
    data = open_data(str(text), model.tokenizer)
    held = tmp_path / "held.txt"
    held.write_bytes(model.tokenizer.decode_bytes(data.validation.read(0, len(data.validation))))
    score = model.evaluate(data, 64, apart=True)
    assert score.tokens.sum() == (len(data.validation) - 1) // 64 * 64
    nats, error = score.per(score.tokens)
    assert nats == pytest.approx(row["val/loss"], abs=1e-5)
    assert error == pytest.approx(row["val/error"], abs=1e-5)
    assert score.bits_per_byte == pytest.approx(row["val/bits_per_byte"], abs=1e-5)
    assert nats != evaluate(model, held.read_text(), 64).nats_per_token  # windows that overlap
    capsys.readouterr()
    run(EvalConfig(str(fitted.run_dir), device="host"))  # without data, of the run's own
    assert capsys.readouterr().out.splitlines()[2:] == score.lines()


def test_examples_are_scored_as_a_run_s_validation_does(tmp_path):
    """The default preset's data: every story is a sequence of its own."""
    fitted = anefast.fit(
        "tiny", steps=4, source="stories:60", dim=32, n_layers=1, batch=3, sample_tokens=0,
        eval_batches=1000, out=tmp_path / "run", device=Device("host"),
    )  # fmt: skip
    row = [row for row in read_rows(fitted.run_dir / "metrics.jsonl") if "val/loss" in row][-1]
    model = anefast.Model.load(fitted.run_dir)
    data = open_data("stories:60", model.tokenizer, packing=False)
    score = model.evaluate(data)
    nats, error = score.per(score.tokens)
    assert nats == pytest.approx(row["val/loss"], abs=1e-4)
    assert error == pytest.approx(row["val/error"], abs=1e-4)
    assert score.bits_per_byte == pytest.approx(row["val/bits_per_byte"], abs=1e-4)
    with pytest.raises(ValueError, match="expected tokens of 0 for examples"):
        model.evaluate(data, tokens=9)

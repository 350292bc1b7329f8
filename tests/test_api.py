"""What a notebook uses: settings by keyword, a loop of one's own, objects that print briefly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import anefast
from anefast.config import ConfigError, OptimConfig, TrainConfig, keys
from anefast.data import open_data
from anefast.keywords import spellings, with_keywords
from anefast.models import count_params

SHAPE = anefast.ModelConfig(dim=32, n_layers=2, n_heads=2, max_seq_len=64)
SCHEDULE = {"lr": 3e-3, "accumulation": 2, "warmup_steps": 2, "min_lr_ratio": 0.1, "steps": 5}


@pytest.fixture
def model():
    return anefast.Model.from_config(SHAPE, anefast.open_tokenizer("bytes"), seed=0)


# 1) keywords


def test_every_setting_has_a_keyword():
    assert set(spellings().values()) == set(keys())


def test_keywords_name_settings():
    words = {"steps": 7, "lr": 1e-3, "data_seed": 5, "optim": {"clip": 0.5}, "batch": np.int64(3)}
    config, named = with_keywords(TrainConfig(), words)
    assert (config.steps, config.optim.lr, config.data.seed, config.seed) == (7, 1e-3, 5, 0)
    assert (config.optim.clip, config.data.batch) == (0.5, 3)
    assert named == {"steps", "optim.lr", "data.seed", "optim.clip", "data.batch"}
    assert with_keywords(TrainConfig(), {"lora": 8})[0].lora.rank == 8
    taken, _ = with_keywords(TrainConfig(), {"optim": OptimConfig(lr=0.5)})
    assert taken.optim == OptimConfig(lr=0.5)


WRONG = {
    "stepz": (3, "did you mean steps"),
    "learning_rate": (3, "did you mean lr"),
    "optim": (3, "OptimConfig or a dict"),
    "lr": ("fast", "lr expected float"),
    "steps": (0, "at least 1"),
    "dropout": (0.1, "there is no dropout"),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_keyword_is_one_line(word):
    value, told = WRONG[word]
    with pytest.raises(ConfigError, match=told) as caught:
        anefast.fit(**{word: value})
    assert "\n" not in str(caught.value)


# 2) training


def test_a_loop_of_one_s_own_gives_the_bytes_of_fit(model, tmp_path):
    device = anefast.Device("host")
    data = open_data("stories", model.tokenizer)
    by_hand = dataclasses.replace(model, params={n: p.copy() for n, p in model.params.items()})
    with by_hand.trainer(batch=2, seq=64, device=device, **SCHEDULE) as trainer:
        for batch in trainer.batches(data, SCHEDULE["steps"]):
            trainer.update(batch)
        assert trainer.made == SCHEDULE["steps"] and not trainer.last.overflow
        loss = trainer.evaluate(data.validation_batches(2, 64, 4))
    result = model.fit(
        data, device=device, batch=2, seq_len=64, **SCHEDULE,
        eval_batches=4, sample_tokens=0, out=tmp_path / "run",
    )  # fmt: skip
    assert result.val_losses[-1][1] == loss
    for name, p in result.model.params.items():
        assert p.tobytes() == by_hand.params[name].tobytes(), name


def test_a_preset_s_length_gives_way_to_the_model_s(model, tmp_path, caplog):
    result = model.fit(steps=1, batch=1, accumulation=1, out=tmp_path / "a", sample_tokens=0)
    assert "data.seq_len 256 -> 64" in caplog.text and result.model.trained_length == 64
    with pytest.raises(ValueError, match=r"data\.seq_len 128 is longer than model.max_seq_len 64"):
        model.fit(steps=1, seq_len=128, out=tmp_path / "b")


def test_an_update_begins_anew(model):
    """Gradients of the update before do not stay, whatever broke it off."""
    batch = (np.zeros((1, 32), np.int32), np.ones((1, 32), np.int32))
    with model.trainer(batch=1, seq=32, lr=0.0, device=anefast.Device("host")) as trainer:
        trainer.update(batch)
        once = trainer.last.grad_norm
        with pytest.raises(ValueError, match="int32 array of shape"):
            trainer.update([batch, (batch[0][:, :16], batch[1])])
        trainer.update(batch)
        assert trainer.last.grad_norm == once


NOT_BATCHES = [None, 3, [], "Once", np.zeros((1, 32), np.int32), [np.zeros((1, 32), np.int32)]]


@pytest.mark.parametrize("given", NOT_BATCHES, ids=range(len(NOT_BATCHES)))
def test_what_an_update_cannot_take(model, given):
    with model.trainer(batch=1, seq=32, device=anefast.Device("host")) as trainer:
        with pytest.raises(ValueError, match="pairs of x and y"):
            trainer.update(given)
    with pytest.raises(ValueError, match=r"of optim or loss_scale"):
        model.trainer(eval_every=3)


# 3) what is printed


def test_objects_print_briefly(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(repr(model)) < 150 and "llama" in repr(model)
    summary = model.summary()
    assert summary.weights == count_params(model.config)
    assert "layers.*.attn.wq" in str(summary) and "32 x 32 x 2" in summary._repr_html_()
    result = model.fit(steps=2, batch=2, seq_len=32, accumulation=1, out="run", sample_tokens=4)
    assert len(repr(result)) < 200 and "2 updates" in repr(result) and "run)" in repr(result)
    page = result._repr_html_()
    assert result.sample and "A sample" in page
    with pytest.raises(ValueError, match="a panel of loss, "):
        result.plot("los")


def test_a_summary_counts_the_states_of_the_optimiser_that_was_chosen(model, tmp_path):
    weights = count_params(model.config)
    assert model.summary().training == 4 * weights and "states of adamw" in str(model.summary())
    for name, more, states in (("lion", {}, 1), ("sgd", {"momentum": 0}, 0)):
        model.trainer(batch=1, seq=32, optim_name=name, **more).close()
        assert model.summary().training == (2 + states) * weights
        assert f"states of {name}" in str(model.summary())
    settings = {"optim_name": "lion", "lora": 8, "out": tmp_path / "run", "sample_tokens": 0}
    model.fit(steps=1, batch=1, seq_len=32, accumulation=1, **settings)
    pairs = sum(a.size for a in model.lora.params.values())
    assert model.summary().training == weights + 3 * pairs


def test_a_result_draws_itself(model, tmp_path):
    pytest.importorskip("matplotlib")
    result = model.fit(steps=2, batch=2, seq_len=32, accumulation=1, out=tmp_path / "run")
    assert result.plot("lr").axes[0].lines
    assert "<img" in result._repr_html_()


def test_dir_shows_the_public_names():
    assert {name for name in dir(anefast) if name[0] != "_"} == set(anefast.__all__)
    assert anefast.load == anefast.Model.load


# 4) saved and scored


FORMATS = ["mine", "hf/", "m.gguf", "m.bin"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_that_is_saved_comes_back(model, tmp_path, name):
    model.trained_length = 64
    to = "hf" if name == "hf/" else ""
    path = model.save(tmp_path / "in" / name, to, dtype="F32")
    again = anefast.load(path, *(["bytes"] if name == "m.bin" else []))
    assert again.config.dim == model.config.dim
    assert again.prompt_ids("A lion.") == model.prompt_ids("A lion.")
    for key, value in model.params.items():
        assert value.tobytes() == again.params[key].tobytes(), key
    if name == "mine":  # a checkpoint keeps what no other format has a place for
        assert (again.trained_length, again.config) == (64, model.config)
    assert [p.name for p in (tmp_path / "in").iterdir()] == [path.name]
    with pytest.raises(ConfigError, match=r"\[save\] .* is there already. Hint: name another"):
        model.save(path, to)


def test_a_saved_checkpoint_begins_a_run(model, tmp_path):
    path = model.save(tmp_path / "mine")
    result = anefast.fit(
        init=str(path), steps=1, batch=1, accumulation=1, seq_len=64, data="stories:20",
        out=tmp_path / "run", sample_tokens=0,
    )  # fmt: skip
    assert np.isfinite(result.losses).all()


def test_an_adapter_is_saved_by_itself_or_merged(model, tmp_path):
    base = model.save(tmp_path / "base")
    run = anefast.fit(
        init=str(base), lora=2, steps=2, batch=1, seq_len=64, data="stories:20", lr=1e-2,
        out=tmp_path / "run", sample_tokens=0,
    )  # fmt: skip
    tuned = run.model
    with pytest.raises(ConfigError, match=r"to= hf holds .* Hint: merge=True .* to= peft"):
        tuned.save(tmp_path / "hf", to="hf")
    whole = anefast.load(tuned.save(tmp_path / "whole", merge=True))
    kept = anefast.load(tuned.save(tmp_path / "kept"))
    assert whole.lora is None and kept.lora is not None
    merged = kept.lora.adapter().merged(kept.params)
    for name, value in whole.params.items():
        assert value.tobytes() == merged[name].tobytes(), name
    assert any((whole.params[n] != model.params[n]).any() for n in model.params)
    assert (tuned.save(tmp_path / "peft", to="peft") / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    "to,dtype,name,said",
    [
        ("guff", "", "x", r"expected to= hf, gguf, llama2c, checkpoint, peft, mlx, got guff.*gguf"),
        ("hf", "Q8_0", "x", "expected dtype= F32, BF16, F16 for hf, got Q8_0"),
        ("hf", "", "x.gguf", "to= hf makes no .gguf"),
        ("peft", "", "x", "to= peft is about a LoRA adapter, and the model has none"),
    ],
)
def test_what_cannot_be_saved_leaves_nothing(model, tmp_path, to, dtype, name, said):
    with pytest.raises(ConfigError, match=rf"\[save\] .*{said}"):
        model.save(tmp_path / name, to, dtype)
    assert not list(tmp_path.iterdir())


def test_a_save_that_breaks_off_leaves_nothing(model, tmp_path, monkeypatch):
    def broken(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anefast.formats.huggingface.write_safetensors", broken)
    monkeypatch.setattr("anefast.checkpoint.writing.save_file", broken)
    for to in ("hf", "checkpoint"):
        with pytest.raises((OSError, ValueError), match="No space left"):
            model.save(tmp_path / "new", to)
    assert not list(tmp_path.iterdir())


def test_evaluate_is_what_the_command_prints(model, tmp_path, capsys):
    from anefast.eval import EvalConfig, run

    (tmp_path / "text.txt").write_text("Once upon a time there was a lion. " * 20)
    path = model.save(tmp_path / "mine")
    score = model.evaluate(tmp_path / "text.txt", context=32)
    run(EvalConfig(str(path), data=str(tmp_path / "text.txt"), context=32, device="host"))
    assert capsys.readouterr().out.splitlines()[1:] == score.lines()
    assert abs(score.perplexity - np.exp(score.nats_per_token)) < 1e-9
    assert 7.5 < score.bits_per_byte < 8.5  # of bytes, drawn at random
    assert len(repr(score)) < 120 and f"{score.nats_per_token:.4f}" in repr(score)
    assert "bits per byte" in score._repr_html_()


def test_evaluate_takes_what_data_holds_out(model, tmp_path):
    (tmp_path / "text.txt").write_text("Once upon a time there was a lion.\n\n" * 200)
    data = open_data(str(tmp_path / "text.txt"), model.tokenizer, val_fraction=0.1)
    score = model.evaluate(data, context=32)
    assert score.tokens.sum() == len(data.validation) - 1
    for wrong in (None, 3, b"text"):
        with pytest.raises(ValueError, match=r"\[eval\] expected data to be the path of a text"):
            model.evaluate(wrong)

"""What a notebook uses: settings by keyword, a loop of one's own, objects that print briefly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import anefast
from anefast.config import ConfigError, OptimConfig, TrainConfig, keys
from anefast.data import open_data
from anefast.keywords import spellings, with_keywords
from anefast.nn import count_params

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


def test_a_result_draws_itself(model, tmp_path):
    pytest.importorskip("matplotlib")
    result = model.fit(steps=2, batch=2, seq_len=32, accumulation=1, out=tmp_path / "run")
    assert result.plot("lr").axes[0].lines
    assert "<img" in result._repr_html_()


def test_dir_shows_the_public_names():
    assert {name for name in dir(anefast) if name[0] != "_"} == set(anefast.__all__)
    assert anefast.load == anefast.Model.load

"""Runs that train an adapter: begun, stopped, resumed, used; and what of them is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import anefast
from anefast import checkpoint
from anefast.config import ConfigError, from_settings, merge
from anefast.formats.safetensors import read_safetensors
from anefast.models.adapter import AdapterError, adaptable
from anefast.telemetry import read_config

PLAIN = {
    "data": {"source": "stories:20", "seq_len": 32, "batch": 2},
    "optim": {"warmup_steps": 0, "min_lr_ratio": 1.0, "lr": 3e-3},
    "eval_every": 0,
    "sample_tokens": 0,
}


def fit(steps, asked=(), **settings):
    return anefast.fit(from_settings(merge(PLAIN, {"steps": steps, **settings})), asked=asked)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run with a whole model in it."""
    out = tmp_path_factory.mktemp("lora") / "base"
    model = {"dim": 32, "n_layers": 2, "n_heads": 2}
    return fit(4, model=model, out=str(out), optim={"accumulation": 1}).run_dir


def resumed(run, steps):
    settings = merge(read_config(run), {"resume": str(run), "steps": steps})
    return anefast.fit(from_settings({k: v for k, v in settings.items() if k != "init"}))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora") / "whole"
    return fit(6, init=str(base), lora={"rank": 3}, out=str(out))


def test_a_run_trains_the_adapter_alone(base, whole):
    model, began = whole.model, anefast.Model.load(base)
    assert all(p.tobytes() == began.params[n].tobytes() for n, p in model.params.items())
    assert whole.val_losses[-1][1] < whole.val_losses[0][1]
    assert read_config(whole.run_dir)["optim"]["accumulation"] == 1
    rows = anefast.telemetry.read_rows(whole.run_dir / "timings.jsonl")
    assert [row["compiles"] for row in rows[2:]] == [0] * len(rows[2:])


def test_a_checkpoint_holds_the_adapter_and_not_the_base(base, whole):
    folder = checkpoint.find_checkpoint(whole.run_dir)
    adapter = checkpoint.load_adapter(folder)
    assert adapter is not None and adapter.rank == 3
    assert adapter.base.path == str(base) and len(adapter.base.sha256) == 64
    assert adapter.pairs.keys() == adaptable(whole.model.config).keys()
    tensors = read_safetensors(folder / checkpoint.MODEL)
    assert tensors.keys() == adapter.tensors().keys()
    moments = read_safetensors(folder / checkpoint.OPTIM)
    assert moments.keys() == {f"{g}.{n}" for g in ("mean", "square") for n in tensors}


@pytest.mark.parametrize(
    ("accumulation", "optimizer"), [(1, "adamw"), (2, "adamw"), (1, "adafactor"), (1, "muon")]
)
def test_a_stopped_run_resumes_to_the_byte(base, tmp_path, accumulation, optimizer):
    def begun(steps, name):
        return fit(
            steps, ["optim.accumulation"], init=str(base), lora={"rank": 3, "alpha": 5.0},
            out=str(tmp_path / name), optim={"accumulation": accumulation, "name": optimizer},
        )  # fmt: skip

    through, part = begun(5, "through"), begun(2, "part")
    again = resumed(part.run_dir, 5)
    assert again.losses == through.losses
    for file in (checkpoint.MODEL, checkpoint.OPTIM):
        one, two = (r.run_dir / "step_000005" / file for r in (through, again))
        assert one.read_bytes() == two.read_bytes(), file


def test_gradients_of_another_form_are_refused(base, tmp_path):
    run = fit(1, init=str(base), lora={"rank": 3}, out=str(tmp_path / "run")).run_dir
    settings = merge(read_config(run), {"resume": str(run), "steps": 2, "init": ""})
    assert anefast.fit(from_settings(merge(settings, {"plan": "all"}))).losses
    with pytest.raises(
        ConfigError, match="computes gradients on the cpu, the run's all on the device"
    ):
        anefast.fit(from_settings(merge(settings, {"plan": "all,gradients=cpu", "steps": 3})))


def test_auto_keeps_the_form_that_a_run_has(base, tmp_path):
    words = {"lora": {"rank": 3}, "plan": "all,gradients=cpu", "out": str(tmp_path / "run")}
    run = fit(1, init=str(base), **words).run_dir
    settings = merge(read_config(run), {"resume": str(run), "steps": 2, "init": "", "plan": "auto"})
    assert anefast.fit(from_settings(settings)).losses
    assert "gradients=cpu" in read_config(run)["plan"].split(",")


def test_another_base_is_refused_by_name(base, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    run = fit(2, init=str(copy), lora={"rank": 3}, out=str(tmp_path / "run")).run_dir
    shutil.rmtree(copy)
    with pytest.raises(checkpoint.CheckpointError, match=r"adapter of .*base, which is not there"):
        resumed(run, 3)
    fit(5, init=str(base), out=str(copy), optim={"accumulation": 1})
    with pytest.raises(AdapterError, match=r"expected the model .*base that it was trained on"):
        resumed(run, 3)


def test_a_run_is_opened_as_its_base_with_the_adapter(whole):
    model = anefast.Model.load(whole.run_dir)
    text = whole.model.generate("Once", tokens=8)
    assert model.lora is not None and model.generate("Once", tokens=8) == text
    model.adapt(None)
    tokens = [1, 2, 3]
    merged = model.lora  # of the base alone
    assert merged is None
    plain = model.inference().logits(tokens)
    model.adapt(checkpoint.load_adapter(whole.run_dir))
    assert not np.array_equal(model.inference().logits(tokens), plain)
    with pytest.raises(checkpoint.CheckpointError, match="got a LoRA adapter without"):
        checkpoint.load_model(whole.run_dir)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": {"rank": 8}}, r"lora.rank 8 trains an adapter beside a model, got no model"),
        ({"lora": {"alpha": 8.0}}, r"lora.alpha needs an adapter, and lora.rank 0 makes none"),
        ({"init": "BASE", "lora": {"rank": 8, "targets": "wx"}}, r"lora.targets expected patterns"),
        ({"init": "BASE", "lora": {"rank": 8}, "train": "norm"}, r"train names parameters of the"),
        (
            {"init": "BASE", "lora": {"rank": 8, "layers": 3}},
            r"lora.layers of a model with 2 layers, got 3",
        ),
    ],
)
def test_what_makes_no_adapter_is_refused_in_one_line(base, tmp_path, settings, said):
    if settings.get("init"):
        settings = {**settings, "init": str(base)}
    with pytest.raises(ConfigError, match=said):
        fit(2, out=str(tmp_path / "run"), **settings)


def test_a_run_does_not_begin_from_an_adapter(whole, tmp_path):
    for lora in ({}, {"rank": 8}):
        with pytest.raises(ConfigError, match=r"expected a model to begin from, got .*whole, an"):
            fit(1, init=str(whole.run_dir), lora=lora, out=str(tmp_path / "run"))


def test_targets_and_layers_choose_the_matrices(base, tmp_path):
    run = fit(
        1, init=str(base), out=str(tmp_path / "run"),
        lora={"rank": 8, "targets": "wq,wv", "layers": 1},
    )  # fmt: skip
    assert set(run.model.lora.ranks) == {"layers.1.attn.wq", "layers.1.attn.wv"}

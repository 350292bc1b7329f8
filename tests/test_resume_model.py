"""The judge of resuming: a real transformer on the device, stopped by SIGINT at update 7 of 20."""

from __future__ import annotations

import os
import signal

import pytest

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

from anefast.config import TrainConfig
from anefast.model import Model
from anefast.train import fit

from .test_resume import everything


def config(out, **changes):
    nested = {
        "model": {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 32},
        "data": {"source": "stories:50", "seq_len": 32, "batch": 2},
        "optim": {"lr": 5e-3, "warmup_steps": 3, "accumulation": 3},
    }
    plain = {"steps": 20, "eval_every": 5, "eval_batches": 2, "sample_tokens": 8, "device": "host"}
    return TrainConfig.from_preset("bytes", **nested, **{**plain, "out": str(out), **changes})


def stop_at(step):
    def on_step(row):
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def test_a_transformer_resumes_byte_for_byte(tmp_path):
    whole = fit(config(tmp_path / "whole"))
    assert whole.val_losses[-1][1] < whole.val_losses[0][1] - 0.5
    assert fit(config(tmp_path / "cut"), on_step=stop_at(7)).interrupted
    again = fit(config(tmp_path / "cut", resume=str(tmp_path / "cut")))
    assert again.sample == whole.sample
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    # and what is on disk is the model in the hand
    loaded = Model.load(tmp_path / "cut")
    assert loaded.generate("Once", tokens=12) == whole.model.generate("Once", tokens=12)


def test_a_new_run_may_start_from_an_old_ones_weights(tmp_path):
    first = fit(config(tmp_path / "a", steps=5))
    second = fit(config(tmp_path / "b", steps=1, init=str(tmp_path / "a")))
    assert second.val_losses[0][1] == first.val_losses[-1][1]
    assert (tmp_path / "a" / "step_000005").is_dir()

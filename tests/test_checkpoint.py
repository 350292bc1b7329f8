"""Checkpoint folders: whole or absent, checked when read; the run folder's rows and lock."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest

from anefast import checkpoint, telemetry
from anefast.checkpoint import CheckpointError, writing
from anefast.config import ModelConfig, TrainConfig
from anefast.models import init_params
from anefast.tokenizer import ByteTokenizer

from .sealed import edit_state

MODEL = ModelConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=259, max_seq_len=32)
PARAMS = init_params(MODEL, 0)


def save(run, step=1, micro=0, params=PARAMS, **state):
    optim = {f"mean.{n}": np.full_like(p, step) for n, p in params.items()}
    state = {"step": step, "micro": micro, **state}
    return checkpoint.save(run, MODEL, params, optim, state, ByteTokenizer())


def test_a_model_comes_back(tmp_path):
    folder = save(tmp_path, 500)
    assert folder.name == "step_000500"
    config, params = checkpoint.load_model(tmp_path / "latest")
    assert config == MODEL and list(params) == list(PARAMS)
    assert all(np.array_equal(params[n], PARAMS[n]) for n in PARAMS)


def test_transposed_arrays_are_saved_by_value(tmp_path):
    """safetensors writes memory as it lies; 0.8.0 scrambles what is not C-contiguous."""
    name = "layers.0.ffn.w1"
    turned = {**PARAMS, name: np.asfortranarray(PARAMS[name]), "norm": np.arange(32.0)[::2]}
    assert not turned[name].flags.c_contiguous
    _, params = checkpoint.load_model(save(tmp_path, params=turned))
    assert np.array_equal(params[name], PARAMS[name])
    assert np.array_equal(params["norm"], np.arange(0, 32, 2, dtype=np.float32))


def test_newest_by_step_then_micro(tmp_path):
    for step, micro in ((9, 0), (10, 7), (10, 0), (1000000, 0), (2, 0)):
        save(tmp_path, step, micro)
    names = [c.name for c in checkpoint.checkpoints(tmp_path)]
    assert names == [
        "step_000002",
        "step_000009",
        "step_000010",
        "step_000010_micro007",
        "step_1000000",
    ]
    assert checkpoint.find_checkpoint(tmp_path).name == "step_1000000"
    assert checkpoint.find_checkpoint(tmp_path / "latest").name == "step_000002"
    assert checkpoint.prune(tmp_path, 1, {"step_000009"}) == []
    names = [c.name for c in checkpoint.checkpoints(tmp_path)]
    assert names == ["step_000009", "step_1000000"]


@pytest.mark.parametrize("after", range(4))
def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch, after):
    """Fails after 0..3 tensor files: half the first one written, and so on to a refused rename."""
    good = save(tmp_path, 1)
    before = {p.name: p.read_bytes() for p in good.iterdir()}
    real = writing.save_file
    calls = []

    def full_disk(arrays, path):
        calls.append(path)
        if len(calls) > after:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(arrays, path)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full_disk)
    if after == 3:
        monkeypatch.setattr(writing, "_appear", refuse)
    elif after == 2:
        monkeypatch.setattr(writing, "_fsync", refuse)
    told = r"No space left.*takes [\d.]+ MB, [\d,.]+ MB are free.*step_000001 is whole"
    with pytest.raises(CheckpointError, match=told) as caught:
        save(tmp_path, 2)
    assert "\n" not in str(caught.value)
    assert [c.name for c in checkpoint.checkpoints(tmp_path)] == ["step_000001"]
    assert before == {p.name: p.read_bytes() for p in good.iterdir()}
    assert not list(tmp_path.glob(".step*"))
    checkpoint.load_model(tmp_path)


def test_saving_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, tokens=1)
    save(tmp_path, 3, tokens=2)
    assert checkpoint.load_state(tmp_path / "step_000003")["tokens"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_000003"]


def test_a_crash_between_two_renames_costs_no_checkpoint(tmp_path):
    """Saving again under a name: the old one is put back, or goes where the new one is there."""
    folder = save(tmp_path, 3, tokens=1)
    folder.rename(tmp_path / ".step_000003.old")
    (tmp_path / ".step_000003.tmp").mkdir()
    checkpoint.sweep(tmp_path)
    assert checkpoint.load_state(folder)["tokens"] == 1
    shutil.copytree(folder, tmp_path / ".step_000003.old")
    checkpoint.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_000003"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


BROKEN = {
    "model missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "optim damaged": (lambda f: flip(f / "optim.safetensors"), "optim.safetensors is damaged"),
    "model cut": (lambda f: (f / "model.safetensors").write_bytes(b"12"), "is damaged"),
    "tokenizer damaged": (lambda f: flip(f / "tokenizer.json"), "tokenizer.json is damaged"),
    "state cut": (lambda f: (f / "state.json").write_text('{"format": 1, '), "to hold JSON"),
    "state is a list": (lambda f: (f / "state.json").write_text("[]"), "to hold a table"),
    "state missing": (lambda f: (f / "state.json").unlink(), r"state\.json: No such file"),
    "state changed": (lambda f: unseal(f, tokens=9), "its checksum does not match"),
    "checksum stripped": (lambda f: unseal(f, checksum=None), "its checksum does not match"),
    "session missing": (lambda f: (f / "session.json").unlink(), r"session\.json: No such file"),
    "session cut": (lambda f: (f / "session.json").write_text("{}"), "its checksum does not match"),
    "format is a truth": (
        lambda f: unseal(f, format=True, checksum=None),
        "its checksum",
    ),
    "newer format": (lambda f: edit_state(f, format=3), "expected format 2, got 3"),
    "another step": (
        lambda f: edit_state(f, step=2),
        "holds another checkpoint: .* that of step_000002",
    ),
    "no model": (lambda f: edit_state(f, model={"dim": 3}), "does not describe a model"),
    "another shape": (
        lambda f: edit_state(f, model={"dim": 32, "n_layers": 2}),
        "holds another model",
    ),
}


def unseal(folder, **changes):
    """Changes state.json without its checksum, or takes a None out."""
    state = json.loads((folder / "state.json").read_text()) | changes
    (folder / "state.json").write_text(
        json.dumps({k: v for k, v in state.items() if v is not None})
    )


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints_get_one_line(tmp_path, kind):
    folder = save(tmp_path)
    breaks, message = BROKEN[kind]
    breaks(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load_model(folder)
    assert "\n" not in str(caught.value) and "step_000001" in str(caught.value)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="has none"):
        checkpoint.find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="there is no"):
        checkpoint.find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "step_1").mkdir()  # not as we name them
    with pytest.raises(CheckpointError, match="has none"):
        checkpoint.find_checkpoint(tmp_path)
    (tmp_path / "step_000001").mkdir()  # one that lost its state: older ones do not stand in
    with pytest.raises(CheckpointError, match=r"step_000001.state\.json"):
        checkpoint.load_model(tmp_path)


def test_a_file_that_is_no_safetensors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"Once upon a time")
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.read_tensors(tmp_path / "x.safetensors", {})


def test_run_folder_keeps_its_config_and_every_session(tmp_path):
    config = TrainConfig.from_preset("bytes", steps=3)
    for resume in (False, True):
        run = telemetry.RunFolder(tmp_path / "run", resume=resume)
        run.begin(config, telemetry.environment(["train"], device="none"))
        run.open_logs(0)
        run.log({"step": 0, "grad_norm": float("inf")}, {"step": 0})
        run.close()
    assert telemetry.read_config(tmp_path / "run")["steps"] == 3
    sessions = json.loads((tmp_path / "run" / "env.json").read_text())["sessions"]
    assert len(sessions) == 2 and sessions[0]["numpy"] == np.__version__
    assert telemetry.read_rows(tmp_path / "run" / "metrics.jsonl")[0]["grad_norm"] is None


def test_run_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(telemetry.RunError, match=r"^\[run\]"):
            telemetry.RunFolder(path, resume=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(telemetry.RunError, match=r"already holds mine\.txt"):
        telemetry.RunFolder(tmp_path / "notes", resume=False)
    shutil.rmtree(tmp_path / "notes")
    with pytest.raises(telemetry.RunError, match="is not a run"):
        telemetry.RunFolder(tmp_path / "notes", resume=True)

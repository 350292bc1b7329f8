"""What a run's state says of itself: sealed, chained to its rows, and never replaced in silence."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from anefast import checkpoint, run_state
from anefast.checkpoint import CheckpointError
from anefast.config import ConfigError
from anefast.telemetry import read_rows
from anefast.telemetry.history import read_history
from anefast.telemetry.mend import kept_rows
from anefast.telemetry.rows import RowFiles
from anefast.train import fit

from .bigram import DEVICE, BigramModel, settings
from .sealed import edit_state


class Killed(Exception):
    """Ends a run in a test."""


def run(out, *, kill_at=None, **changes):
    """A run of ten updates, validated at every second one, and what it said.

    kill_at: the folder is left as it was after this update, which is what a kill leaves, once the
    thread that writes rows has come as far as the update before.
    """
    said: list[str] = []
    then = out.with_name("then")

    def on_step(row):
        if row["step"] == kill_at:
            wait_for_rows(out / "metrics.jsonl", kill_at)
            shutil.copytree(out, then, symlinks=True, ignore=shutil.ignore_patterns(".*"))
            raise Killed

    config = settings(out, **{"steps": 10, "eval_every": 2, **changes})
    try:
        fit(config, model=BigramModel(), device=DEVICE, on_step=on_step, show=said.append)
    except Killed:
        if then.exists():
            shutil.rmtree(out)
            then.rename(out)
    return said


def wait_for_rows(path: Path, count: int) -> None:
    until = time.monotonic() + 30
    while path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, f"{path.name} has fewer than {count} rows"
        time.sleep(0.001)


def resume(out, **changes):
    return run(out, resume=str(out), **changes)


def everything(folder: Path) -> dict[str, bytes]:
    last = checkpoint.find_checkpoint(folder)
    files = [folder / "metrics.jsonl", folder / "best.json"]
    files += [p for p in last.iterdir() if p.name != "session.json"]
    return {p.name: p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


IMPOSSIBLE = {
    "step is a truth": {"step": True},
    "micro-steps of no update": {"micro": -1},
    "too many tokens": {"tokens": 10**9},
    "tokens before any update": {"loss_tokens": 3},
    "a loss of nothing": {"loss_sum": 1.5},
    "validation in words": {"last_val": "low"},
    "a scale that is no power of two": {"loss_scale": {"value": 96.0, "good_updates": 1}},
    "a scale of zero": {"loss_scale": {"value": 0.0, "good_updates": 1}},
    "a peak of the scale's that is none": {
        "loss_scale": {"value": 64.0, "good_updates": 1, "peak": -1.0, "peak_age": 0}
    },
    "a scale that never settles": {"loss_scale": {"value": 64.0, "good_updates": 10**6}},
    "more moments than updates": {"optimizer_step": 11},
    "more overflows than updates": {"overflows": 11},
    "updates made and skipped": {"optimizer_step": 9, "overflows": 9},
    "rows of nothing": {"rows": {"bytes": -1, "rows": 0, "sha256": ""}},
    "an unfinished update of another": {"unfinished": {"step": 3}},
    "a best checkpoint by number": {"best": 4},
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_state_that_no_run_comes_to_is_refused(copy, kind):
    edit_state(copy / "step_000010", **IMPOSSIBLE[kind])
    with pytest.raises(CheckpointError) as refused:
        resume(copy)
    assert "step_000010" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optim.safetensors", "state.json", "session.json", "tokenizer.json"],
)
def test_a_damaged_checkpoint_names_the_older_one_that_is_whole(copy, whole, name):
    (copy / "step_000010" / name).write_bytes(b"{}")
    (copy / "step_000008" / name).unlink()
    with pytest.raises(CheckpointError, match="step_000006 is whole") as refused:
        resume(copy)
    told = str(refused.value).partition("`--resume ")[2].partition("`")[0]
    assert told == str(copy / "step_000006")
    run(copy, resume=told)
    assert everything(copy) == everything(whole)
    assert sorted(p.name for p in (copy / "later-1").iterdir()) == ["step_000008", "step_000010"]


def test_a_checkpoint_without_its_state_is_not_passed_over(copy):
    (copy / "step_000010" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step_000010.state\.json"):
        resume(copy)


def test_a_checkpoint_that_somebody_removed_is_told(copy, whole):
    shutil.rmtree(copy / "step_000010")
    assert any("step_000010 is gone" in line and "step_000008" in line for line in resume(copy))
    assert everything(copy) == everything(whole)


def test_no_other_checkpoint_is_whole(copy):
    for folder in checkpoint.checkpoints(copy):
        (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no other checkpoint beside it is whole"):
        resume(copy)


def as_before(folder: Path) -> None:
    """A checkpoint as the first format had it."""
    state = json.loads((folder / "state.json").read_text())
    for name in ("checksum", "rows", "best"):
        del state[name]
    (folder / "state.json").write_text(json.dumps({**state, "format": 1}, indent=2) + "\n")
    (folder / "session.json").unlink()


def test_a_checkpoint_of_before_goes_on_byte_for_byte(tmp_path, whole):
    run(tmp_path / "run", kill_at=7)
    for folder in checkpoint.checkpoints(tmp_path / "run"):
        as_before(folder)
    config = tmp_path / "run" / "config.toml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "sha256" not in line))
    said = resume(tmp_path / "run")
    assert not any("damaged" in line or "gone" in line for line in said)
    assert everything(tmp_path / "run") == everything(whole)


def test_the_best_one_is_known_however_a_save_ends(tmp_path, whole, monkeypatch):
    """A crash between saving and marking it, then at every save one in pruning."""
    out = tmp_path / "run"

    def crash(*_):
        raise Killed

    monkeypatch.setattr(checkpoint, "mark_best", crash)
    run(out)
    assert not (out / "best.json").exists()
    assert checkpoint.best_checkpoint(out) == "step_000002"
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "prune", crash)
    for _ in range(4):
        resume(out)
    monkeypatch.undo()
    resume(out)
    assert everything(out) == everything(whole)


def test_pruning_keeps_what_the_newest_calls_the_best(tmp_path):
    class Overfits(BigramModel):
        def training_step(self, **options):
            step = super().training_step(**options)

            def evaluate(x, y):
                step.nll = np.full(y.shape, 100.0 + step.made, np.float32)
                return float(step.nll.sum()), step.nll.size

            step.evaluate = evaluate
            return step

    out = tmp_path / "run"
    config = settings(out, steps=10, eval_every=2)
    fit(config, model=Overfits(), device=DEVICE)
    (out / "best.json").write_text('{"checkpoint": "step_000008", "val/loss": 1.0}\n')
    config = settings(out, steps=14, eval_every=2, resume=str(out))
    fit(config, model=Overfits(), device=DEVICE)
    kept = [c.name for c in checkpoint.checkpoints(out)]
    assert kept == ["step_000002", "step_000010", "step_000012", "step_000014"]
    assert json.loads((out / "best.json").read_text())["checkpoint"] == "step_000002"


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tmp_path, whole):
    out = tmp_path / "run"
    run(out, kill_at=1)
    assert checkpoint.newest(out) is None
    said = resume(out)
    assert any("was stopped before its first checkpoint: it begins again" in line for line in said)
    assert everything(out) == everything(whole)


def test_a_run_that_begins_again_from_something_else_says_so(tmp_path):
    out = tmp_path / "run"
    run(out, kill_at=1)
    change(out / "metrics.jsonl", '"val/loss": 5.', '"val/loss": 4.')
    assert any(line.startswith("it was 4.") and "have changed" in line for line in resume(out))
    run(tmp_path / "again", kill_at=1)
    assert not any("have changed" in line for line in resume(tmp_path / "again"))


def test_a_run_whose_checkpoints_were_removed_does_not_begin_again(copy):
    for folder in checkpoint.checkpoints(copy):
        shutil.rmtree(folder)
    rows = (copy / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"latest says that there was one.*config\.toml"):
        resume(copy)
    assert (copy / "metrics.jsonl").read_bytes() == rows


def test_what_an_unfinished_start_left_does_not_take_the_folder(tmp_path, whole):
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.lock").write_text("1\n")
    (out / ".config.toml.0123456789abcdef.tmp").write_text("steps = ")
    run(out)
    assert everything(out) == everything(whole)
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


def test_going_on_from_an_older_checkpoint_leaves_the_newer_ones_aside(copy, whole):
    """They would pass for the newest, and the new ones be pruned as the oldest."""
    older = checkpoint.checkpoints(copy)[-3]
    assert older.name == "step_000006"
    said = run(copy, resume=str(older), kill_at=7)
    assert f"checkpoints past step_000006 are in {copy}/later-1 now" in said
    assert checkpoint.newest(copy) == older
    resume(copy)
    assert everything(copy) == everything(whole)


# ---- config.toml ----


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("old,new", [("lr = 0.1", "lr = 0.3"), ("keep_last = 3", "keep_last = 1")])
def test_a_setting_that_changed_in_the_file_is_refused(copy, old, new):
    """Also where both are changed in one way, so that the file and the caller agree."""
    change(copy / "config.toml", old, new)
    name = old.partition(" ")[0]
    changes = {"optim": {"lr": 0.3}} if name == "lr" else {"keep_last": 1}
    with pytest.raises(ConfigError, match=rf"{name} .*config\.toml.* step_000010 .* Hint: put it"):
        resume(copy, **changes)


def test_a_setting_of_a_session_that_made_no_checkpoint_stays(copy):
    resume(copy, steps=12, kill_at=11)
    shutil.rmtree(copy / "later-1", ignore_errors=True)
    assert "steps = 12" in (copy / "config.toml").read_text()
    resume(copy, steps=12)
    assert checkpoint.newest(copy).name == "step_000012"


@pytest.mark.parametrize("damage", ["changed", "half", "nothing left"])
def test_a_changed_file_without_any_checkpoint_is_refused(tmp_path, damage):
    run(tmp_path / "run", kill_at=1)
    config = tmp_path / "run" / "config.toml"
    if damage == "changed":
        change(config, "eval_every = 2", "eval_every = 3")
    else:
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(lines[: len(lines) // 2 if damage == "half" else 0]))
    with pytest.raises(ConfigError, match="may have been edited since the run began"):
        resume(tmp_path / "run", eval_every=3)


def test_a_checkpoint_of_another_model_is_refused(copy):
    """Of the same shapes, so that its weights would fit."""
    state = json.loads((copy / "step_000010" / "state.json").read_text())
    edit_state(copy / "step_000010", model={**state["model"], "norm_eps": 1e-3})
    with pytest.raises(ConfigError, match=r"another model: its norm_eps is 0\.001, got 1e-05"):
        resume(copy)


def test_a_link_in_place_of_the_rows_is_not_followed(copy, tmp_path):
    outside = tmp_path / "outside.jsonl"
    (copy / "metrics.jsonl").rename(outside)
    (copy / "metrics.jsonl").symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(ValueError, match=r"metrics\.jsonl.* link"):
        resume(copy)
    assert outside.read_bytes() == before


# ---- checkpoints by minutes ----


def test_checkpoints_by_minutes_change_nothing(tmp_path, whole, monkeypatch):
    """A clock on which every micro-step takes 40 seconds; and one that stands still."""
    now = [0.0]
    monkeypatch.setattr(run_state, "clock", lambda: now[0])
    names: list[str] = []
    saving = checkpoint.save

    def save(run, *arguments):
        folder = saving(run, *arguments)
        names.append(folder.name)
        return folder

    monkeypatch.setattr(checkpoint, "save", save)

    class Slow(BigramModel):
        def training_step(self, **options):
            step = super().training_step(**options)
            micro_step = step.micro_step

            def slow(*arguments):
                now[0] += 40.0
                return micro_step(*arguments)

            step.micro_step = slow
            return step

    for minutes, expected in ((0.0, 0), (1.0, 10), (60.0, 0)):
        names.clear()
        out = tmp_path / f"run{minutes:g}"
        config = settings(out, steps=10, eval_every=2, checkpoint_minutes=minutes)
        fit(config, model=Slow(), device=DEVICE)
        by_minutes = [name for name in names if "micro" in name or int(name[5:]) % 2]
        assert len(by_minutes) == expected, names
        assert everything(out) == everything(whole)


# ---- rows ----


def rows(folder: Path, number: int = 6) -> tuple[dict[str, object], list[bytes], list[bytes]]:
    """Both files with rows of the updates 0 to number - 1; their marks and lines."""
    from anefast.telemetry.rows import Mark

    files = RowFiles(folder)
    for step in range(number):
        files.write({"step": step, "train/loss": 5.0 - step / 3}, {"step": step, "ms": 1.0})
    marks = {
        "metrics.jsonl": Mark.of(files.metrics.mark()),
        "timings.jsonl": Mark.of(files.timings.mark()),
    }
    files.close()
    read = [(folder / name).read_bytes().splitlines(keepends=True) for name in marks]
    return marks, *read


HURT = {
    "a row that is none": (lambda m: [*m[:2], b"?" + m[2][1:], *m[3:]], {2}, "update 2 "),
    "a digit": (lambda m: [*m[:3], m[3].replace(b"4.0", b"4.1"), *m[4:]], {3}, "update 3 "),
    "a step": (lambda m: [*m[:1], m[1].replace(b": 1,", b": 4,"), *m[2:]], {1}, "update 1 "),
    "two rows in one": (lambda m: [m[0], m[1][:-1] + m[2], *m[3:]], {1, 2}, "updates 1 to 2 "),
    "the end": (lambda m: m[:4], {4, 5}, "updates 4 to 5 "),
    "half of it": (lambda m: [*m[:3], m[3][:9]], {3, 4, 5}, "updates 3 to 5 "),
    "all": (lambda m: [], {0, 1, 2, 3, 4, 5}, "updates 0 to 5 "),
}


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "of before"])
@pytest.mark.parametrize("kind", HURT)
def test_damaged_rows_are_set_aside_and_said(tmp_path, kind, marked):
    marks, metrics, _ = rows(tmp_path)
    damage, lost, told = HURT[kind]
    damaged = b"".join(damage(metrics))
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    said: list[str] = []
    keep, _ = kept_rows(tmp_path, 5, marks if marked else None, said.append)
    if kind == "a digit" and not marked:  # nothing of the old format could tell
        assert said == [] and keep == len(damaged)
        return
    sound = b"".join(line for step, line in enumerate(metrics) if step not in lost)
    assert (tmp_path / "metrics.jsonl").read_bytes() == sound and keep == len(sound)
    assert (tmp_path / "metrics.damaged-1.jsonl").read_bytes() == damaged
    assert len(said) == 1 and told in said[0] and "metrics.damaged-1.jsonl" in said[0]


def test_rows_past_the_checkpoint_go_without_a_word(tmp_path):
    marks, metrics, timings = rows(tmp_path)
    for tail in (b"", b'{"step": 6}\n', b'{"step": 6}\n{"st', b"\0" * 100, b"[" * 9999 + b"\n"):
        (tmp_path / "metrics.jsonl").write_bytes(b"".join(metrics) + tail)
        said: list[str] = []
        kept = kept_rows(tmp_path, 5, marks, said.append)
        assert kept == (len(b"".join(metrics)), len(b"".join(timings))) and said == []


def test_lost_timings_are_said_as_well(tmp_path):
    marks, metrics, _ = rows(tmp_path)
    (tmp_path / "timings.jsonl").unlink()
    said: list[str] = []
    assert kept_rows(tmp_path, 5, marks, said.append) == (len(b"".join(metrics)), 0)
    assert said == [f"{tmp_path}/timings.jsonl is missing: the rows up to update 5 are lost"]


def test_reading_rows_says_what_it_leaves_out(tmp_path):
    _, metrics, _ = rows(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join([*metrics[:2], b"\n", b"[1]\n", *metrics[2:], metrics[0][:5]]))
    said: list[str] = []
    assert [row["step"] for row in read_rows(path, said.append)] == [0, 1, 2, 3, 4, 5]
    assert said == [f"{path}: lines 3 to 4 cannot be read and will be ignored"]


def test_a_report_keeps_the_rows_behind_a_damaged_one(copy):
    path = copy / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"?" + lines[3], *lines[4:]]))
    found = read_history(copy)
    assert found.step == 10 and found.series("train/loss").steps == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert len(found.notes) == 1 and "ignores a damaged row" in found.notes[0]
    assert "metrics.jsonl, line 4" in found.notes[0]

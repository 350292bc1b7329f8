"""However a run ends, what it made is kept; what can be known before it is said before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anefast import _C, checkpoint
from anefast.config import ConfigError, ScheduleConfig, TrainConfig
from anefast.data import Epoch
from anefast.errors import Failure
from anefast.forecast import forecast, rate_change
from anefast.soundness import Soundness
from anefast.train import fit
from anefast.trainer import Trainer

from .bigram import DEVICE, BigramModel, settings

ROOT = Path(__file__).resolve().parent.parent


def run(out, *, model=None, lines=None, on_step=None, **changes):
    """fit with a table for a model, its lines kept in `lines`."""
    show = None if lines is None else lines.append
    config = settings(out, **changes)
    return fit(config, model=model or BigramModel(), device=DEVICE, on_step=on_step, show=show)


def saved(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.checkpoints(folder)]


# ---- a function of the caller's that raises ----


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError, ConfigError])
def test_a_callback_that_raises_costs_no_update(tmp_path, error):
    def on_step(row):
        if row["step"] == 7:
            raise error("mine")

    lines: list[str] = []
    with pytest.raises(error, match="mine") as caught:
        run(tmp_path / "run", on_step=on_step, lines=lines)
    assert saved(tmp_path / "run") == ["step_000005", "step_000007"]
    again = f"anefast train --resume {tmp_path / 'run'}"
    note = f"[train] update 7 is saved; continue with: {again}"
    assert caught.value.__notes__ == [note] and lines[-1].endswith(note)
    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert resumed.losses == whole.losses
    for name in ("metrics.jsonl", "step_000020/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("where", ["micro_step", "evaluate", "wait"])
def test_a_defect_inside_a_step_costs_no_whole_update(tmp_path, where):
    model = BigramModel()
    inner = model.training_step

    def training_step(**options):
        step = inner(**options)
        call = getattr(step, where)

        def broken(*arguments):
            if step.made == 3 * 10:
                raise MemoryError("no more")
            return call(*arguments)

        setattr(step, where, broken)
        return step

    model.training_step = training_step
    with pytest.raises(MemoryError) as caught:
        run(tmp_path / "run", model=model)
    made = 9 if where == "wait" else 10  # the tenth had no gradients yet
    assert f"update {made} is saved" in caught.value.__notes__[0]
    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert resumed.losses == whole.losses


def test_half_an_update_is_never_saved(tmp_path, monkeypatch):
    from anefast.optim import Optimizer

    inner = Optimizer.update

    def half(self, *arguments):
        done = inner(self, *arguments)
        if self.step == 8:
            raise MemoryError("between two tensors")
        return done

    monkeypatch.setattr(Optimizer, "update", half)
    with pytest.raises(MemoryError) as caught:
        run(tmp_path / "run")
    assert saved(tmp_path / "run") == ["step_000005"]
    assert "update 8 was half made and nothing was saved" in caught.value.__notes__[0]


def test_a_second_signal_waits_for_the_end_of_an_update(tmp_path, monkeypatch):
    from anefast.optim import Optimizer

    inner = Optimizer.update

    def hurried(self, *arguments):
        if self.step == 7:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return inner(self, *arguments)

    monkeypatch.setattr(Optimizer, "update", hurried)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert saved(tmp_path / "run") == ["step_000005", "step_000008"]


# ---- signals ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_polite_end_saves(tmp_path, number):
    before = signal.getsignal(number)
    result = run(
        tmp_path / "run", on_step=lambda row: row["step"] == 7 and os.kill(os.getpid(), number)
    )
    assert result.interrupted and saved(tmp_path / "run")[-1] == "step_000007"
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run(tmp_path / "run", on_step=lambda row: os.kill(os.getpid(), signal.SIGHUP))
        assert not result.interrupted and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_usr1_makes_a_checkpoint_and_goes_on(tmp_path):
    lines: list[str] = []

    def on_step(row):
        if row["step"] == 7:
            os.kill(os.getpid(), signal.SIGUSR1)

    result = run(tmp_path / "run", on_step=on_step, lines=lines, keep_last=9)
    assert not result.interrupted and "step_000007" in saved(tmp_path / "run")
    assert sum("as a signal asked; training goes on" in line for line in lines) == 1
    assert result.losses == run(tmp_path / "whole").losses
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_usr1_of_somebody_else_stays_theirs(tmp_path):
    heard = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        run(tmp_path / "run", steps=2, on_step=lambda row: os.kill(os.getpid(), signal.SIGUSR1))
        assert heard == [signal.SIGUSR1] * 2
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_a_signal_before_the_first_update_leaves_a_run_to_resume(tmp_path):
    model = BigramModel()
    inner = model.training_step

    def training_step(**options):
        step = inner(**options)
        evaluate = step.evaluate

        def first(*arguments):
            if step.made == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            step.evaluate = evaluate
            return evaluate(*arguments)

        step.evaluate = first
        return step

    model.training_step = training_step
    assert run(tmp_path / "run", model=model).interrupted
    assert saved(tmp_path / "run") == ["step_000000"]
    resumed = run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert resumed.losses == run(tmp_path / "whole").losses


def test_a_signal_while_programs_are_compiled_leaves_nothing(tmp_path):
    model = BigramModel()
    model.training_step = lambda **_: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


# ---- after the last update ----


def fails(*_, **__):
    raise RuntimeError("no such piece")


@pytest.mark.parametrize("what", ["sampling", "the disk", "the device", "closing"])
def test_nothing_after_training_voids_it(tmp_path, what, monkeypatch):
    lines: list[str] = []
    model = BigramModel()
    if what == "sampling":
        model.stream = fails
    elif what == "the device":
        model.stream = lambda *_, **__: (_ for _ in ()).throw(_C.EvaluationError("[ane] gone"))
    elif what == "the disk":
        monkeypatch.setattr("anefast.ending.write_atomic", fails)
    else:
        close = Trainer.close
        monkeypatch.setattr(Trainer, "close", lambda self: (close(self), fails()))
    result = run(tmp_path / "run", model=model, lines=lines)
    assert len(result.losses) == 20 and saved(tmp_path / "run")[-1] == "step_000020"
    told = [line for line in lines if "no such piece" in line or "[ane] gone" in line]
    assert len(told) == 1 and any("validation loss" in line for line in lines)


def test_a_prompt_that_no_sample_can_begin_with_is_refused_first(tmp_path):
    with pytest.raises(ConfigError, match=r"prompt of at most 64 tokens .*, got 65"):
        run(tmp_path / "run", prompt="x" * 64)
    assert not (tmp_path / "run").exists()
    assert run(tmp_path / "run", prompt="x" * 63, steps=1).sample == "x" * 63


def test_the_closing_sample_ends_where_training_did(tmp_path):
    lines: list[str] = []
    assert run(tmp_path / "a", steps=1, prompt="ab", lines=lines).sample == "ab" + "." * 29
    assert not any("it ends after" in line for line in lines)
    result = run(tmp_path / "b", steps=1, sample_tokens=50, lines=lines)
    assert result.sample == "." * 31 and result.model.trained_length == 32
    assert any("it ends after 32 tokens" in line for line in lines)
    assert run(tmp_path / "c", steps=1, sample_tokens=5).sample == "....."
    state = json.loads((tmp_path / "c" / "step_000001" / "state.json").read_text())
    assert state[checkpoint.TRAINED_LENGTH] == 32


def test_checkpoints_of_before_have_the_length_of_their_run(tmp_path):
    run(tmp_path / "run", steps=1)
    folder = tmp_path / "run" / "step_000001"
    state = json.loads((folder / "state.json").read_text())
    state[checkpoint.TRAINED_LENGTH] = 48
    for content, length in ((json.dumps(state), 48), ("{}", 32), ("[]", 0), ("{", 0)):
        (folder / "state.json").write_text(content)
        assert checkpoint.load_trained_length(folder) == length
    (folder / "state.json").write_text("{}")
    (tmp_path / "run" / "config.toml").write_text("data = 3")
    assert checkpoint.load_trained_length(folder) == 0


def test_an_old_sample_goes_with_the_weights_it_was_of(tmp_path):
    out = tmp_path / "run"
    run(out, steps=2)
    assert (out / "sample.txt").is_file()
    run(out, resume=str(out), steps=2, sample_tokens=0)  # nothing changed
    assert (out / "sample.txt").is_file()
    run(out, resume=str(out), steps=3, sample_tokens=0)
    assert not (out / "sample.txt").exists()


# ---- what a resumed run is told ----


def test_the_newest_run_has_a_name_in_python_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("runs/a", steps=1)
    assert run("", resume="latest", steps=2).run_dir == Path("runs/a")


def test_fewer_updates_than_made_are_refused(tmp_path):
    out = tmp_path / "run"
    run(out, steps=10)
    before = (out / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match="steps of at least 10, which the run has made, got 7"):
        run(out, resume=str(out), steps=7)
    assert (out / "config.toml").read_bytes() == before
    assert run(out, resume=str(out / "step_000005"), steps=7).losses


def test_an_old_validation_says_of_when_it_is(tmp_path):
    out, lines = tmp_path / "run", []
    stop = lambda row: row["step"] == 7 and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    run(out, on_step=stop)
    run(out, resume=str(out), steps=7, lines=lines)
    told = next(line for line in lines if line.startswith("validation loss"))
    assert "at update 5, not validated since" in told
    run(out, resume=str(out), steps=8, lines=lines)
    assert "at update" not in [line for line in lines if line.startswith("validation loss")][-1]


def test_a_changed_schedule_is_said_as_the_rows_have_it(tmp_path):
    out, lines = tmp_path / "run", []
    run(out, steps=10)
    run(out, resume=str(out), steps=30, lines=lines)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rate = {row["step"]: row["lr"] for row in rows if "lr" in row}
    line = f"lr goes from {rate[10]:.1e} at update 10 to {rate[11]:.1e} at update 11"
    assert sum(line in told for told in lines) == 1
    lines.clear()
    run(out, resume=str(out / "step_000020"), steps=30, lines=lines)
    assert not any("lr goes from" in told for told in lines)


def test_a_rate_that_does_not_change_is_not_said():
    def changed(before, now, step, schedule="cosine"):
        return rate_change(TrainConfig(steps=now, schedule=ScheduleConfig(schedule)), before, step)

    assert changed(10, 10, 5) == changed(10, 20, 0) == changed(10, 20, 20) == []
    assert "cosine is pressed into 300" in changed(400, 300, 200)[0]
    assert changed(400, 300, 200, "constant") == changed(400, 300, 200, "inverse-sqrt") == []
    assert changed(400, 300, 200, "wsd") == [] != changed(400, 300, 250, "wsd")


# ---- before training ----

SMALL = {"batch": 4, "seq_len": 64}  # 256 tokens in a micro-batch


LATE = "and the run has 50, so lr ends at"


@pytest.mark.parametrize(
    "steps,accumulation,warmup,tokens,said",
    [
        (10, 1, 1, 2560, "epochs: 1, as 10 updates of 256 tokens read 2,560"),
        (10, 1, 1, 5120, "epochs: 0.5, as 10 updates of 256 tokens read 5,120. Hint: --steps 20"),
        (1, 1, 0, 2560, "epochs: 0.1, as 1 update of 256 tokens read 2,560"),
        (40, 1, 1, 2560, "epochs: 4, as"),
        (1000, 1, 1, 2560, "epochs: 100, as 1,000 updates of 256 tokens read 2,560. Hint: it will"),
        (20, 100, 1, 12800, "an epoch is 0.5 updates, too few to learn much from it. Hint"),
        (20, 100, 1, 12800, "Hint: --optim.accumulation 5 makes more of them"),
        (20, 100, 1, 128000, "an epoch is 5 updates"),
        (20, 100, 1, 256, "an epoch is 0.01 updates"),
        (10, 100, 1, 256000, "epochs: 1, as 10 updates of 25,600 tokens read 256,000"),
        (20, 1, 1, 128, "one update reads it all. Hint: a smaller --data.batch"),
        (50, 1, 100, 25600, f"it takes 100 updates {LATE} 1.5e-04 of 3.0e-04"),
        (50, 1, 50, 25600, f"it takes 50 updates {LATE} 3.0e-04 of 3.0e-04"),
    ],
)
def test_what_the_numbers_come_to(steps, accumulation, warmup, tokens, said):
    config = TrainConfig.from_preset(
        "bytes", steps=steps, data=SMALL,
        optim={"accumulation": accumulation, "warmup_steps": warmup, "lr": 3e-4},
    )  # fmt: skip
    lines = forecast(config, Epoch(tokens, 64))
    assert sum(said in line for line in lines) == 1, lines
    assert len(lines) == 1 + (warmup >= steps)
    assert all("\n" not in line for line in lines)


def test_the_forecast_comes_before_the_first_loss(tmp_path):
    lines: list[str] = []
    run(tmp_path / "run", steps=1, lines=lines)
    kinds = [line.split()[0] for line in lines]
    assert kinds.index("epochs:") < kinds.index("warm-up:") < kinds.index("step")


# ---- the last sound checkpoint ----


def judged(losses, every=2, overflows=()):
    """The update of the newest sound checkpoint after losses from update 1 on."""
    soundness = Soundness()
    for step, loss in enumerate(losses, 1):
        soundness.update({"step": step, "train/loss": loss, "overflow": step in overflows})
        if step % every == 0:
            soundness.saved(f"{step}")
    return soundness.newest


@pytest.mark.parametrize(
    "losses,overflows,newest",
    [
        ([5, 4, 3, 2, 1, 1], (), "6"),
        ([5, 4, 3, 2, 1, 9], (), "4"),  # 5 on the mean of its two updates
        ([5, 4, 3, 2, 2, 2], (5,), "4"),
        ([5, 4, 3, 2, float("nan"), 2], (), "4"),
        ([5, 4, 3, 2, None, 2], (), "4"),  # as a row has what was not finite
        ([5, 4, 3, 2, float("inf"), 2], (), "4"),
        ([5, 4, 3, 2, 2, 2, 2, 1, 1, 1], (3,), "10"),  # one overflow in a sound run
        ([float("nan")] * 6, range(7), ""),
    ],
)
def test_what_is_sound(losses, overflows, newest):
    assert judged(losses, overflows=overflows) == newest


def test_a_run_that_diverges_keeps_what_was_good(tmp_path):
    """From update 9 on every other update overflows: it goes on, and saves, and never recovers."""
    bad = [3 * step for step in range(8, 40, 2)]
    changes = {"steps": 30, "eval_every": 0, "checkpoint_every": 2, "keep_last": 2}
    run(tmp_path / "run", model=BigramModel(poison=bad), **changes)
    assert saved(tmp_path / "run")[0] == "step_000008"
    # and so does one that was stopped meanwhile
    stop = lambda row: row["step"] == 19 and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    run(tmp_path / "again", model=BigramModel(poison=bad), on_step=stop, **changes)
    resumed = BigramModel(poison=[at - 3 * 19 for at in bad])
    run(tmp_path / "again", model=resumed, resume=str(tmp_path / "again"), **changes)
    assert saved(tmp_path / "again")[0] == "step_000008"


def test_a_hopeless_run_names_the_checkpoint_to_begin_from(tmp_path):
    with pytest.raises(Failure, match=r"lower optim\.lr; --init .*/step_000005 begins before it"):
        run(tmp_path / "run", model=BigramModel(poison=range(3 * 6, 999)), steps=60)


# ---- a terminal that is closed ----

CHILD = """
import sys
from functools import partial
from tests.bigram import DEVICE, BigramModel
from anefast.train import fit, main
def slow(row):
    import time
    time.sleep(0.05)
main(sys.argv[1:], fit=partial(fit, model=BigramModel(), device=DEVICE, on_step=slow))
"""


def test_the_command_outlives_its_terminal(tmp_path):
    """Output and errors closed, then a hangup: a checkpoint, and exit code 0."""
    argv = ["--data", "stories:30", "--data.seq-len", "32", "--steps", "1000", "--out", "run"]
    argv += ["--eval-every", "0", "--eval-batches", "1", "--plan", "unfused"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *argv],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        while "step 1 " not in process.stdout.readline():
            pass
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert saved(tmp_path / "run")

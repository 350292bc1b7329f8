"""Stopping and resuming gives the bytes of a run never stopped; failures leave a run whole."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anefast import _C, checkpoint
from anefast.config import ConfigError
from anefast.errors import Failure
from anefast.telemetry import RunError, arithmetic
from anefast.train import fit

from .bigram import DEVICE, BigramModel, settings


def run(out, *, stop_after=None, micro=None, model=None, **changes):
    """fit with a table for a model; SIGINT after update `stop_after`, or in micro-step `micro`."""
    model = model or BigramModel()
    if micro is not None:
        inner = model.training_step

        def training_step(**options):
            step = inner(**options)
            micro_step = step.micro_step

            def counted(*arguments):
                if step.made == micro:
                    os.kill(os.getpid(), signal.SIGINT)
                return micro_step(*arguments)

            step.micro_step = counted
            return step

        model.training_step = training_step

    def on_step(row):
        if row["step"] == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    return fit(settings(out, **changes), model=model, device=DEVICE, on_step=on_step)


def everything(folder: Path) -> dict[str, object]:
    """What must be equal: metrics rows, and all tensors and the state of the last checkpoint."""
    last = checkpoint.find_checkpoint(folder)
    state = json.loads((last / "state.json").read_text())
    return {
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "model": (last / "model.safetensors").read_bytes(),
        "optim": (last / "optim.safetensors").read_bytes(),
        "state": state,
        "name": last.name,
        "best": (folder / "best.json").read_text(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = run(out)
    assert not result.interrupted and result.val_losses[-1][1] < result.val_losses[0][1] - 0.5
    return everything(out)


@pytest.mark.parametrize(
    "stop,name",
    [({"stop_after": 7}, "step_000007"), ({"micro": 7 * 3 + 1}, "step_000007_micro002")],
    ids=["between updates", "inside an accumulation"],
)
def test_a_stopped_run_resumes_byte_for_byte(tmp_path, whole, stop, name):
    first = run(tmp_path / "run", **stop)
    assert first.interrupted
    assert checkpoint.find_checkpoint(tmp_path / "run").name == name
    grads = [n for n in load_file(tmp_path / "run" / name / "optim.safetensors") if "grad" in n]
    assert bool(grads) == ("micro" in name)
    second = run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert not second.interrupted and len(second.losses) == 20
    assert everything(tmp_path / "run") == whole


def test_what_health_saw_of_an_unfinished_update_is_kept(tmp_path):
    model = BigramModel(poison=[7 * 3])
    run(tmp_path / "whole", model=model)
    run(tmp_path / "run", model=BigramModel(poison=[7 * 3]), micro=7 * 3 + 1)
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    whole = everything(tmp_path / "whole")
    assert everything(tmp_path / "run") == whole
    row = json.loads(whole["metrics"].splitlines()[8])
    assert row["overflow"] and row["health/overflow"] == 1


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_was_not_finite_stays_so(tmp_path, loss):
    def poisoned():
        model = BigramModel(poison=[7 * 3])
        inner = model.training_step

        def training_step(**options):
            step = inner(**options)
            micro_step = step.micro_step

            def lost(*arguments):
                sound, tokens = micro_step(*arguments)
                return loss if step.made - 1 in step.poison else sound, tokens

            step.micro_step = lost
            return step

        model.training_step = training_step
        return model

    run(tmp_path / "whole", model=poisoned())
    run(tmp_path / "run", model=poisoned(), micro=7 * 3 + 1)
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_many_stops(tmp_path, whole):
    run(tmp_path / "run", micro=4)
    for micro in (0, 5, 0, 11):
        run(tmp_path / "run", micro=micro, resume=str(tmp_path / "run"))
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == whole


def test_a_killed_run_drops_the_rows_past_its_checkpoint(tmp_path, whole):
    class Killed(Exception):
        pass

    def on_step(row):
        if row["step"] == 13:
            raise Killed

    with pytest.raises(Killed):
        fit(settings(tmp_path / "run"), model=BigramModel(), device=DEVICE, on_step=on_step)
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 14, "tok')  # the power failed here
    (tmp_path / "run" / ".step_000015.tmp").mkdir()
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == whole
    assert not list((tmp_path / "run").glob(".step*"))


def test_an_older_checkpoint_can_be_resumed(tmp_path, whole):
    run(tmp_path / "run")
    run(tmp_path / "run", resume=str(tmp_path / "run" / "step_000010"))
    assert everything(tmp_path / "run") == whole


def test_a_device_that_computes_otherwise_is_told(tmp_path):
    out = tmp_path / "run"
    run(out, stop_after=1)
    told = []
    for device in (DEVICE.description, "host (AMX-FP16, 2 threads)"):
        sessions = json.loads((out / "env.json").read_text())
        sessions["sessions"][-1]["device"] = device
        (out / "env.json").write_text(json.dumps(sessions))
        lines: list[str] = []
        fit(settings(out, resume=str(out)), model=BigramModel(), device=DEVICE, show=lines.append)
        told.append([line for line in lines if line.startswith("before")])
    line = "before, its device was host (AMX-FP16, 2 threads): results may differ in the last bits"
    assert told == [[], [line]]


def test_threads_are_no_other_arithmetic():
    one, more = (f"host (AVX2 + F16C, {n})" for n in ("1 thread", "16 threads"))
    assert arithmetic(one) == arithmetic(more) == "host (AVX2 + F16C)"


@pytest.mark.parametrize("content", ["{", "[]]", '{"sessions": [1]}', "[" * 99999], ids=range(4))
@pytest.mark.parametrize("name", ["env.json", "config.toml", "state.json"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, name, content):
    out = tmp_path / "run"
    run(out, stop_after=2)
    last = checkpoint.find_checkpoint(out)
    (last / name if name == "state.json" else out / name).write_text(content)
    before = {path: path.read_bytes() for path in last.iterdir()}
    with pytest.raises(ValueError) as refused:
        run(out, resume=str(out))
    assert name in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert before == {path: path.read_bytes() for path in last.iterdir()}


def test_rows_that_are_none_are_dropped(tmp_path, whole):
    run(tmp_path / "run", stop_after=7)
    for name in ("metrics.jsonl", "timings.jsonl"):
        with (tmp_path / "run" / name).open("a") as file:
            file.write("[" * 99999 + "\n")
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == whole


def test_overflow_is_skipped_reported_and_resumed(tmp_path):
    poison = [3 * 4 + 1]  # update 5 of 20
    a = run(tmp_path / "a", model=BigramModel(poison=poison))
    rows = [json.loads(r) for r in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    bad = rows[5]
    assert bad["overflow"] and bad["grad_norm"] is None and bad["loss_scale"] == 128.0
    assert not rows[6]["overflow"] and rows[6]["loss_scale"] == 64.0
    assert len(a.losses) == 20 and math.isfinite(a.losses[4])
    run(tmp_path / "b", model=BigramModel(poison=poison), stop_after=6)
    run(tmp_path / "b", resume=str(tmp_path / "b"))
    assert everything(tmp_path / "b") == everything(tmp_path / "a")


class Fails(BigramModel):
    """Its device fails once: while weights are handed over, in a validation, or in a micro-step."""

    def __init__(self, where: str, at: int, **more):
        super().__init__(**more)
        self.where, self.at = where, at

    def training_step(self, **options):
        step = super().training_step(**options)
        inner = getattr(step, self.where)

        def failing(*arguments):
            if step.made == self.at:
                raise _C.EvaluationError("[fake] failed")
            return inner(*arguments)

        setattr(step, self.where, failing)
        return step


@pytest.mark.parametrize("resumed_twice", [False, True])
@pytest.mark.parametrize(
    "where,update,poison,changes",
    [
        ("update_weights", 5, [], {}),
        ("update_weights", 7, [], {}),  # where no validation is due
        ("update_weights", 20, [], {}),
        ("evaluate", 5, [], {}),
        ("evaluate", 5, [3 * 4 + 1], {}),  # an update that overflowed
        ("evaluate", 5, [], {"checkpoint_every": 4}),  # nor a checkpoint
        ("evaluate", 20, [], {}),
    ],
)
def test_a_failed_device_leaves_nothing_out(
    tmp_path, where, update, poison, changes, resumed_twice
):
    run(tmp_path / "a", model=BigramModel(poison=poison), **changes)
    with pytest.raises(Failure, match=f"Update {update} is saved"):
        run(tmp_path / "b", model=Fails(where, 3 * update, poison=poison), **changes)
    again = {"resume": str(tmp_path / "b"), **changes}
    if resumed_twice and update % 5 == 0:  # its first validation fails too
        with pytest.raises(Failure, match=f"Update {update} is saved"):
            run(tmp_path / "b", model=Fails("evaluate", 0), **again)
    result = run(tmp_path / "b", **again)
    assert len(result.losses) == 20
    assert everything(tmp_path / "b") == everything(tmp_path / "a")


def test_endless_overflow_gives_up(tmp_path):
    with pytest.raises(Failure, match="30 updates in a row were not finite"):
        run(tmp_path / "run", model=BigramModel(poison=range(1000)), steps=40)


def test_loss_scale_does_not_change_the_training(tmp_path):
    for name, initial in (("a", 1.0), ("b", 1024.0)):
        run(tmp_path / name, loss_scale={"initial": initial, "dynamic": False})
    a, b = (load_file(tmp_path / n / "step_000020" / "model.safetensors") for n in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_accumulating_equals_one_large_batch(tmp_path):
    order = {"order": "sequential"}
    one = run(tmp_path / "a", steps=5, data={"batch": 6, **order}, optim={"accumulation": 1})
    three = run(tmp_path / "b", steps=5, data={"batch": 2, **order}, optim={"accumulation": 3})
    np.testing.assert_allclose(one.losses, three.losses, rtol=1e-6)


def test_keeps_the_last_three_and_the_best(tmp_path):
    class Overfits(BigramModel):
        """Its validation loss rises with every update; the trainer cannot know why."""

        def training_step(self, **options):
            step = super().training_step(**options)

            def evaluate(x, y):
                step.nll = np.full(y.shape, 100.0 + step.made, np.float32)

            step.evaluate = evaluate
            return step

    result = run(tmp_path / "run", model=Overfits())
    assert result.val_losses == [(s, 100.0 + 3 * s) for s in (0, 5, 10, 15, 20)]
    kept = [c.name for c in checkpoint.checkpoints(tmp_path / "run")]
    assert checkpoint.best_checkpoint(tmp_path / "run") == "step_000005"
    assert kept == [f"step_{s:06d}" for s in (5, 10, 15, 20)]
    result = run(tmp_path / "run2", steps=40)
    kept = [c.name for c in checkpoint.checkpoints(tmp_path / "run2")]
    assert kept == [f"step_{s:06d}" for s in (30, 35, 40)]
    assert (tmp_path / "run" / "latest").resolve().name == "step_000020"


def test_more_steps_after_the_end(tmp_path):
    run(tmp_path / "run")
    again = run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert not again.interrupted and len(again.losses) == 20
    more = run(tmp_path / "run", resume=str(tmp_path / "run"), steps=25)
    assert len(more.losses) == 25


def test_a_resumed_run_is_the_same_run(tmp_path):
    run(tmp_path / "run", stop_after=3)
    for changes in ({"optim": {"lr": 0.2}}, {"data": {"batch": 4}}):
        with pytest.raises(ConfigError, match="was started with"):
            run(tmp_path / "run", resume=str(tmp_path / "run"), **changes)
    other = BigramModel()
    other.params["norm"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="holds another model: norm"):
        run(tmp_path / "run", resume=str(tmp_path / "run"), model=other)


def test_changed_data_is_noticed(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Once there was a cat. " * 200)
    run(tmp_path / "run", stop_after=3, data={"source": str(text)})
    text.write_text("Once there was a dog. " * 200)
    with pytest.raises(ConfigError, match="the data is not what"):
        run(tmp_path / "run", resume=str(tmp_path / "run"), data={"source": str(text)})


def test_a_used_folder_is_left_alone(tmp_path):
    run(tmp_path / "run", stop_after=2)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="already holds"):
        run(tmp_path / "run")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_run_in_use_is_left_alone(tmp_path):
    run(tmp_path / "run", stop_after=2)
    seen = []

    def on_step(row):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}") as caught:
            run(tmp_path / "run", resume=str(tmp_path / "run"))
        seen.append(str(caught.value))

    config = settings(tmp_path / "run", resume=str(tmp_path / "run"), steps=3)
    fit(config, model=BigramModel(), device=DEVICE, on_step=on_step)
    assert len(seen) == 1


def test_a_failed_start_leaves_no_folder(tmp_path):
    model = BigramModel()
    model.training_step = lambda **_: (_ for _ in ()).throw(ValueError("[plan] no"))
    with pytest.raises(ValueError, match="no"):
        run(tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


def test_second_signal_quits(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def on_step(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        fit(settings(tmp_path / "run"), model=BigramModel(), device=DEVICE, on_step=on_step)
    assert signal.getsignal(signal.SIGINT) == before


CHILD = """
import resource, signal, sys
from functools import partial
from tests.bigram import DEVICE, BigramModel, settings
from anefast.cli import guarded
from anefast.train import fit, terminal
what, out = sys.argv[1:3]
def limit(row):
    if row["step"] == 12:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
def slow(row):
    import time
    time.sleep(0.2)
hook = {"full": limit, "slow": slow, "pipe": None}[what]
screen = terminal()
code = guarded(partial(fit, settings(out), model=BigramModel(), device=DEVICE, on_step=hook,
                       show=screen.say))
screen.close()
sys.exit(code)
"""


def child(what, out, **options):
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, what, str(out)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path):
    with child("full", tmp_path / "run") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.count("\n") == 1 and "step_000010 is whole" in errors, errors
    assert checkpoint.find_checkpoint(tmp_path / "run").name == "step_000010"
    checkpoint.load_state(checkpoint.find_checkpoint(tmp_path / "run"))
    assert not list((tmp_path / "run").glob(".step*"))


def test_sigterm_saves_and_leaves_with_0(tmp_path, whole):
    with child("slow", tmp_path / "run") as process:
        while "step 2 " not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    assert f"continue with: anefast train --resume {tmp_path / 'run'}" in output
    run(tmp_path / "run", resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == whole


def test_a_reader_that_leaves_does_not_end_the_training(tmp_path, whole):
    with child("pipe", tmp_path / "run") as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and errors == ""
    assert everything(tmp_path / "run") == whole

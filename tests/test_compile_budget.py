"""Async runs and runs that change process at their compile budget repeat byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("anefast._C", reason="the native module is not built", exc_type=ImportError)

from anefast import restart
from anefast.config import ConfigError, TrainConfig
from anefast.fuse import find_plan
from anefast.model import Model
from anefast.runtime import CompileBudgetError
from anefast.telemetry import read_rows
from anefast.train import fit

from .test_resume import everything

ROOT = Path(__file__).resolve().parent.parent
NESTED = {
    "model": {"dim": 32, "n_layers": 1, "n_heads": 2, "max_seq_len": 32},
    "data": {"source": "stories:50", "seq_len": 32, "batch": 1},
    "optim": {"lr": 1e-2, "warmup_steps": 2, "accumulation": 6},
}
PLAIN = {"steps": 9, "eval_every": 4, "eval_batches": 1, "sample_tokens": 0, "device": "host"}
SWAP = {"swap_after": 0.5}  # after 3 of 6 micro-steps
START, UPDATE = 6, 5  # compiles: one of the six programs has no weights


def swap(plan):
    return SWAP if "async" in plan else {}  # without, nothing swaps, and naming it is refused


def config(out, plan="unfused,async", **changes):
    settings = {**NESTED, **PLAIN, "plan": plan, "out": str(out), **swap(plan), **changes}
    return TrainConfig.from_preset("bytes", **settings)


@pytest.fixture(scope="module", params=["unfused,async", "unfused"])
def whole(request, tmp_path_factory):
    """(plan, folder, everything) of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    result = fit(config(out, request.param))
    assert result.val_losses[-1][1] < result.val_losses[0][1] - 0.2
    return request.param, out, everything(out)


def stop_in(monkeypatch, *micro_steps):
    """SIGINT in these micro-steps, counted over a process."""
    training_step = Model.training_step

    def counting(self, **options):
        step = training_step(self, **options)
        inner, made = step.micro_step, 0

        def micro_step(*arguments):
            nonlocal made
            if made in micro_steps:
                os.kill(os.getpid(), signal.SIGINT)
            made += 1
            return inner(*arguments)

        step.micro_step = micro_step
        return step

    monkeypatch.setattr(Model, "training_step", counting)


@pytest.mark.parametrize(
    "micro,saved",
    [(6, 9), (7, 9), (8, 9), (9, 10), (11, 15)],
    ids=["first stale", "stale", "last stale", "at the swap", "last before an update"],
)
def test_a_stop_waits_for_the_swap_and_resumes(whole, tmp_path, monkeypatch, micro, saved):
    plan, _, expected = whole
    if "async" not in plan:
        saved = micro + 1
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(patch, micro)
        assert fit(config(out, plan)).interrupted
    state = json.loads((out / "latest" / "state.json").read_text())
    assert state["step"] * 6 + state["micro"] == saved
    fit(config(out, plan, resume=str(out)))
    assert everything(out) == expected


def test_timings_tell_of_staleness_and_metrics_do_not(whole):
    plan, out, _ = whole
    rows = read_rows(out / "timings.jsonl")[1:]
    for row in rows:
        settled = row["step"] in (5, 9)  # by the validation after update 4 and 8
        stale = 0 if "async" not in plan or settled or row["step"] == 1 else 3
        assert (row["stale_micro_steps"], row["staleness"]) == (stale, int(stale > 0)), row
        assert row["compile_ms"] >= 0 and row["process_compiles"] > 0
    assert {"staleness", "stall_ms", "cache_hits"} <= set(rows[0])
    names = {n for r in read_rows(out / "metrics.jsonl") for n in r}
    assert not names & {"staleness", "stalled_steps", "compiles", "compile_ms"}
    if "async" not in plan:
        assert [r["stalled_steps"] for r in rows] == [1] * 9


def test_async_cannot_become_sync_in_mid_run(whole):
    plan, out, _ = whole
    other = "unfused" if "async" in plan else "unfused,async"
    with pytest.raises(ConfigError, match="expected a plan with async as before"):
        fit(config(out, plan, resume=str(out)).replace(plan=other))


def command(out, plan, *flags):
    settings = {
        **PLAIN, **swap(plan), "plan": plan, "preset": "bytes", "out": str(out),
        **{f"{section}.{k}": v for section, part in NESTED.items() for k, v in part.items()},
    }  # fmt: skip
    words = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    return subprocess.run(
        [sys.executable, "-m", "anefast.train", *words, *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_process_replaces_itself_and_the_run_goes_on(whole, tmp_path):
    plan, _, expected = whole
    out = tmp_path / "run"
    limit = str(START + 4 * UPDATE + 3)
    done = command(out, plan, "--max-compiles", limit, "--on-budget", "checkpoint-restart")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert everything(out) == expected
    assert done.stdout.count(f"{limit} compiles are used up; a new process goes on") == 2
    sessions = json.loads((out / "env.json").read_text())["sessions"]
    assert [s["restarts"] for s in sessions] == [0, 1, 2]
    rows = read_rows(out / "timings.jsonl")
    assert max(r.get("process_compiles", 0) for r in rows) <= int(limit)


def test_the_budget_may_be_passed_with_one_warning(whole, tmp_path):
    plan, _, expected = whole
    done = command(tmp_path / "run", plan, "--max-compiles", "20")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("has used its budget of 20 compiles, and goes on") == 1
    assert everything(tmp_path / "run") == expected


def test_where_no_process_can_be_started_the_run_is_refused(tmp_path):
    limited = config(tmp_path / "run", max_compiles=1, on_budget="checkpoint-restart")
    with pytest.raises(CompileBudgetError, match="9 updates within max_compiles 1, but each takes"):
        fit(limited)
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 1


def test_a_budget_below_one_update_is_refused(tmp_path):
    done = command(
        tmp_path / "run", "unfused", "--max-compiles", str(START + UPDATE - 1),
        "--on-budget", "checkpoint-restart",
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"max_compiles of at least {START + UPDATE}, which the start" in done.stderr


def test_plans_without_baked_weights_never_need_a_restart(tmp_path):
    assert find_plan("all,weights=params").weights == "params"
    out = tmp_path / "run"
    fit(config(out, "all,weights=params", max_compiles=1, on_budget="checkpoint-restart", steps=2))
    assert [r["compiles"] for r in read_rows(out / "timings.jsonl")[1:]] == [2, 0]


def test_the_command_keeps_the_interpreters_options(monkeypatch):
    words = ["python", "-X", "dev", "-W", "error", "-m", "anefast.train", "--steps", "9"]
    monkeypatch.setattr(sys, "orig_argv", words)
    tail = ["-m", "anefast.train", "--resume", "runs/a"]
    assert restart.command(Path("runs/a")) == [sys.executable, *words[1:5], *tail]
    monkeypatch.setattr(sys, "orig_argv", ["anefast-train", "--steps", "9"])
    assert restart.command(Path("runs/a")) == [sys.executable, *tail]
    monkeypatch.setenv(restart.COUNT, "3")
    assert restart.restarts() == 3


def test_restarts_are_paced(monkeypatch):
    said, slept = [], []
    monkeypatch.setattr(restart.time, "sleep", slept.append)
    monkeypatch.setattr(restart, "BEGAN", restart.time.monotonic() - 10)
    restart.pace(said.append)
    assert len(slept) == 1 and 19 < slept[0] <= 20 and "waiting 20 s: quick restarts" in said[0]
    monkeypatch.setattr(restart, "BEGAN", restart.time.monotonic() - 31)
    restart.pace(said.append)
    assert len(slept) == len(said) == 1


def test_a_restart_that_fails_to_compile_is_the_last(monkeypatch, capfd):
    from anefast import _C, train

    def fails(*_, **__):
        raise _C.CompileError("[compile] ANECCompile() FAILED.")

    for count, said in (
        ("0", "[compile] ANECCompile() FAILED."),
        ("2", "[compile] restart 2 failed"),
    ):
        monkeypatch.setenv(restart.COUNT, count)
        with pytest.raises(SystemExit) as left:
            train.main(["--steps", "1"], fit=fails)
        err = capfd.readouterr().err
        assert left.value.code == 1 and err.startswith(said) and len(err.splitlines()) == 1
    assert "there is no other try" in err and "reboot" in err

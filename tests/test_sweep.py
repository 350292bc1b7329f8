"""Several runs of one command: what a sweep's file means, and that nothing of it is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anefast.cli import newest_run, sweep_of, train_config
from anefast.config import ConfigError, TrainConfig
from anefast.report import ReportConfig, report
from anefast.sweep import begin, sweep_in
from anefast.sweep.points import read_points
from anefast.sweep.runs import typed, without
from anefast.telemetry.history import read_history
from anefast.train import fit

SMALL = [
    "--preset", "bytes", "--steps", "6", "--data", "stories:50", "--seq-len", "32", "--batch", "2",
    "--eval-every", "3", "--eval-batches", "2", "--plan", "all", "--device", "host",
    "--sample-tokens", "0", "--model.dim", "32", "--model.n-heads", "2", "--model.n-layers", "1",
]  # fmt: skip
TRAIN = [sys.executable, "-m", "anefast", "train"]


def points(folder: Path, text: str) -> list[dict]:
    (folder / "p.toml").write_text(text)
    return read_points(folder / "p.toml")


def test_every_combination_in_order(tmp_path):
    found = points(tmp_path, '[settings]\nlr = [1, 2e-3]\n"optim.name" = ["adamw", "lion"]')
    rates, names = (1.0, 2e-3), ("adamw", "lion")
    assert found == [{"optim.lr": lr, "optim.name": name} for lr in rates for name in names]
    assert all(type(point["optim.lr"]) is float for point in found)
    assert points(tmp_path, "[settings.optim]\nlr = [1.0]\n[settings]\nsteps = [2]") == [
        {"optim.lr": 1.0, "steps": 2}
    ]


RANDOM = """
random = 200
seed = {seed}
[settings]
lr = {{from = 1e-4, to = 1e-1, log = true}}
batch = {{from = 2, to = 5}}
clip = {{from = 0.5, to = 2}}
seq_len = [32, 64]
"""


def test_drawn_points_are_a_function_of_the_seed_and_lie_within_their_ends(tmp_path):
    drawn = points(tmp_path, RANDOM.format(seed=1))
    assert drawn == points(tmp_path, RANDOM.format(seed=1))
    assert drawn != points(tmp_path, RANDOM.format(seed=2))
    columns = {name: np.array([point[name] for point in drawn]) for name in drawn[0]}
    rates = columns["optim.lr"]
    assert 1e-4 <= rates.min() and rates.max() <= 1e-1
    assert 0.3 < np.mean(rates < np.sqrt(1e-5)) < 0.7  # the middle of the logarithm
    assert 0.3 < np.mean(columns["optim.clip"] < 1.25) < 0.7
    assert set(columns["data.batch"]) == {2, 3, 4, 5}
    assert len({tuple(point.values()) for point in drawn}) == 200


def test_no_more_are_drawn_than_there_are(tmp_path):
    assert len(points(tmp_path, "random = 9\n[settings]\nlr = [1, 2]\nsteps = [3, 4]")) == 4
    assert len(points(tmp_path, "random = 9\n[settings]\nsteps = {from = 3, to = 5}")) == 3


REFUSED = {
    "[settings]\nlrr = [1]": r"unknown setting 'lrr' in .*p.toml. Hint: did you mean optim.lr",
    "[settings]\nlr = ['x']": r"optim.lr expected float, got 'x' .* in .*p.toml",
    "[settings]\nlr = 3": r"optim.lr .* values in brackets, got 3. Hint: lr = \[",
    "[settings]\nlr = []": "values in brackets",
    "[settings]\nlr = [1, 1]": "has 1.0 twice. Hint: --seeds 3",
    "[settings]\nout = ['a']": "out .* must be the same in all runs of a sweep. Hint: ",
    "[settings]\nlr = {from = 1, to = 2}": "optim.lr .* is a range.* Hint: random = 20",
    "random = 2\n[settings]\nlr = {from = 2, to = 1}": "to rise from a number, got 2 to 1. Hint",
    "random = 2\n[settings]\nlr = {from = 0, to = 1, log = true}": "a number above 0, got 0 to 1",
    "random = 2\n[settings]\nlr = {from = 1}": "from and to of optim.lr",
    "random = 2\n[settings]\nplan = {from = 1, to = 2}": "plan .* is not a number",
    "random = -1\n[settings]\nlr = [1]": "random .* to be a whole number, got -1",
    "random = 2000\n[settings]\nlr = [1]": "random .* 1,000 at most",
    "lr = [1]": r"unknown key 'lr' in .*. Hint: settings come below \[settings\]",
    "randm = 2": "unknown key 'randm' in .*. Hint: did you mean random",
    "": "expected settings to vary in .*, got none. Hint",
    "[settings": "to hold TOML: Expected",
    f"[settings]\nsteps = {list(range(1, 50))}\nbatch = {list(range(1, 50))}": "2,401 combinations",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(ValueError, match=REFUSED[text]) as refused:
        points(tmp_path, text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text,flags,line",
    [
        ("[settings]\nseq_len = [32, 33]", [], r"32, got 33.*, in the run with seq_len 33"),
        ("[settings]\nname = ['wsd']\n[settings.optim]\nlr = [1]", [], "unknown setting 'name'"),
        ("[settings]\nprompt = ['a']", ["--sample-tokens", "0"], "prompt begins the closing"),
        ("[settings]\nseed = [1, 2]", ["--seeds", "2"], "seed is in .* and seeds 2 was named too"),
        ("[settings]\nlr = [1]", ["--trace", "t.json"], "trace is of one run"),
        ("[settings]\nlr = [1]", ["--data", "-"], "is a pipe, which can be read once"),
    ],
)  # fmt: skip
def test_all_runs_are_checked_before_the_first(tmp_path, text, flags, line):
    (tmp_path / "p.toml").write_text(text)
    words = [*flags, "--sweep", f"{tmp_path / 'p.toml'}"]
    with pytest.raises(ConfigError, match=line):
        begin(train_config(words)[0], words, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_launcher_of_ranks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="mpiexec trains one run"):
        begin(TrainConfig(seeds=2), [], tmp_path / "runs")


def test_fit_trains_one_run():
    for asked in ({"seeds": 2}, {"sweep": "p.toml"}):
        with pytest.raises(
            ConfigError, match=r"\[fit\] .* was named, and fit trains one run. Hint"
        ):
            fit(TrainConfig(**asked))


def test_runs_have_the_flags_of_the_command_and_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("steps = 5\nseeds = 2\nlr = 0.5\ndata.seed = 7")
    words = ["run.toml", "--seed", "3", "--no-timeline", "--optim.clip=0", "--out", "x"]
    sweep = begin(train_config(words)[0], words, Path("x"))
    Path("run.toml").write_text("steps = 9")  # too late: what was begun with is kept
    again = sweep_in(Path("x"))
    assert [r.arguments for r in again.runs()] == [r.arguments for r in sweep.runs()]
    configs = [train_config(run.arguments)[0] for run in again.runs()]
    assert [(c.seed, c.data.seed) for c in configs] == [(3, 7), (4, 8)]
    assert all(
        (c.steps, c.seeds, c.out, c.optim.lr, c.optim.clip, c.timeline) == (5, 1, "", 0.5, 0, False)
        for c in configs
    )


def test_flags_are_taken_away_and_written_as_train_reads_them():
    words = ["--lr", "1", "--optim.lr=2", "--optim.nesterov", "--seed", "-1", "--model.no-tied"]
    assert without(words, {"optim.nesterov", "model.tied", "seed"}) == words[:3]
    assert typed({"optim.nesterov": True, "model.tied": False, "optim.lr": 1e-3, "out": ""}) == [
        "--optim.nesterov", "--model.no-tied", "--optim.lr=0.001", "--out=",
    ]  # fmt: skip


def run(words: list[str], folder: Path, code: int = 0) -> str:
    done = subprocess.run([*TRAIN, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two rates and one that diverges, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "p.toml").write_text("[settings]\nlr = [1e9, 1e-3, 3e-3]")
    return folder, run([*SMALL, "--sweep", "p.toml", "--out", "s"], folder)


def test_a_table_has_the_best_first_and_a_run_that_fails_is_a_row(swept):
    folder, said = swept
    rows = said[said.index("best first") :].splitlines()
    assert [re.split("  +", row)[0] for row in rows[1:4]] == [
        "lr 0.003",
        "lr 0.001",
        "lr 1000000000.0",
    ]
    best = {row.split("  ")[0]: float(re.search(r"\d+\.\d{4}", row)[0]) for row in rows[1:4]}
    for place, lr in ((2, "0.001"), (3, "0.003")):
        history = read_history(folder / f"s/{place}-lr={lr}")
        values = history.series("val/bits_per_byte").values
        assert best[f"lr {lr}"] == pytest.approx(min(values), abs=5e-5)
    assert [row.split()[-1] for row in rows[1:4]] == ["finished", "finished", "failed"]
    assert rows[4].startswith("1-lr=1000000000.0: [fill] expected ")
    assert rows[5] == "try: anefast report s"


def test_a_run_of_a_sweep_is_a_run_like_any_other(swept):
    folder, _ = swept
    run([*SMALL, "--lr", "3e-3", "--seed", "0", "--out", "alone"], folder)
    rows = [(folder / name / "metrics.jsonl").read_bytes() for name in ("alone", "s/3-lr=0.003")]
    assert rows[0] == rows[1]


def test_a_report_shows_all_runs_of_a_sweep(swept, capsys):
    folder, _ = swept
    report(ReportConfig((str(folder / "s"),), text=True))
    said = capsys.readouterr().out
    assert all(name in said for name in ("2-lr=0.001", "3-lr=0.003", "1-lr=1000000000.0"))


def test_a_sweep_in_use_is_refused_and_goes_on_alone(swept, monkeypatch):
    folder, _ = swept
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"holds a sweep\. Hint: --resume s goes on"):
        begin(TrainConfig(seeds=2), [], Path("s"))
    assert sweep_of(["--resume", "s"]) == Path("s")
    assert sweep_of(["--resume", "s/3-lr=0.003"]) is None
    with pytest.raises(
        ConfigError, match=r"resumes with its own settings, but --optim\.lr was given"
    ):
        sweep_of(["--resume", "s", "--lr", "1"])
    assert newest_run(Path(".")).name in ("s", "alone")


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    """The whole of it at once: its run ends too, and nothing that was finished is trained again."""
    words = [*SMALL, "--steps", "150", "--seeds", "2", "--checkpoint-every", "10"]
    process = subprocess.Popen([*TRAIN, *words, "--out", "s"], cwd=tmp_path)
    second = tmp_path / "s" / "seed=1" / "metrics.jsonl"
    until(lambda: second.exists() and second.stat().st_size > 6_000)
    process.kill()
    process.wait()
    first = (tmp_path / "s" / "seed=0" / "metrics.jsonl").stat()
    lock = second.with_name("run.lock")
    until(lambda: not lock.read_text().strip())  # the orphan saved, and gave its folder free
    said = run(["--resume", "s"], tmp_path)
    assert (tmp_path / "s" / "seed=0" / "metrics.jsonl").stat() == first
    assert "run 2 of 2: seed 1, in s/seed=1" in said and "resumed from" in said
    assert re.search(r"\nmean  .* to .*2 finished\n", said)
    run([*words, "--seeds", "1", "--seed", "1", "--data.seed", "1", "--out", "alone"], tmp_path)
    assert second.read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()


def test_control_c_saves_and_says_how_to_go_on(tmp_path):
    words = [*SMALL, "--steps", "4000", "--seeds", "2", "--out", "s"]
    process = subprocess.Popen([*TRAIN, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    rows = tmp_path / "s" / "seed=0" / "metrics.jsonl"
    until(lambda: rows.exists() and rows.stat().st_size > 2_000)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "continue with: anefast train --resume s\n" in said
    assert "stopped: 0 of 2 runs are done" in said and "run 2 of 2" not in said
    assert read_history(rows.parent).state == "interrupted" and (rows.parent / "latest").exists()


def until(what, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_out_of_patience_has_ended_early(tmp_path):
    words = [*SMALL, "--steps", "40", "--patience", "2", "--lr", "0", "--out", str(tmp_path / "r")]
    fit(train_config(words)[0])
    assert read_history(tmp_path / "r").state == "ended early"

"""Every flag of every other command: nonsense is one line, before anything is opened."""

from __future__ import annotations

import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from anefast import checkpoint, spelling
from anefast.bench.__main__ import BenchCommand
from anefast.bench.__main__ import run as bench
from anefast.chat import ChatConfig, talk
from anefast.cli import command, newest_run, read_settings, run_of
from anefast.completion import CompletionConfig, completion
from anefast.config import ConfigError, TrainConfig, keys
from anefast.doctor.__main__ import DoctorCommand, examine
from anefast.eval import EvalConfig
from anefast.eval import run as score
from anefast.export import ExportConfig, export
from anefast.flags import flag_names, repeated
from anefast.generate import GenerateConfig, generate
from anefast.inspect import InspectConfig, inspect
from anefast.lint import LintCommand
from anefast.lint import run as lint
from anefast.model import Model
from anefast.plan import PlanCommand
from anefast.plan import report as plan
from anefast.replay import ReplayConfig, replay
from anefast.report import ReportConfig, report
from anefast.serve.__main__ import ServeConfig, serve
from anefast.tokenizer import open_tokenizer

from .test_wishes import SHAPE

ROOT = Path(__file__).resolve().parent.parent
NUMBER = ["nan", "inf", "-1", "x"]
ANY = ()  # every value means something, or it is checked where it is used
# command: its flags, each with values that it refuses, and what the line says besides the flag
COMMANDS = {
    GenerateConfig: (
        generate,
        ["nowhere"],
        {
            "model": ANY,
            "adapter": ANY,
            "prompt": ANY,
            "chat": [None],  # without --prompt
            "tokens": ["-1", "nan", "2.5"],
            "temperature": NUMBER,
            "top_k": ["-1", "nan", "0.5"],
            "top_p": [*NUMBER, "0", "1.5"],
            "min_p": [*NUMBER, "1.5"],
            "repetition_penalty": [*NUMBER, "0"],
            "seed": ["-1", "nan", "0.5"],
            "num": ["0", "-1", "x"],
            "stop": [""],
            "speculate": ANY,
            "draft": ANY,  # tests/test_decode.py
            "slide": ANY,
            "log_probabilities": ANY,
            "tokenizer": ANY,
            "padded": [None],  # without --tokenizer
            "device": ["gpu", ""],
            "chip": ["m9"],
        },
    ),
    PlanCommand: (
        plan,
        [],
        {
            "preset": ["tinny"],
            "chip": ["m9"],
            "batch": ["-1", "nan"],
            "seq_len": ["-1", "100"],
            "accumulation": ["-1", "x"],
            "plan": ["all", "auto,fast"],
            "device": ["gpu"],
            "max_compiles": ["0", "-5"],
            "optimizer": ["lyon"],
            "lora": ANY,  # tests/test_plan_command.py
        },
    ),
    BenchCommand: (
        bench,
        [],
        {
            "tables": ANY,
            "quick": ANY,
            "chip": ["m9", ""],
            "device": ["gpu"],
            "json": ["none/out.json"],
            "held_out": ANY,
            "refuse_busy": ANY,
        },
    ),
    DoctorCommand: (
        examine,
        [],
        {
            "device": ["gpu"],
            "chip": ["m9"],
            "probe": ANY,
            "quick": [None],  # without --probe
            "dist": ANY,
            "json": ["none/out.json"],
        },
    ),
    LintCommand: (
        lint,
        [],
        {
            "files": ANY,
            "chip": ["m9"],
            "os": ["tahoe"],
            "format": ["xml"],
            "fail_on": ["hint"],
            "fix": [None],  # without a file
            "list": ANY,
            "coverage": ANY,
            "doctor": ANY,
        },
    ),
    ReplayConfig: (
        replay,
        ["nowhere"],
        {
            "folder": ANY,
            "device": ["gpu"],
            "chip": ["m9"],
            "tolerance": NUMBER,
        },
    ),
    ChatConfig: (
        talk,
        ["nowhere"],
        {
            "model": ANY,
            "adapter": ANY,
            "system": ANY,
            "tokens": ["-1", "nan", "2.5"],
            "temperature": NUMBER,
            "top_k": ["-1", "nan", "0.5"],
            "top_p": [*NUMBER, "0", "1.5"],
            "min_p": [*NUMBER, "1.5"],
            "repetition_penalty": [*NUMBER, "0"],
            "seed": ["-1", "nan", "0.5"],
            "device": ["gpu", ""],
            "chip": ["m9"],
        },
    ),
    EvalConfig: (
        score,
        ["nowhere"],
        {
            "model": ANY,
            "data": ["", "missing.txt"],
            "context": ["-1", "x"],
            "tokens": ["-1", "x"],
            "apart": ANY,
            "tokenizer": ANY,
            "device": ["gpu"],
            "chip": ["m9"],
        },
    ),
    ServeConfig: (
        serve,
        ["nowhere"],
        {
            "model": ANY,
            "adapter": ANY,
            "host": [""],
            "port": ["-1", "65536", "x"],
            "name": ANY,
            "batch": ["0", "-1", "257", "x"],
            "queue": ["0", "-1", "x"],
            "tokens": ["-1", "2.5"],
            "tokenizer": ANY,
            "padded": ANY,
            "device": ["gpu", ""],
            "chip": ["m9"],
        },
    ),
    ExportConfig: (
        export,
        ["nowhere", "out"],
        {
            "model": ANY,
            "out": ANY,
            "to": ["onnx"],
            "dtype": ["int3"],
            "tokenizer": ANY,
            "adapter": ANY,
            "merge": ANY,
            "ema": ANY,
        },
    ),
    InspectConfig: (inspect, ["nowhere"], {"model": ANY, "tokenizer": ANY}),
    CompletionConfig: (completion, [], {"shell": ANY}),
    ReportConfig: (report, ["nowhere"], {"runs": ANY, "out": ANY, "text": ANY}),
}


def typed(name: str, value: str | None) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None else f"{flag}={value}"


ROWS = [
    (kind, [*start, typed(name, value)])
    for kind, (_, start, flags) in COMMANDS.items()
    for name, values in flags.items()
    for value in values
]


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_flag_has_a_row(kind):
    assert list(COMMANDS[kind][2]) == list(kind.__dataclass_fields__)


@pytest.mark.parametrize("kind,argv", ROWS, ids=[f"{k.__name__} {a[-1]}" for k, a in ROWS])
def test_nonsense_is_refused_in_one_line(tmp_path, monkeypatch, capfd, kind, argv):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        command(kind, COMMANDS[kind][0], argv)
    out, err = capfd.readouterr()
    assert left.value.code == 2 and err.count("\n") == 1 and err.startswith("["), err
    assert "nowhere" not in err and out == "", (out, err)  # a bad flag comes before a bad file


def refused(capfd, kind, *argv):
    with pytest.raises(SystemExit) as left:
        command(kind, COMMANDS[kind][0], list(argv))
    out, err = capfd.readouterr()
    assert left.value.code == 2 and err.count("\n") == 1 and out == ""
    return err


def test_flags_that_leave_each_other_no_effect(capfd):
    assert "--text prints" in refused(capfd, ReportConfig, "run", "--text", "--out", "x")
    assert "--list prints" in refused(capfd, LintCommand, "--list", "--chip", "m1")
    assert "--coverage prints" in refused(capfd, LintCommand, "--coverage", "--fix")
    assert "--held-out works with" in refused(capfd, BenchCommand, "ffn", "--held-out")
    assert "both given" in refused(capfd, PlanCommand, "--chip", "m1", "--device", "ane")
    both = refused(capfd, GenerateConfig, "x", "--draft=y", "--no-speculate")
    assert "contradict each other" in both
    assert "expected no chip" in refused(capfd, GenerateConfig, "x", "--chip=m1", "--device=ane")


def test_text_is_generated_alike_by_command_and_by_python():
    command_line = GenerateConfig("run")
    for call in (Model.generate, Model.stream, Model.reply):
        usual = {n: p.default for n, p in signature(call).parameters.items()}
        for name in ("tokens", "temperature", "top_k", "top_p", "seed"):
            assert usual[name] == getattr(command_line, name), name


# What people type from habit, and the flag that does it here. None: there is none, which is said.
HABITS = {
    "--lr": "--optim.lr",
    "--learning-rate": "--optim.lr",
    "--learning_rate": "--optim.lr",
    "--model.lr": "--optim.lr",
    "--batch-size": "--data.batch",
    "--optim.batch-size": "--data.batch",
    "--batch": "--data.batch",
    "--max-iters": "--steps",
    "--max-steps": "--steps",
    "--num-steps": "--steps",
    "--epochs": None,
    "--num-train-epochs": None,
    "--dropout": None,
    "--model.dropout": None,
    "--dtype": None,
    "--context-length": "--data.seq-len",
    "--block-size": "--data.seq-len",
    "--seq-len": "--data.seq-len",
    "--n-layer": "--model.n-layers",
    "--layers": "--model.n-layers",
    "--n-head": "--model.n-heads",
    "--n-embd": "--model.dim",
    "--dim": "--model.dim",
    "--d-model": "--model.dim",
    "--hidden-size": "--model.dim",
    "--intermediate-size": "--model.hidden-dim",
    "--grad-accum": "--optim.accumulation",
    "--gradient-accumulation-steps": "--optim.accumulation",
    "--accumulation": "--optim.accumulation",
    "--weight-decay": "--optim.weight-decay",
    "--optim.wd": "--optim.weight-decay",
    "--max-grad-norm": "--optim.clip",
    "--warmup": "--optim.warmup-steps",
    "--warmup-iters": "--optim.warmup-steps",
    "--min-lr": "--optim.min-lr-ratio",
    "--beta2": "--optim.beta2",
    "--dataset": "--data",
    "--out-dir": "--out",
    "--output": "--out",
    "--model": "--preset",
    "--init-from": "--init",
    "--checkpoint": "--init",
    "--resume-from-checkpoint": "--resume",
    "--eval-interval": "--eval-every",
    "--save-every": "--checkpoint-every",
    "--save-total-limit": "--keep-last",
    "--wandb": "--sinks",
    "--vocab-size": "--model.vocab-size",
    "--steos": "--steps",
    "--promt": "--prompt",
    "--data.sequence-length": "--data.seq-len",
    "--model.n-layer": "--model.n-layers",
    "--optim.seed": "--seed or --data.seed",
    "--zebra": "",
    "--x": "",
    "--lrx": "--optim.lr",
    "--foo.bar": "",
}


@pytest.mark.parametrize("typed,meant", HABITS.items())
def test_what_people_type_from_habit(typed, meant):
    hint = spelling.hint(typed, flag_names(TrainConfig), flags=True)
    if meant:
        assert hint == f" Hint: did you mean {meant}?"
    elif meant is None:
        assert hint.startswith(" Hint: ") and "did you mean" not in hint
    else:
        assert hint == ""


def test_a_file_s_keys_are_spelt_alike():
    assert spelling.hint("optim.learning_rate", keys()) == " Hint: did you mean optim.lr?"
    assert spelling.hint("model.layers", keys()) == " Hint: did you mean model.n_layers?"
    assert "no dropout" in spelling.hint("model.dropout", keys())
    assert spelling.hint("--max-new-tokens", flag_names(GenerateConfig), True).endswith("--tokens?")
    assert spelling.hint("--model-path", flag_names(GenerateConfig), True) == ""  # it has no flag


def test_every_habit_leads_to_a_setting_of_ours():
    ours = {name for names in spelling._OTHERS for name in names}
    known = {
        *keys(),
        *(f for kind in COMMANDS for f in kind.__dataclass_fields__),
        "data",
        "tokenizer",
    }
    assert ours <= known


def test_a_flag_given_twice_is_said():
    assert repeated(["--steps", "1", "--steps=2", "--data", "a", "--data.source=b"]) == [
        "flag steps was given 2 times: the last counts",
        "flag data.source was given 2 times: the last counts",
    ]
    assert repeated(["--steps", "1", "--model.no-tied"]) == []
    assert repeated(["--top-k", "1", "--seed=2", "--top-k=3"], GenerateConfig) == [
        "flag top_k was given 2 times: the last counts"
    ]


# ---- files and folders as people leave them ----


@pytest.mark.parametrize(
    "content,message",
    [
        ("\ufeffsteps = 3\n".encode(), None),
        (b"steps = 3\r\ndata = 'x.txt'\r\n", None),
        ("steps = 3\n".encode("utf-16"), "UTF-16"),
        ("steps = 3\n".encode("utf-16-be"), "is not TOML"),
        (b"steps = 3 # caf\xe9\n", "byte 0xe9 at 15"),
        (b"steps = \n", "is not TOML"),
        (b"[" * 10000, "is not TOML"),
    ],
)
def test_settings_as_editors_save_them(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    if message is None:
        assert read_settings(path)["steps"] == 3
        return
    with pytest.raises(ConfigError, match=message) as told:
        read_settings(path)
    assert "run.toml" in str(told.value) and "\n" not in str(told.value)


def test_the_newest_run_among_all_kinds_of_entries(tmp_path):
    runs = tmp_path / "runs"
    for name, when in (("old", 100), ("new", 200)):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.toml").write_text("")
        os.utime(runs / name / "config.toml", (when, when))
    (runs / "notes.txt").write_text("mine")
    (runs / "empty").mkdir()
    (runs / "folder" / "config.toml").mkdir(parents=True)
    (runs / "gone").symlink_to("nowhere")
    (runs / "new" / "latest").symlink_to("step_000009")  # deleted by hand
    (runs / "old" / "loop").symlink_to("loop")
    for path in (runs / "new" / "latest", runs / "old" / "loop"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert newest_run(runs) == runs / "new"
    with pytest.raises(
        ConfigError, match=r"link to step_000009, which is gone. Hint: --resume .*new"
    ):
        run_of(runs / "new" / "latest")


# ---- terminals that cannot hold every character ----

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
PRINTS = {  # exit code and arguments
    "generate": (0, ["r", "--prompt", "При 🙂", "--tokens", "2"]),
    "plan": (0, ["--chip", "m1", "--preset", "tiny"]),
    "lint": (1, ["При.mil"]),
    "report": (2, ["При", "--text"]),
    "train": (0, ["--help"]),
    "bench": (2, ["--table-that-is-none-🙂"]),
    "doctor": (2, ["--json", "нет/x.json"]),
    "replay": (2, ["При"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run and a text have names and content that few encodings hold."""
    folder = tmp_path_factory.mktemp("encodings")
    (folder / "r").mkdir()
    model = Model.from_config(SHAPE, open_tokenizer("bytes"), seed=0)
    state = {"step": 1, "micro": 0}
    checkpoint.save(folder / "r", SHAPE, model.params, model.params, state, model.tokenizer)
    (folder / "При.mil").write_text('program(1.3)\n{ "При🙂" }\n')
    return folder


@pytest.mark.parametrize(
    "name,encoding", [("generate", e) for e in ENCODINGS] + [(n, "ascii") for n in PRINTS]
)
def test_no_encoding_ends_a_command(folder, name, encoding):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUTF8"} | ENCODINGS[encoding]
    done = subprocess.run(
        [sys.executable, "-m", f"anefast.{name}", *PRINTS[name][1]],
        cwd=folder, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr and done.returncode == PRINTS[name][0], done.stderr
    if name == "generate":
        assert rb"\U0001f642" in done.stdout

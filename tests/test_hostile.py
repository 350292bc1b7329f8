"""Folders from somebody else: nothing outside is touched, and nothing they say is obeyed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anefast import replay, report
from anefast.cli import guarded, train_config
from anefast.errors import AnefastError, BadInput, Failure
from anefast.restart import command as restarting
from anefast.runtime import Device
from anefast.runtime.calibrate import calibrate
from anefast.runtime.doctor_facts import Learned, recall, remember
from anefast.telemetry.history import read_history
from anefast.telemetry.page import page
from anefast.train import fit

from .bigram import DEVICE, BigramModel, settings
from .test_report import Reader

STEPS = 4
BAD = "<script>alert(1)</script>\x1b[2J\x9b1m\u202e$\\frac{&quot;'\""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run of four updates, which is copied and never changed."""
    run = tmp_path_factory.mktemp("sound") / "run"
    config = settings(run, steps=STEPS, eval_every=2, sample_tokens=4)
    fit(config, model=BigramModel(), device=DEVICE)
    return run


@pytest.fixture
def run(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "run", symlinks=True))


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without their plots, which take seconds."""
    monkeypatch.setattr("anefast.report.png", lambda runs, title: b"")
    monkeypatch.setattr("anefast.telemetry.page.svg", lambda name, runs: "")


@pytest.fixture(scope="module")
def rates():
    return calibrate(Device("host"))


def command(main, *words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code or 0


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its content and its time."""
    return {
        str(p.relative_to(folder)): (b"" if p.is_dir() else p.read_bytes(), p.stat().st_mtime_ns)
        for p in [folder, *folder.rglob("*")]
    }


def go_on(run: Path) -> None:
    """Resumes for an update, with every output there is inside the folder, and reports."""
    config, _ = train_config(["--resume", str(run), "--steps", str(STEPS + 1)])
    fit(config, model=BigramModel(), device=DEVICE)
    command(report.main, run)


# What a run writes, what it once wrote under a name that could be guessed, and folders of it.
FILES = [
    "metrics.jsonl", "timings.jsonl", "config.toml", "env.json", "best.json", "breakdown.json",
    "sample.txt", "run.lock", "report.html", "report.png", ".config.toml.tmp", ".env.json.tmp",
    ".best.json.tmp", ".breakdown.json.tmp", ".sample.txt.tmp", ".report.html.tmp", ".report.png",
    ".latest.tmp",
]  # fmt: skip
FOLDERS = ["latest", f"step_{STEPS + 1:06}", f".step_{STEPS + 1:06}.tmp",
           f".step_{STEPS + 1:06}.gone"]  # fmt: skip


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_links_in_a_run_lead_nowhere(name, run, tmp_path, undrawn):
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    precious = outside / "precious"
    precious.write_bytes((run / name).read_bytes() if (run / name).is_file() else b"mine\n")
    before = everything(outside)
    if os.path.lexists(run / name):
        (run / name).unlink()
    (run / name).symlink_to(precious if name in FILES else outside)
    with contextlib.suppress(AnefastError):  # refusing the folder is as good
        go_on(run)
    assert everything(outside) == before


def test_dashboards_stay_in_the_run(run, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra: tb)")
    from anefast.telemetry.sinks import Sinks

    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "tensorboard").symlink_to(outside)
    sinks = Sinks("tensorboard", run, {})  # is left out with a warning
    sinks.log({"step": 1, "train/loss": 2.0}, {"step": 1})
    sinks.close()
    assert not list(outside.iterdir())


def test_outputs_of_a_resumed_folder_count_only_as_flags(run, tmp_path):
    config = (run / "config.toml").read_text()
    for name, value in (("trace", tmp_path / "precious"), ("sinks", "trackio"), ("out", tmp_path)):
        old = next(line for line in config.splitlines() if line.startswith(f"{name} = "))
        config = config.replace(old, f'{name} = "{value}"')
    (run / "config.toml").write_text(config)
    asked, _ = train_config(["--resume", str(run)])
    assert (asked.trace, asked.sinks) == ("", "") and Path(asked.out) == run
    asked, _ = train_config(["--resume", str(run), "--trace", "t.json", "--sinks", "wandb"])
    assert (asked.trace, asked.sinks) == ("t.json", "wandb")
    assert restarting(run, "wandb")[-4:] == ["--resume", str(run), "--sinks", "wandb"]


# The report.


def test_a_page_says_what_a_hostile_run_says_and_obeys_nothing(run, capfd, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plot)")
    evil = run.with_name("_$\\frac{<img src=x onerror=alert(1)>\x1b[31m")
    run.rename(evil)
    (evil / "sample.txt").write_text(BAD)
    config = (evil / "config.toml").read_text()
    words = json.dumps(BAD)
    (evil / "config.toml").write_text(config.replace('plan = "unfused"', f"plan = {words}"))
    rows = (evil / "timings.jsonl").read_text().splitlines()
    row = json.loads(rows[-1])
    row["spans_ms"] = {f"{BAD}/{BAD}": 3.0, "$a_b^/$": 1.0, **row["spans_ms"]}
    (evil / "timings.jsonl").write_text("\n".join([*rows[:-1], json.dumps(row)]) + "\n")
    assert command(report.main, evil) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and err == ""
    document = (evil / "report.html").read_text()
    told = Reader(document)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in told.tags}
    assert not [a for _, a in told.tags if any(name.startswith("on") for name in a)]
    assert "<script>alert(1)</script>" in told.text and "onerror=alert(1)" in told.text
    assert not set("\x1b\x9b\u202e") & set(document)
    assert (evil / "report.png").stat().st_size > 50_000


DAMAGED = {
    "metrics.jsonl": (b'{"step": 1, "train/loss": 1e400}\n', b'{"step": "1"}\n', b"[]\n",
                      b'{"step": 1}\n{"step": 1}\n', b"x" * 200_000, b'{"step": 2, "lr": {}}\n'),
    "timings.jsonl": (b'{"step": 1, "spans_ms": [1]}\n', b'{"step": 1, "spans_ms": {"a": -1}}\n',
                      b'{"step": 1, "ms": "9"}\n', b'{"step": 1, "ms": NaN}\n', b"\xff\xfe\n"),
    "env.json": (b"{", b'{"sessions": {}}', b'{"sessions": [1]}', b"[" * 90_000,
                 b'{"sessions": [{"device": 7}]}', b'{"sessions": [{"label": "\\u001b[2J"}]}'),
    "breakdown.json": (b"[]", b'{"micro_steps": 1}', b"9" * 5000, b'{"a": 1, "a": 2}',
                       b" " * (2 << 20)),
}  # fmt: skip


@pytest.mark.parametrize("name, content", [(n, c) for n, all in DAMAGED.items() for c in all])
def test_what_is_damaged_is_left_out_and_said(name, content, run, undrawn, capsys):
    (run / name).write_bytes(content)
    assert command(report.main, run, "--text") == 0
    said = capsys.readouterr().err
    assert f"{run / name}" in said and "ignores" in said and said.count("\n") == 1
    assert "ignores" in Reader(page([read_history(run)])).text
    assert not set("\x1b\x00") & set(said)


def test_a_million_rows_take_no_memory(run):
    import tracemalloc

    rows = run / "metrics.jsonl"
    rows.write_text(
        "".join(f'{{"step": {i}, "train/loss": 1.5, "lr": 1}}\n' for i in range(50_000))
    )
    tracemalloc.start()
    history = read_history(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert "expected at most" in history.notes[0]


@pytest.mark.parametrize("line", ["steps = -1", "steps = 1e9", 'steps = "4"', "[optim]\nlr = []"])
def test_settings_that_are_none_are_refused(line, run, capsys):
    name = line.split()[-3]
    config = (run / "config.toml").read_text()
    old = next(row for row in config.splitlines() if row.startswith(f"{name} ="))
    (run / "config.toml").write_text(config.replace(old, line.splitlines()[-1], 1))
    assert command(report.main, run) == 2
    assert f"{run / 'config.toml'} is damaged: " in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


# Caches.


def cache_that_is(kind: str, folder: Path) -> Path:
    """What ANEFAST_CACHE may name by mistake or malice."""
    path = folder / "cache"
    if kind == "a file":
        path.write_text("x")
    elif kind == "a link to nowhere":
        path.symlink_to(folder / "none" / "none")
    elif kind == "a link to a file":
        (folder / "f").write_text("x")
        path.symlink_to(folder / "f")
    else:
        path.mkdir()
        for name in ("doctor.json", "calibration.json"):
            if kind == "pipes":
                os.mkfifo(path / name)
            elif kind == "links":
                (folder / "precious").write_text("{}")
                (path / name).symlink_to(folder / "precious")
            elif kind == "folders":
                (path / name).mkdir()
    return path


CACHES = ("a file", "a link to nowhere", "a link to a file", "pipes", "links", "folders")


@pytest.mark.parametrize("kind", CACHES)
def test_caches_that_are_none_cost_time_and_nothing_else(kind, rates, tmp_path, monkeypatch):
    monkeypatch.setenv("ANEFAST_CACHE", str(cache_that_is(kind, tmp_path)))
    monkeypatch.setattr("anefast.runtime.calibrate.measure", lambda device: rates)
    assert calibrate(Device("host")) == rates
    assert recall("host (x)") is None
    remember("host (x)", Learned())
    if kind == "links":
        assert (tmp_path / "precious").read_text() == "{}"


@pytest.mark.parametrize("value", ["1e400", '"1"', "-1", "true", "null", "[1]", "0", str(10**400)])
def test_a_damaged_calibration_is_measured_anew(value, rates, tmp_path, monkeypatch):
    monkeypatch.setenv("ANEFAST_CACHE", str(tmp_path))
    monkeypatch.setattr("anefast.runtime.calibrate.measure", lambda device: rates)
    calibrate(Device("host"))
    path = tmp_path / "calibration.json"
    (key,) = json.loads(path.read_text())
    stored = json.loads(path.read_text())[key]["flops"]
    path.write_text(path.read_text().replace(f'"flops": {json.dumps(stored)}', f'"flops": {value}'))
    assert calibrate(Device("host")) == rates
    assert json.loads(path.read_text())[key]["flops"] == rates.flops


# Messages.


def raises(error):
    def call():
        raise error

    return call


EXITS = [  # what a command's body raises, its exit code, what is said
    (None, 0, ""),
    (BadInput("[a] expected b, got c."), 2, "[a] expected b, got c.\n"),
    (Failure("[a] went wrong."), 1, "[a] went wrong.\n"),
    (KeyboardInterrupt(), 130, ""),
    (BrokenPipeError(), 0, ""),
    (BadInput("[a] \x1b[2J\nb"), 2, "[a] \\x1b[2J b\n"),
    (MemoryError(), 2, "[memory] not enough. Hint: a smaller batch or model.\n"),
]


@pytest.mark.parametrize("error, code, said", EXITS, ids=range(len(EXITS)))
def test_exit_codes_are_the_documented_ones(error, code, said, capfd):
    kept = os.dup(1)
    assert guarded(raises(error) if error else lambda: None) == code
    os.dup2(kept, 1)
    os.close(kept)
    assert capfd.readouterr().err == said


def test_an_interrupt_in_a_finaliser_still_ends_a_command(capfd):
    class Freed:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        Freed()  # freed at once, so that the interrupt cannot be raised from where it lands
        time.sleep(60)

    begin = time.monotonic()
    assert guarded(work) == 130
    assert time.monotonic() - begin < 30, "the call that waited was not ended"
    assert capfd.readouterr().err == ""


def test_errors_of_the_native_side_have_our_base():
    from anefast import _C

    codes = {_C.MILError: 2, _C.CompileError: 1, _C.EvaluationError: 1, _C.AneUnavailable: 2}
    for kind, code in codes.items():
        assert issubclass(kind, AnefastError)
        assert guarded(raises(kind("[x] y"))) == code
    assert issubclass(_C.MILError, ValueError) and issubclass(_C.AneUnavailable, RuntimeError)


COMMANDS = ("train", "generate", "plan", "lint", "report", "replay", "bench", "doctor")


def test_every_command_shows_escapes_and_ends_in_a_line(tmp_path, capfd):
    """A name with escapes as every command's first argument."""
    import importlib

    evil = f"{tmp_path}/\x1b[2J\x9b\u202e\nx"
    for name in COMMANDS:
        module = importlib.import_module(f"anefast.{name}")
        if name in ("bench", "doctor"):
            module = importlib.import_module(f"anefast.{name}.__main__")
        words = ["--device", evil] if name in ("plan", "doctor") else [evil]
        if name == "generate":
            from anefast.cli import command as as_command

            with pytest.raises(SystemExit) as left:
                as_command(module.GenerateConfig, module.generate, words)
            code = left.value.code
        else:
            code = command(module.main, *words)
        out, err = capfd.readouterr()
        assert code == 2, (name, code)
        assert not set("\x1b\x9b\u202e\x00") & set(out + err), (name, err)
        assert err.startswith("[") and err.count("\n") == 1, (name, err)


def test_the_replay_of_a_giant_takes_no_memory(tmp_path, monkeypatch):
    """An archive that unpacks to 3 GB, and text that declares as much."""
    import zipfile

    folder = tmp_path / "p"
    folder.mkdir()
    shape = "[1, 1024, 1, 1024]"
    (folder / "model.mil").write_text(
        f"program(1.3)\n{{\nfunc main<ios18>(tensor<fp16, {shape}> a) {{\n"
        f'tensor<fp16, {shape}> y = abs(x = a)[name = string("y")];\n}} -> (y);\n}}\n'
    )
    with zipfile.ZipFile(folder / "evaluation.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.a.npy", bytes(64 << 20))
    script = (
        "import resource, sys; from anefast import replay\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: replay.main([sys.argv[1], '--device', 'host'])\n"
        "except SystemExit as left: code = left.code\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60
    )
    code, grown = done.stdout.split()[-2:]
    assert code == "2" and "is compressed" in done.stderr
    assert int(grown) < 20_000  # KB
    assert command(replay.main, folder) == 2

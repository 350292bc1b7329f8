"""Parity tools: the check names the first tensor that strays, a dump runs again, DEBUG explains."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import anefast
from anefast import _C, debug, replay
from anefast.models import init_ffn
from anefast.runtime import fused_ffn
from anefast.runtime.inspect.dump import EVALUATION, MODEL, read, relative
from anefast.runtime.inspect.values import graph_names, tapped
from anefast.runtime.inspect.watch import strays

DIM, HIDDEN, SEQ = 32, 64, 32


def call(chip: str = "", gain: float = 1.0, plan: str = "all") -> np.ndarray:
    params = init_ffn(DIM, HIDDEN, 2, seed=0)
    params["layers.1.ffn.w3"] *= gain
    x = np.random.default_rng(0).standard_normal((1, DIM, 1, SEQ)).astype(np.float16)
    with fused_ffn(DIM, HIDDEN, 2, SEQ, params, anefast.Device("host", chip=chip), plan) as ffn:
        ffn(x)
        return ffn(x)


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in ("ANEFAST_CHECK", "ANEFAST_DUMP", "DEBUG"):
        monkeypatch.delenv(name, raising=False)


def test_unset_nothing_is_wrapped():
    device = anefast.Device("host")
    text = "program(1.3)\n{\nfunc main<ios18>(tensor<fp16, [1, 32]> a) {\n"
    text += 'tensor<fp16, [1, 32]> y = abs(x = a)[name = string("y")];\n} -> (y);\n}\n'
    assert type(device.compile(text, {})) is _C.Program
    assert type(device.programs.acquire(text, {}).native) is _C.Program


@pytest.mark.parametrize("plan", ["all", "layer", "all,weights=params"])
def test_the_check_names_the_first_tensor_that_strays(monkeypatch, caplog, plan):
    monkeypatch.setenv("ANEFAST_CHECK", "0.0005")  # sigmoid's table errs by up to 0.0034
    call("m1", plan=plan)
    told = [r.message for r in caplog.records if r.message.startswith("[check]")]
    first = "layers.0.ffn.sigmoid_0"
    if "params" in plan:  # the text of equal layers counts from the first
        first = first.replace("layers.0", "first")
    assert first in told[0] and "(sigmoid): off by 0.00" in told[0]
    assert len(told) == (2 if plan == "layer" else 1)  # once for each text


def test_the_check_finds_an_overflow_in_the_middle(monkeypatch, caplog):
    monkeypatch.setenv("ANEFAST_CHECK", "1")
    call("m1")
    assert not [r for r in caplog.records if "[check]" in r.message]  # tables are in tolerance
    call("m1", gain=6e4)
    (told,) = [r.message for r in caplog.records if "[check]" in r.message]
    assert "layers.1.ffn.conv_1 (conv): off by inf" in told and "got inf" in told


def test_the_exact_host_never_strays_from_itself(monkeypatch, caplog):
    plain = call()
    monkeypatch.setenv("ANEFAST_CHECK", "1e-9")
    assert (call() == plain).all()
    assert not caplog.records


def test_checks_that_make_no_sense_are_one_line(monkeypatch):
    monkeypatch.setenv("ANEFAST_CHECK", "yes")
    with pytest.raises(ValueError, match=r"\[check\] expected ANEFAST_CHECK to be 1 or a toler"):
        anefast.Device("host")


def test_straying_is_measured_against_the_tensor():
    want = np.array([1, -100, np.inf, np.nan], np.float16)
    assert strays(want, want, 0.0) is None
    got = want.copy()
    got[0] = 2
    assert strays(got, want, 0.02) is None
    stray = strays(got, want, 0.001)
    assert stray is not None and (stray.error, stray.at, stray.largest) == (1, (0,), 100)
    got[2] = 5
    stray = strays(got, want, 0.02)
    assert stray is not None and stray.at == (2,) and stray.error == np.inf


@pytest.mark.parametrize("chip", ["", "m1"])  # both dialects
def test_a_tapped_program_gives_what_it_computed_inside(chip):
    params = init_ffn(DIM, HIDDEN, 1, seed=0)
    device = anefast.Device("host", chip=chip)
    with fused_ffn(DIM, HIDDEN, 1, SEQ, params, device) as ffn:
        text = ffn.compiled.kernels[0].text
    wide = _C.check(tapped(text))["functions"][0]
    assert len(wide["outputs"]) == len(wide["operations"])
    names = graph_names(text)
    assert all(op[1][0][0] in names for op in wide["operations"])
    assert "layers.0.ffn.sigmoid_0" in names.values()


def dumped(monkeypatch, folder, chip=""):
    monkeypatch.setenv("ANEFAST_DUMP", str(folder))
    call(chip)
    monkeypatch.delenv("ANEFAST_DUMP")
    (program,) = [p for p in folder.iterdir() if p.is_dir()]
    return program


def run_replay(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        replay.main(argv)
    return int(left.value.code or 0)


def test_a_dump_is_one_folder_and_runs_again(monkeypatch, tmp_path, capsys):
    program = dumped(monkeypatch, tmp_path, "m1")
    found = {p.relative_to(program).as_posix() for p in program.rglob("*") if p.is_file()}
    assert found == {"model.mil", "weights/weight.bin", "evaluation.npz", "about.json"}
    assert json.loads((program / "about.json").read_text())["device"].startswith("host as m1 (")
    assert run_replay(str(program), "--chip", "m1", "--device", "host") == 0
    told = capsys.readouterr().out
    assert "1 of 1 outputs agree with the recording, 1 of 1 outputs agree with the exact" in told
    tight = ("--tolerance", "0.0001", "--chip", "m1", "--device", "host")
    assert run_replay(str(tmp_path), *tight) == 1
    out = capsys.readouterr()
    assert (
        "first unlike the exact host's: layers.0.ffn." in out.out
        and "1 of 1 programs give other values" in out.err
    )


def test_a_recorded_result_that_is_wrong_is_found(monkeypatch, tmp_path, capsys):
    program = dumped(monkeypatch, tmp_path)
    with np.load(program / EVALUATION) as file:
        arrays = dict(file)
    (port,) = [name for name in arrays if name.startswith("out.")]
    arrays[port][0, 3, 0, 7] += 50
    np.savez(program / EVALUATION, **arrays)
    assert run_replay(str(program), "--device", "host") == 1
    out = capsys.readouterr().out
    assert "unlike the recording's: off by 50 at [0, 3, 0, 7]" in out
    assert "1 of 1 outputs agree with the exact host" in out


def test_folders_that_are_no_dumps(tmp_path, capsys):
    assert run_replay(str(tmp_path)) == 2
    assert "got none. Hint: ANEFAST_DUMP=" in capsys.readouterr().err
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / MODEL).write_text("program")
    assert run_replay(str(tmp_path / "p")) == 2
    (tmp_path / "p" / EVALUATION).write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="is not a dumped program"):
        read(tmp_path / "p")
    for path in ("@model_path/../x", "/etc/x", "@model_path/"):
        with pytest.raises(ValueError, match="inside the model"):
            relative(path)


def test_a_refused_program_is_dumped_too(monkeypatch, tmp_path):
    monkeypatch.setenv("ANEFAST_DUMP", str(tmp_path / "new"))
    device = anefast.Device("host", chip="m1,terms=8")
    with pytest.raises(_C.CompileError, match="sums of up to 8 terms"):
        fused_ffn(DIM, HIDDEN, 1, SEQ, init_ffn(DIM, HIDDEN, 1, seed=0), device)
    assert list((tmp_path / "new").glob(f"*/{MODEL}"))


SCRIPT = """
import numpy as np
from anefast.models import init_ffn
from anefast.runtime import Device, fused_ffn
ffn = fused_ffn(32, 64, 2, 32, init_ffn(32, 64, 2, 0), Device(chip="m1"), "layer,ports=packed")
ffn(np.ones((1, 32, 1, 32), np.float16))
"""


def said(level: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"DEBUG": level}, capture_output=True,
        text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr


def test_every_level_explains_more():
    marks = [
        ["device host as m1 (", "Kernel("],
        [" ms, ", " GFLOP/s"],
        ["shared, no copy", " tasks:"],
        ["program(1.0)"],
        ["graph before expand:", "graph, simplified:"],
        ["0 NaN, 0 inf"],
    ]
    texts = {n: said(str(n)) for n in (1, 4, 6)}
    for n, text in texts.items():
        for i, words in enumerate(marks, 1):
            assert all((word in text) == (i <= n) for word in words), (n, words)


def test_garbage_is_one_clear_line(monkeypatch, caplog):
    monkeypatch.setenv("DEBUG", "chatty")
    assert debug.level() == 0 and debug.level() == 0
    (record,) = caplog.records
    assert "expected DEBUG to be 0 to 6, got 'chatty'" in record.message

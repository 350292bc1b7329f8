"""Dashboards get the rows of the files, without a network, and never stop a run."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from anefast.telemetry.rows import CRC
from anefast.telemetry.sinks import SinkError, Sinks, checked, numbers
from anefast.train import fit

from .bigram import DEVICE, BigramModel, settings

ROOT = Path(__file__).resolve().parent.parent


def rows(run):
    """metrics and timings of each update, as one flat row of the numbers that are shown."""
    files = [(run / name).read_text().splitlines() for name in ("metrics.jsonl", "timings.jsonl")]
    both = [[json.loads(line) for line in lines] for lines in files]
    found = {m["step"]: numbers(t | m) for m, t in zip(*both, strict=True)}
    return {step: {k: v for k, v in row.items() if k != CRC} for step, row in found.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_rows(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (extra: tb)")
    from tensorboardX.proto.event_pb2 import Event

    fit(settings(tmp_path / "run", sinks="tensorboard"), model=BigramModel(), device=DEVICE)
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    data, seen = file.read_bytes(), {}
    while data:  # records: length, its checksum, an event, its checksum
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                seen.setdefault(event.step, {})[value.tag] = value.simple_value
    expected = rows(tmp_path / "run")
    assert seen.keys() == expected.keys() and len(seen) == 21
    for step, row in expected.items():
        assert seen[step].keys() == row.keys()
        assert all(math.isclose(seen[step][k], v, rel_tol=1e-6) for k, v in row.items())
    assert any(name.startswith("spans_ms/forward/") for name in expected[1])


class Recorder(ModuleType):
    """trackio and wandb as far as they are called here."""

    def __init__(self, name):
        super().__init__(name)
        self.logged, self.options, self.finished = {}, {}, 0
        self.Settings = SimpleNamespace

    def init(self, **options):
        self.options = options
        print("a greeting")
        return self

    def log(self, values, step):
        self.logged[step] = values

    def finish(self):
        self.finished += 1


@pytest.fixture
def recorders(monkeypatch):
    found = {name: Recorder(name) for name in ("trackio", "wandb")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return found


def test_trackio_and_wandb_get_the_rows(tmp_path, recorders, capfd):
    config = settings(tmp_path / "run", sinks="wandb, trackio,wandb", steps=4)
    fit(config, model=BigramModel(), device=DEVICE)
    for recorder in recorders.values():
        assert recorder.logged == rows(tmp_path / "run") and recorder.finished == 1
        assert recorder.options["config"]["optim.lr"] == 0.1
        assert recorder.options["name"] == "run"
    assert recorders["wandb"].options["mode"] == "offline"
    assert recorders["wandb"].options["dir"] == str(tmp_path / "run")
    assert capfd.readouterr().out == ""


def test_the_network_is_for_those_who_ask(tmp_path, recorders, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    Sinks("wandb", tmp_path, {}).close()
    assert recorders["wandb"].options["mode"] == "online"


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_sink_that_fails_is_left_out_with_one_warning(tmp_path, recorders, caplog, where):
    def fail(*_, **__):
        raise ConnectionError("the server is on holiday")

    setattr(recorders["wandb"], where, fail)
    with caplog.at_level(logging.WARNING, "anefast"):
        config = settings(tmp_path / "run", sinks="wandb,trackio", steps=4)
        result = fit(config, model=BigramModel(), device=DEVICE)
    assert len(result.losses) == 4
    told = [r.message for r in caplog.records if "sink" in r.message]
    assert told == ["sink wandb gets no more rows: the server is on holiday"]
    assert len(recorders["trackio"].logged) == 5


def test_bad_sinks_are_refused_before_the_run(tmp_path, monkeypatch):
    with pytest.raises(SinkError, match=r"expected some of tensorboard, trackio, wandb.*'wandbb'"):
        fit(settings(tmp_path / "a", sinks="wandbb"), model=BigramModel(), device=DEVICE)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
    with pytest.raises(SinkError, match=r"pip install 'anefast\[tb\]'"):
        fit(settings(tmp_path / "a", sinks="tensorboard"), model=BigramModel(), device=DEVICE)
    assert not (tmp_path / "a").exists()
    assert checked(" , ") == []


def test_numbers_are_flat_and_finite():
    row = {"step": 3, "time": 1e9, "a": 1, "b": math.nan, "c": None, "d": True, "e": "x",
           "f": {"g/h": 2.5}}  # fmt: skip
    assert numbers(row) == {"a": 1.0, "d": 1.0, "f/g/h": 2.5}


REAL = """
import socket, sys
from pathlib import Path
real = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("network", address)
        raise OSError("no network here")
    return real(self, address)
socket.socket.connect = connect
from anefast.telemetry.sinks import Sinks
sinks = Sinks(sys.argv[1], Path(sys.argv[2]), {"steps": 3})
assert sinks._sinks
for i in range(3):
    sinks.log({"step": i, "train/loss": 3.0 - i}, {"spans_ms": {"forward/evaluate": 1.5}})
assert sinks._sinks
sinks.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_the_real_libraries_work_without_a_network(tmp_path, library):
    pytest.importorskip(library, reason=f"{library} is not installed (extra: {library})")
    done = subprocess.run(
        [sys.executable, "-c", REAL, library, str(tmp_path)], cwd=ROOT, text=True,
        capture_output=True, timeout=120, env=os.environ | {"TRACKIO_DIR": str(tmp_path / "t")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "no more rows" not in done.stderr
    if library == "wandb":
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    else:
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(tmp_path / "t" / "anefast.db")) as base:
            told = base.execute("select step, metrics from metrics order by step").fetchall()
        assert [step for step, _ in told] == [0, 1, 2]
        assert json.loads(told[2][1])["spans_ms/forward/evaluate"] == 1.5

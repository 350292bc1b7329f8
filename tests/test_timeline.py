"""Every millisecond of an update is accounted for, told in rows, a table and a trace."""

from __future__ import annotations

import errno
import json
import logging
import re
import threading
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from anefast import _C
from anefast.config import TrainConfig
from anefast.files import refusal
from anefast.runtime import compiler
from anefast.telemetry import RunError, RunFolder, breakdown
from anefast.telemetry.background import Background
from anefast.telemetry.history import SUMMARY
from anefast.telemetry.timeline import PYTHON, Sums, Timeline, summary
from anefast.train import fit
from anefast.trainer import Trainer

from .bigram import DEVICE, BigramModel, settings


def rows(run, name="timings.jsonl"):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def small(out, **changes):
    """The smallest real model there is, by a plan with several programs."""
    nested = {
        "model": {"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "hidden_dim": 32},
        "data": {"source": "stories:30", "seq_len": 32, "batch": 1},
        "optim": {"accumulation": 4, "warmup_steps": 1},
    }
    plain = {"steps": 3, "eval_every": 2, "eval_batches": 1, "sample_tokens": 0, "out": str(out)}
    return TrainConfig.from_preset("bytes", **nested, **{"plan": "unfused", **plain, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A traced run that compiles in the background, and is still at it in its second update.

    Left alone, whether the programs of one update are ready before the next begins is the
    scheduler's choice. Here those of the first update are held back until the second has begun.
    """
    folder = tmp_path_factory.mktemp("timeline")
    trace = folder / "trace.json"
    begun, second = [], threading.Event()
    compile_now, begin = compiler.compile_kernel, Timeline.begin_update

    def compile_kernel(*arguments, **options):
        if threading.current_thread().name.startswith("anefast-compile"):
            assert second.wait(60), "there was no second update"
        return compile_now(*arguments, **options)

    def begin_update(self):
        begun.append(begin(self))
        if len(begun) == 2:
            second.set()
        return begun[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile_kernel", compile_kernel)
        patch.setattr(Timeline, "begin_update", begin_update)
        result = fit(small(folder / "run", plan="unfused,async", trace=str(trace)))
    return result, trace


def test_a_row_adds_up_to_the_wall_time_of_its_update(run):
    told = rows(run[0].run_dir)[1:]
    assert [row["step"] for row in told] == [1, 2, 3]
    for row in told:
        assert sum(row["spans_ms"].values()) == pytest.approx(row["ms"], rel=0.02, abs=0.5)
        assert all(ms >= 0 for ms in row["spans_ms"].values())
        parts = set(row["spans_ms"])
        assert {"forward/data", "forward/embedding", "forward/evaluate", "forward/classifier",
                "forward/cross_entropy", "forward/elementwise", "forward/lock",
                "backward/evaluate", "backward/classifier", "backward/elementwise",
                "backward/embedding", "backward/dw_submit", "backward/dw_wait",
                "update/stage", "update/optimizer", "update/telemetry",
                PYTHON} <= parts  # fmt: skip
        assert {"dw_queued", "dw_run"} & set(row["beside_ms"])
        assert "spans_lost" not in row
    assert "validation/evaluate" in told[2]["before_ms"]  # after update 2
    assert "save/checkpoint" in told[2]["before_ms"]
    assert "compile" in told[1]["beside_ms"]
    assert "forward/compile_wait" in told[1]["spans_ms"]


def test_metrics_are_the_same_bytes_without_a_timeline(run, tmp_path):
    fit(small(tmp_path / "off", plan="unfused,async", timeline=False))
    assert (tmp_path / "off" / "metrics.jsonl").read_bytes() == (
        run[0].run_dir / "metrics.jsonl"
    ).read_bytes()
    assert all("spans_ms" not in row for row in rows(tmp_path / "off"))
    assert not _C.spans_recording()


def test_the_summary_counts_programs_and_their_work(run):
    told = json.loads((run[0].run_dir / SUMMARY).read_text())
    assert (told["first_step"], told["last_step"], told["micro_steps"]) == (1, 3, 12)
    assert told["label"] == "measured on the host" and told["lost"] == 0
    programs = {p["name"]: p for p in told["updates"]["programs"]}
    assert len(programs) == 12  # 2 layers of 2 halves: 4 forward, 8 backward programs
    assert all(p["count"] == 12 and p["bytes"] > 0 for p in programs.values())
    each = {c["component"]: c for c in told["updates"]["components"] if c["phase"] == "forward"}
    assert each["evaluate"]["count"] == 4 * 12
    # q, k, v, o and the three of the FFN; scores and their sum over values
    products = 2 * 2 * 32 * (4 * 32 * 32 + 3 * 32 * 32) + 2 * 2 * 2 * 32 * 32 * 32
    assert each["evaluate"]["flops"] == 12 * products
    assert each["classifier"]["flops"] == 12 * 2 * 259 * 32 * 32
    parts = told["updates"]
    spent = sum(c["ms"] for c in parts["components"]) + parts["python_ms"]
    assert spent == pytest.approx(parts["ms"], rel=1e-6)


def test_the_table_says_it_all(run):
    lines = run[0].breakdown.splitlines()
    assert lines[0] == "means of 12 micro-steps, measured on the host"
    body = lines[2 : lines.index("")]
    width = breakdown.NAMES
    parts = {line[:width].rstrip(): [float(v) for v in line[width:].split()] for line in body}
    assert parts["in all"][1] == 100.0
    heads = [parts[name] for name in parts if name[0] != " " and name != "in all"]
    assert {"forward", "backward", "update", "Python"} == {n for n in parts if n[0] != " "} - {
        "in all"
    }
    assert sum(ms for ms, _ in heads) == pytest.approx(parts["in all"][0], abs=0.01)
    assert sum(share for _, share in heads) == pytest.approx(100, abs=0.3)
    assert any(line.startswith("  dW run") for line in lines)
    assert breakdown.ACCUMULATION in run[0].breakdown
    for start in ("per micro-step", "programs "):  # every column ends where its heading does
        at = next(i for i, line in enumerate(lines) if line.startswith(start))
        ends = {m.end() for m in re.finditer(r"(ms|%|count|GFLOP/s|GB/s)(?= |$)", lines[at])}
        for line in lines[at + 1 : lines.index("", at)]:
            numbers = re.finditer(r"[\d.]+(?= |$)", " " * width + line[width:])
            assert {m.end() for m in numbers} <= ends, line


def test_the_trace_is_one_a_viewer_takes(run):
    events = json.loads(run[1].read_text())
    pid = {e["pid"] for e in events}
    assert len(pid) == 1 and all(isinstance(e["tid"], int) and e["name"] for e in events)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks: dict[int, list] = {}
    for e in events:
        assert e["ph"] in "MXbe"
        if e["ph"] != "M":
            assert e["tid"] in names and e["ts"] >= 0 and e["cat"]
        if e["ph"] == "X":
            assert e["dur"] >= 0
            tracks.setdefault(e["tid"], []).append(e)
    always = {"training", "dW queue: waiting", "compile"}
    # on a busy machine the thread that trains may run every weight gradient before a worker wakes
    assert always <= set(names.values()) <= always | {"dW queue: pool worker"}
    for track in tracks.values():  # spans nest: none begins inside another and ends after it
        ends: list[float] = []
        for e in sorted(track, key=lambda e: (e["ts"], -e["dur"])):
            while ends and ends[-1] <= e["ts"] + 0.002:
                ends.pop()
            assert not ends or e["ts"] + e["dur"] <= ends[-1] + 0.002, (e, ends)
            ends.append(e["ts"] + e["dur"])
    begun = [e["id"] for e in events if e["ph"] == "b"]
    assert begun and len(set(begun)) == len(begun)
    assert begun == [e["id"] for e in events if e["ph"] == "e"]
    compiles = [e for e in events if e["name"] == "compile" and names[e["tid"]] == "compile"]
    assert len(compiles) >= 12 and all("of" in e["args"] for e in compiles)


@pytest.mark.parametrize(
    "preset",
    ["stories15m", pytest.param("stories110m", marks=pytest.mark.slow)],
)
def test_a_step_of_a_real_shape_is_accounted_for(tmp_path, monkeypatch, preset):
    """Spans cover 98% of an update's wall time, backward as forward; the rest is Python's.

    Updates make the same spans in the same order, so each span and each gap between two is taken
    from the update where it was shortest: on a busy machine a thread is also put aside between two
    spans, and that is nobody's work. Emptying the rings is no span, for it would be in the next
    update's; a row counts it as telemetry all the same, and so it is taken out of its gap here.
    """
    monkeypatch.setattr(Trainer, "save", lambda *_: None)  # a checkpoint is no part of a step
    marks, taken, emptied = [], [], []
    drain = _C.spans_drain

    def timed():
        began = _C.spans_clock()
        records = drain()
        emptied.append((began, _C.spans_clock()))
        return records

    monkeypatch.setattr(_C, "spans_drain", timed)

    def watched(name, note):
        inner = getattr(Timeline, name)

        def call(self, *arguments):
            note(arguments[0])
            return inner(self, *arguments)

        monkeypatch.setattr(Timeline, name, call)

    watched("_begin", marks.append)
    watched("_end", marks.append)
    watched("_take", taken.append)
    updates = 9
    config = TrainConfig.from_preset(
        preset, out=str(tmp_path / "run"), steps=updates, eval_batches=1, eval_every=0,
        sample_tokens=0, plan="unfused", data={"source": "stories:30", "seq_len": 256, "batch": 1},
        optim={"accumulation": 1, "warmup_steps": 1},
    )  # fmt: skip
    fit(config)
    told = rows(tmp_path / "run")[1:]
    for row in told:
        assert sum(row["spans_ms"].values()) == pytest.approx(row["ms"], rel=0.02)
    backward = [sum(ms for n, ms in r["spans_ms"].items() if n.startswith("back")) for r in told]
    assert median(backward) > 0.3 * median(row["ms"] for row in told)

    records = np.concatenate(taken)
    mine = records[(records["thread"] == _C.spans_thread()) & (records["self"] > 0)]
    mine = np.sort(mine, order=["start", "end"])
    gaps, spans = [], []
    for begun, ended in zip(marks[::2][:updates], marks[1::2][:updates], strict=True):
        inside = mine[(mine["start"] >= begun) & (mine["end"] <= ended)]
        before = np.maximum.accumulate(np.concatenate([[begun], inside["end"][:-1]]))
        outer = inside[inside["end"] > before]  # not inside another
        edges = np.concatenate(
            [[begun], np.stack([outer["start"], outer["end"]], 1).ravel(), [ended]]
        )
        gaps.append(np.diff(edges)[::2])
        for start, end in emptied:
            if begun <= start and end <= ended:
                gaps[-1][(np.searchsorted(edges, start) - 1) // 2] -= end - start
        spans.append(np.diff(edges)[1::2])
    assert len({len(g) for g in gaps}) == 1, "updates differ in their spans"
    python, covered = (np.min(of, axis=0).sum() for of in (gaps, spans))
    share = python / (python + covered)
    assert share < 0.02, f"{100 * share:.2f}% of an update is in no span"


def test_one_run_of_a_process_is_timed_at_a_time(tmp_path, caplog):
    def on_step(row):
        if row["step"] == 1:
            fit(settings(tmp_path / "b", steps=1), model=BigramModel(), device=DEVICE)

    with caplog.at_level(logging.WARNING, "anefast"):
        config = settings(tmp_path / "a", steps=2)
        fit(config, model=BigramModel(), device=DEVICE, on_step=on_step)
    assert "another run of this process is being timed" in caplog.text
    assert "spans_ms" in rows(tmp_path / "a")[1] and "spans_ms" not in rows(tmp_path / "b")[1]


def test_a_run_that_raises_lets_the_next_one_be_timed(tmp_path):
    def on_step(row):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(settings(tmp_path / "a"), model=BigramModel(), device=DEVICE, on_step=on_step)
    assert not _C.spans_recording()
    fit(settings(tmp_path / "b", steps=1), model=BigramModel(), device=DEVICE)
    assert "spans_ms" in rows(tmp_path / "b")[1]


def test_a_trace_that_cannot_be_written_is_refused_before_anything_else(tmp_path):
    config = settings(tmp_path / "a", trace=str(tmp_path / "none" / "t.json"))
    with pytest.raises(OSError, match="No such file"):
        fit(config, model=BigramModel(), device=DEVICE)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("steps", [2, 400])  # a trace that fails when closed, and on the way
def test_a_full_disk_costs_the_trace_and_not_the_run(tmp_path, caplog, steps):
    with caplog.at_level(logging.WARNING, "anefast"):
        config = settings(tmp_path / "run", trace="/dev/full", steps=steps, eval_every=0)
        fit(config, model=BigramModel(), device=DEVICE)
    said = [r.message for r in caplog.records if "trace" in r.message]
    assert said == ["the trace ends here: cannot write /dev/full: No space left on device"]
    assert rows(tmp_path / "run")[-1]["step"] == steps


def test_sums_keep_driving_and_other_threads_apart():
    dtype = _C.spans_drain().dtype
    records = np.zeros(5, dtype)
    fields = ("start", "end", "self", "flops", "bytes", "label", "count", "thread", "component")
    fields += ("phase",)
    C, P = _C.Component, _C.Phase
    for i, values in enumerate([
        (0, 100, 60, 5, 7, 3, 1, 1, C.EVALUATE, P.FORWARD),
        (10, 50, 40, 0, 0, 0, 9, 1, C.LOCK, P.FORWARD),
        (0, 80, 80, 0, 0, 0, 1, 2, C.DW_RUN, P.BACKWARD),
        (0, 70, 0, 0, 0, 0, 4, 1, C.DW_QUEUED, P.BACKWARD),
        (0, 10, 10, 0, 0, 0, 1, 1, C.DW_RUN, P.BACKWARD),
    ]):  # fmt: skip
        for name, value in zip(fields, values, strict=True):
            records[name][i] = value * (10**6 if name in ("start", "end", "self") else 1)
    sums = Sums(wall_ns=200 * 10**6)
    sums.take(records, thread=1)
    assert sums.row() == {
        "forward/lock": 40, "forward/evaluate": 60, "backward/dw_run": 10, PYTHON: 90,
    }  # fmt: skip
    assert sums.programs == {3: [100e6, 1, 5, 7]}
    assert sums.driving[1, P.FORWARD, C.LOCK] == 9 and sums.beside[1, C.DW_QUEUED] == 4
    assert sums.beside[0, C.DW_RUN] == 80e6 and sums.beside[0, C.DW_QUEUED] == 70e6
    twice = Sums()
    twice.add(sums)
    twice.add(sums)
    assert twice.programs == {3: [200e6, 2, 10, 14]}
    assert summary(twice)["python_ms"] == 180


def test_more_spans_than_a_ring_holds_are_all_counted(tmp_path, caplog):
    """As in a large model's update: the breakdown has them, and a trace says that it has not."""
    background = Background("test")
    timeline = Timeline(trace=str(tmp_path / "trace.json"))
    timeline.start(background)
    timeline.begin_update()
    span, made = _C.Span(_C.Component.LOCK), 3 * (1 << 14)
    began = _C.spans_clock()
    for _ in range(made):
        with span:
            pass
    took = (_C.spans_clock() - began) / 1e6
    timeline.end_update(1, 1)
    background.flush()
    row = timeline.row()
    assert "spans_lost" not in row and 0 < row["spans_ms"]["between/lock"] < took
    timeline.stop(tmp_path / SUMMARY)
    background.close()
    (lock,) = (c for c in timeline.summary()["updates"]["components"] if c["component"] == "lock")
    assert lock["count"] == made
    assert f"leaves out {2 * (1 << 14)} spans" in caplog.text
    drawn = sum(e["name"] == "lock" for e in json.loads((tmp_path / "trace.json").read_text()))
    assert drawn == 1 << 14


def test_lost_spans_are_told(tmp_path, monkeypatch):
    background, lost = Background("test"), [0]
    monkeypatch.setattr(_C, "spans_dropped", lambda: lost[0])
    timeline = Timeline()
    timeline.start(background)
    timeline.begin_update()
    lost[0] = 5
    timeline.end_update(1, 1)
    background.flush()
    assert timeline.row()["spans_lost"] == 5
    timeline.stop(tmp_path / SUMMARY)
    background.close()
    told = {"label": "emulated"} | timeline.summary()
    for text in (breakdown.table(told), breakdown.line(told)):
        assert "5 spans were lost, for want of memory" in text


def test_background_keeps_order_and_stops_at_the_first_error():
    seen, here = [], threading.get_ident()
    background = Background("test")
    for i in range(100):
        background.call(seen.append, i)
    background.flush()
    assert seen == list(range(100))

    gate = threading.Event()

    def fail():
        gate.wait()
        seen.append(threading.get_ident() != here)
        raise RunError("[run] no")

    background.call(fail)
    background.call(seen.append, "late")
    gate.set()
    with pytest.raises(RunError, match="no"):
        background.flush()
    background.flush()  # told once
    background.close()
    assert seen[100:] == [True]


@pytest.mark.parametrize("refused", [False, True])
def test_rows_that_cannot_be_written_are_told_before_a_checkpoint(tmp_path, refused):
    folder = RunFolder(tmp_path / "run", resume=False)
    folder.begin(settings(tmp_path), {})
    folder.open_logs(0)
    folder.log({"step": 1}, {"step": 1})
    folder.sync()
    kept = folder._files.metrics._file

    class Full:
        def write(self, line):
            if refused:
                raise refusal("write", "a file", OSError(errno.ENOSPC, ""))
            return kept.write(line[:5])

        def fileno(self):
            raise AssertionError("synced after an error")

        def close(self):
            kept.close()

    folder._files.metrics._file = Full()
    folder.log({"step": 2}, {"step": 2})
    with pytest.raises(RunError, match="No space left"):
        folder.sync()
    folder.close()
    timings = (tmp_path / "run" / "timings.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in timings] == [1]


def test_a_second_ctrl_c_loses_no_row(tmp_path):
    def on_step(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings(tmp_path / "run"), model=BigramModel(), device=DEVICE, on_step=on_step)
    assert [r["step"] for r in rows(tmp_path / "run", "metrics.jsonl")] == [0, 1, 2, 3]
    assert [r["step"] for r in rows(tmp_path / "run")] == [0, 1, 2, 3]

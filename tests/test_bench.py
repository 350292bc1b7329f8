"""`anefast bench`: every table has units, conditions and labels; the guard holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import pytest

from anefast.bench import clock, guard, predictions, published
from anefast.bench.__main__ import main
from anefast.bench.context import Bench
from anefast.bench.table import Line, Table, merged, render, text
from anefast.bench.tables import FAST, MODULES, make, terminal
from anefast.runtime.device import Device


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    """A benchmark that somebody runs meanwhile is none of these tests' business."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(argv)
    return int(left.value.code)


def check(table: dict) -> None:
    assert table["title"] and table["conditions"] and table["lines"]
    assert table["here"].split(" ")[0] in ("emulated", "measured")
    for line in table["lines"]:
        assert line["name"] and any(line[c] is not None for c in ("here", "modelled", "published"))
        if isinstance(line["here"], float):
            assert line["unit"] or line["here"] == int(line["here"]), line


def test_the_fast_tables_print_and_are_written(tmp_path, capsys):
    file = tmp_path / "tables.json"
    assert run(*FAST, "--quick", "--json", str(file)) == 0
    said = capsys.readouterr().out
    assert "measured here" in said and "modelled m1-pro" in said and "published" in said
    assert "assumed, 4 of 21 rates of m1-pro, as m1" in said
    assert "worst" in said and "9 rates fitted" in said
    found = json.loads(file.read_text())
    assert [t["name"] for t in found["tables"]] == list(FAST)
    for table in found["tables"]:
        check(table)
    lines = {x["name"]: x["here"] for t in found["tables"] for x in t["lines"]}
    assert lines["weight file overwritten"] == "no effect"
    assert lines["inputs of their own (weights=params)"] == "taken, 0 compiles"
    assert lines["baked (weights=const)"] == "2 compiles per update"
    assert lines["programs with changed weights: hits"] == 0
    assert lines["programs with changed weights: compiled"] == 60


@pytest.mark.slow
def test_every_table_in_three_minutes(tmp_path):
    file = tmp_path / "tables.json"
    began = time.perf_counter()
    assert run("--quick", "--json", str(file)) == 0
    found = json.loads(file.read_text())["tables"]
    assert [t["name"] for t in found] == list(MODULES)
    for table in found:
        check(table)
    for table in (t for t in found if t["name"] in ("ffn", "transformer")):
        assert any("--quick leaves" in condition for condition in table["conditions"])
    counts = {x["name"]: x["here"] for t in found for x in t["lines"]}
    assert counts["compiles while training"] >= 312
    assert counts["convolutions compiled and loaded"] == 150
    assert time.perf_counter() - began < 180


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fnn"], "did you mean ffn"),
        (["model", "--chip", "m1-por"], "did you mean m1-pro"),
        (["model", "--json", "/no/such/folder/x"], "No such file"),
        (["model", "--qick"], "--quick"),
    ],
)
def test_what_makes_no_sense_is_one_line(argv, said, capsys):
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.strip().splitlines()) == 1 and not out


def test_another_chip_is_modelled(capsys):
    bench = Bench(Device("host"), "m4", quick=True)
    slow = {r.name: r.modelled for r in predictions.rows()}
    for row in bench.rows("transformer"):
        assert row.modelled < slow[row.name]
    assert "modelled m4" in "\n".join(render(make("cpu", bench)))
    assert "modelled m1-pro" in "\n".join(render(make("model", bench)))  # the only published one


@pytest.mark.parametrize("to", [terminal.to_file, terminal.to_slow_terminal])
def test_a_run_that_fails_inside_a_table_is_one_line(monkeypatch, to):
    monkeypatch.setitem(terminal.SHAPE, "plan", "al")
    with pytest.raises(RuntimeError, match=r"\[bench\] expected .* anefast train .* --plan=al"):
        terminal.throughput(to, 2)


def test_every_row_of_the_model_is_in_a_table():
    assert {row.table for row in predictions.rows()} <= set(MODULES)
    with pytest.raises(KeyError, match="no published row is called"):
        merged(predictions.rows(), {"ffn, misspelt": 1.0})


def test_cells_and_columns():
    assert [text(c) for c in (None, 0, 0.0, 60, 1234.5, 12.34, 0.01234, "hit")] == [
        "-", "0", "0", "60", "1234", "12.3", "0.0123", "hit",
    ]  # fmt: skip
    lines = (Line("a", "ms", 1.0, 2.0, "3"), Line("longer", "", None, None, "no"))
    shown = render(Table("t", "of things", "emulated on x", "m1", ("one",), lines))
    assert shown[0] == "t: of things" and shown[1] == "  one"
    assert shown[2].split() == ["unit", "emulated", "here", "modelled", "m1", "published"]
    assert len({line.rstrip()[-1] for line in shown[2:]} | {"d"}) == 3
    assert shown[3].split() == ["a", "ms", "1.00", "2.00", "3"]


# The guard.


def test_one_benchmark_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    hold = (
        "import sys; from pathlib import Path; from anefast.bench import guard\n"
        "with guard.one_at_a_time(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(guard.Busy, match="another benchmark is running"), guard.one_at_a_time(lock):
        pass
    other.communicate()
    with guard.one_at_a_time(lock):
        pass


def test_a_busy_machine_is_said_or_refused():
    assert guard.look_around(share=0.1) == ""
    assert "other processes use 80 %" in guard.look_around(share=0.8)
    with pytest.raises(guard.Busy, match="Hint"):
        guard.look_around(refuse=True, share=0.8)
    assert 0 <= guard.busy_share(0.05) <= 1


def test_neighbours_are_seen():
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.3)
        assert guard.busy_share(0.5) > guard.BUSY
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_a_race_is_run_in_turns_and_again_where_it_was_lost():
    calls: list[str] = []
    now = 0.0

    def run_of(name: str, cost: float):
        def call() -> None:
            nonlocal now
            calls.append(name)
            now += cost

        return call

    runs = {"fused": run_of("fused", 2.0), "apart": run_of("apart", 1.0)}
    times, ratios = clock.race(runs, "fused", turns=3, timer=lambda: now)
    assert len(calls) == clock.ATTEMPTS * 2 * (1 + 3)
    assert calls[:6] == ["fused", "apart", "fused", "apart", "apart", "fused"]
    assert times == {"fused": 2.0, "apart": 1.0} and ratios == {"apart": 0.5}
    calls.clear()
    clock.race(
        {"fused": runs["apart"], "apart": runs["fused"]}, "fused", turns=3, timer=lambda: now
    )
    assert len(calls) == 2 * (1 + 3)  # won: no other race


def test_the_published_rows_are_the_publication_s():
    assert published.SWEEP[0].steps_s == 0.66 and published.MEGAS[3].separate == 15227
    assert [f.separate / f.one for f in published.FFNS] == pytest.approx([12] * 5, rel=0.002)
    assert 14.1 < sum(p.weight_bytes for p in published.STORIES110M.attention) * 3 / 1e6 < 14.2

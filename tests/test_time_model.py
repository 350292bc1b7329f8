"""The time model: within its limits on every published row, and fitted as it says it is."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

from anefast.bench import __main__ as bench
from anefast.bench import held_out, predictions, published
from anefast.chips.behaviour import CHIPS, Figure
from anefast.chips.rates import RATES
from anefast.config import ModelConfig
from anefast.fuse import cut, find_plan, lower
from anefast.fuse.count import Counter, count_program
from anefast.models import ffn_graph

ROOT = Path(__file__).resolve().parent.parent
READ_OFF = ("cpu", "step")  # tables where single figures are rates themselves


def test_every_published_time_is_reproduced():
    rows = predictions.rows()
    missed = [f"{r.table} {r.name}: {100 * r.error:+.1f} %" for r in rows]
    assert len(rows) == 75
    assert not [m for m, r in zip(missed, rows, strict=True) if abs(r.error) > predictions.WORST]
    assert predictions.errors(rows)[1] <= predictions.TYPICAL
    predicted = [abs(r.error) for r in rows if r.table not in READ_OFF]
    assert median(predicted) <= predictions.TYPICAL


def test_other_chips_are_within_their_limit_and_the_cliff_is_named(capsys):
    """By chip, all rows: those that rates were fitted to, those that no fit saw, and the cliff."""
    errors = held_out.errors()
    assert set(errors) == {"m3", "m4", "m4-max", "m5"}
    assert sum(map(len, errors.values())) >= 56
    for chip, sizes in errors.items():
        assert median(sizes) <= held_out.MOST, chip
    cliff = [held_out.predicted(r).error for r in held_out.published() if r.kind == "cliff"]
    assert len(cliff) == 2 and all(error < -0.5 for error in cliff)
    with pytest.raises(SystemExit) as left:
        bench.main(["model", "--held-out"])
    said = capsys.readouterr().out
    assert left.value.code in (None, 0)
    assert said.count("median") == len({r.table for r in held_out.published()}) + len(errors)
    assert said.count("768 stacked channels") == 2


def test_rows_kept_elsewhere_are_ours():
    """The rows that the workplace keeps beside a checkout, whose file no clone has."""
    path = ROOT.parent / "shared" / "data" / "timing" / "rows.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    ours = [(r.table, *r.size, r.us) for r in held_out.published() if r.kind != "held"]
    theirs = []
    for row in json.loads(path.read_text("utf-8")):
        p = row["program"]
        channels = (p["cin"], p["cout"]) if p["kind"] == "conv" else (p["channels"],) * 2
        theirs.append((row["table"], p.get("n", 1), *channels, p["s"], row["us"][0]))
    assert sorted(ours) == sorted(theirs)


def test_each_row_is_predicted_from_the_others_of_its_chip():
    missed = fitting().left_out()
    assert {chip: len(e) for chip, e in missed.items()} == {"m4": 22, "m3": 16, "m4-max": 8}
    for chip, errors in missed.items():
        assert median(map(abs, errors)) <= held_out.MOST, chip


def fitting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit", ROOT / "benchmarks/fit_time_model.py")
    assert spec is not None and spec.loader is not None
    fit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fit)
    return fit


def test_the_rates_in_the_file_are_what_the_fit_finds():
    fit = fitting()
    found = fit.fit()
    kept = {name: getattr(RATES["m1-pro"], name).value for name in found}
    assert found == pytest.approx(kept, rel=0.006)  # a unit of the third digit
    assert all("fit_time_model" in getattr(RATES["m1-pro"], name).source for name in found)
    for chip, rates in fit.fit_chips().items():
        for name in fit.FEW[chip]:
            assert getattr(RATES[chip], name).value == pytest.approx(rates[name], rel=0.006), name
            assert "fit_time_model" in getattr(RATES[chip], name).source


def test_limits_can_fail():
    table = RATES["m1-pro"]
    for name in ("dispatch_us", "port_gb_s", "compile_attention_ms", "cpu_tflops", "tflops"):
        worse = replace(table, **{name: Figure(2 * getattr(table, name).value, "a test")})
        assert (
            predictions.errors(predictions.rows(predictions.Machine("m1-pro", worse)))[0]
            > predictions.WORST
        ), name


def test_ranges_and_errors():
    assert predictions.Row("t", "n", "ms", 8, 10, 13).error == 0
    assert predictions.Row("t", "n", "ms", 8, 6, 13).error == pytest.approx(-0.25)
    assert predictions.Row("t", "n", "ms", 8, 26, 13).error == pytest.approx(1)
    assert predictions.Row("t", "n", "ms", 8, 10).error == pytest.approx(0.25)


@pytest.mark.parametrize("layers", [1, 12])
def test_described_ffns_are_our_programs(layers):
    plan = find_plan("all")
    (program,) = cut(ffn_graph(288, 768, layers, 1, 64), plan.key).programs
    ours = count_program(lower(program, plan), {})
    theirs = published.ffn_proxy(288, 768, 64, layers)
    assert sorted(ours.products) == sorted(theirs.products)
    assert ours.port_bytes == theirs.port_bytes
    assert 0 <= ours.weight_bytes - theirs.weight_bytes < 256 * len(theirs.products)


def test_described_steps_do_the_work_of_our_unfused_plan():
    s = published.STORIES110M
    config = ModelConfig(
        dim=s.dim, hidden_dim=s.hidden, n_heads=s.heads, n_layers=2, vocab_size=published.VOCAB
    )
    ours = Counter(config, 1, s.seq).count(find_plan("unfused"))
    theirs = published.Pipeline(s, 2)
    for direction, works in (("forward", theirs.forward), ("backward", theirs.backward)):
        programs = [p for p in ours.programs if p.direction == direction]
        assert len(programs) == len(works)
        convs = sorted(p for w in works for p in w.products if p.weight_bytes)
        assert convs == sorted(p for w in programs for p in w.products if p.weight_bytes)
    # theirs computes the scores once more on the way back, ours keeps them
    again = 2 * s.pairs(1)[0].flops
    assert sum(w.flops for w in (*theirs.forward, *theirs.backward)) == ours.flops + again
    assert theirs.weight_grads - theirs.classifier == ours.weight_grad_flops
    assert len(theirs.compiled) == ours.compiles_per_update == 10


def test_known_counts_of_the_published_step():
    t = published.TRAINING
    assert len(t.forward) == 24 and len(t.backward) == 48 and len(t.compiled) == 60
    flops = sum(w.flops for w in t.forward)
    assert 1e-6 * (flops - 24 * published.STORIES110M.pairs(1)[0].flops) == pytest.approx(
        43487, rel=1e-4
    )
    assert sum(w.weight_bytes for w in t.forward) == 2 * 12 * (4 * 768**2 + 3 * 768 * 2048)


def test_every_chip_has_rates_that_make_sense():
    assert set(RATES) == {name for name, chip in CHIPS.items() if not chip.like}
    for chip in CHIPS:
        machine = predictions.Machine(chip)
        one, twelve = (published.ffn_proxy(288, 768, 64, n) for n in (1, 12))
        assert machine.evaluate(one) < machine.evaluate(twelve) < 12 * machine.evaluate(one)
        assert machine.compile(one) < machine.compile(one, first=True)
        assert all(math.isfinite(v) and v >= 0 for v in machine.step(published.TRAINING).values())


@pytest.mark.parametrize(
    ("chip", "low", "high"),
    [("m1-pro", 32, 45), ("m4", 8.9, 8.9), ("m4-max", 10, 12), ("m5", 9.1, 9.8)],
)
def test_the_forward_pass_of_other_chips(chip, low, high):
    """ms of 24 evaluations, published for M1 Pro and Max, M4 Pro, M4 Max and M5."""
    ms = predictions.Machine(chip).evaluate(*published.TRAINING.forward)
    assert abs(predictions.Row("", "", "ms", low, ms, high).error) <= predictions.WORST

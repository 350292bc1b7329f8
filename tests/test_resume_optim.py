"""Runs resume byte for byte under every optimiser and schedule, with and without an average."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import anefast
from anefast.checkpoint import find_checkpoint
from anefast.config import SCHEDULES, ConfigError, OptimConfig, TrainConfig
from anefast.export import ExportConfig, export
from anefast.optim import RECORDS
from anefast.optim.average import load_average
from anefast.telemetry import read_config
from anefast.telemetry.history import read_history
from anefast.wishes import check_pairs, of_a_run, wishes_of

from .test_resume import everything

SMALL = {"dim": 32, "n_layers": 1, "n_heads": 2, "max_seq_len": 32}
ROWS = [  # optimiser, schedule, half-life of the average
    ("adamw", "cosine", 0),
    ("adam", "linear", 500),
    ("lion", "constant", 0),
    ("muon", "wsd", 500),
    ("sgd", "inverse-sqrt", 0),
    ("adafactor", "wsd", 500),
    ("adamw", "inverse-sqrt", 500),
]


def run(out, steps=6, stop=None, lines=None, plan="all", **changes):
    """Six updates of a model of one layer; it stops behind update `stop` as by a signal."""
    nested = {
        "model": SMALL,
        "data": {"source": "stories:20", "seq_len": 32, "batch": 2},
        "optim": {"name": "adamw", "lr": 0.01, "warmup_steps": 2, "accumulation": 2},
    }
    config = TrainConfig.from_preset(
        "tiny",
        **{"steps": steps, "eval_every": 2, "eval_batches": 1, "sample_tokens": 0, "plan": plan},
        **{"out": str(out), "device": "host"},
        **{k: {**nested.get(k, {}), **changes.pop(k, {})} for k in ("model", "data", "optim")},
        **changes,
    )
    return anefast.fit(
        config, bar=False, asked={"optim.lr"}, on_step=stopper(stop),
        show=lines.append if lines is not None else lambda line: None,
    )  # fmt: skip


def stopper(stop):
    def on_step(row):
        if row["step"] == stop:
            raise KeyboardInterrupt

    return on_step


def resume(out, **changes):
    """Goes on with the settings that the run's folder has."""
    settings = of_a_run(read_config(out))
    lines = changes.pop("lines", None)
    for name, value in changes.items():
        settings[name] = {**settings[name], **value} if isinstance(value, dict) else value
    config = anefast.config.from_settings({**settings, "resume": str(out), "out": str(out)})
    show = lines.append if lines is not None else lambda line: None
    return anefast.fit(config, bar=False, asked={"optim.lr"}, show=show)


def test_every_optimiser_and_schedule_is_resumed():
    assert {r[0] for r in ROWS} == set(RECORDS) and {r[1] for r in ROWS} == set(SCHEDULES)


@pytest.mark.parametrize("name,schedule,half_life", ROWS)
def test_a_stopped_run_resumes_byte_for_byte(tmp_path, name, schedule, half_life):
    changes = {
        "optim": {"name": name, "ema_tokens": half_life},
        "schedule": {"name": schedule, **({"decay": 0.5} if schedule == "wsd" else {})},
    }
    run(tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", stop=3, **changes)
    resume(tmp_path / "run")
    whole, resumed = everything(tmp_path / "whole"), everything(tmp_path / "run")
    assert resumed == whole
    assert whole["state"]["optimizer"] == name and whole["state"]["optimizer_step"] == 6
    arrays = load_file(find_checkpoint(tmp_path / "run") / "optim.safetensors")
    groups = {n.partition(".")[0] for n in arrays}
    assert ("ema" in groups) == bool(half_life) and len(groups) > bool(half_life)


def test_another_optimiser_is_refused_by_name_and_taken_up_fresh(tmp_path):
    out, lines = tmp_path / "run", []
    with pytest.raises(KeyboardInterrupt):
        run(out, stop=2)
    with pytest.raises(ConfigError, match=r"optim.name is lion.*with adamw"):
        resume(out, optim={"name": "lion", "eps": -1, "weight_decay": -1})
    lion = {"name": "lion", "eps": -1, "beta1": -1, "beta2": -1, "weight_decay": -1}
    resume(out, optim={**lion, "fresh": True}, steps=4, lines=lines)
    assert any("lion begins with states of zeros" in line for line in lines)
    state = json.loads((find_checkpoint(out) / "state.json").read_text())
    assert (state["optimizer"], state["optimizer_step"], state["step"]) == ("lion", 2, 4)
    lines.clear()
    resume(out, steps=6, lines=lines)  # once is enough
    state = json.loads((find_checkpoint(out) / "state.json").read_text())
    assert (state["optimizer_step"], state["step"]) == (4, 6)
    assert not any("zeros" in line for line in lines)


def test_a_cool_down_branches_off_a_checkpoint(tmp_path):
    out, lines = tmp_path / "run", []
    run(out, steps=4, schedule={"name": "constant"})
    resume(out, steps=8, schedule={"decay_from": "now"}, lines=lines)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if "lr" in row]
    falls = [0.01, *(0.001 + 0.009 * (1 - np.sqrt(x / 4)) for x in (1, 2, 3, 4))]
    assert rates[3:] == pytest.approx(falls)
    assert any("at update 4 cools down to 1.0e-03 at 8" in line for line in lines)
    assert read_config(out)["schedule"]["decay_from"] == "4"
    with pytest.raises(ConfigError, match="from 8, the updates made, to below steps 9, got 5"):
        resume(out, steps=9, schedule={"decay_from": "5"})
    with pytest.raises(ConfigError, match="now is for a run that is resumed"):
        run(tmp_path / "new", schedule={"decay_from": "now"})


def test_a_rate_that_nobody_named_is_the_optimiser_s(tmp_path):
    lines: list[str] = []
    config = TrainConfig.from_preset("bytes", optim={"name": "lion"})
    said = anefast.opening.with_optimiser(config, wishes_of(config), lines.append, None)
    assert (said.lr, said.beta2) == (pytest.approx(6e-4), 0.99) and "x one of adamw" in lines[0]
    kept = anefast.opening.with_optimiser(
        config, wishes_of(config, {"optim.lr"}), lines.append, None
    )
    assert kept.lr == 3e-3
    with pytest.raises(ConfigError, match="nothing is resumed"):
        fresh = config.replace(optim=config.optim.replace(fresh=True))
        anefast.opening.with_optimiser(fresh, wishes_of(fresh), lines.append, None)


def test_the_average_is_of_the_weights_and_is_exported(tmp_path):
    out = tmp_path / "run"
    result = run(out, optim={"ema_tokens": 128, "accumulation": 1})  # 64 tokens: half of it each
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val/ema"] != rows[-1]["val/loss"]
    model = anefast.Model.load(out)
    average = load_average(out, model.params, model.vocabulary)
    export(ExportConfig(str(out), str(tmp_path / "hf"), ema=True))
    loaded = anefast.Model.load(tmp_path / "hf")
    for name, a in average.items():
        assert not np.array_equal(a, model.params[name]) and np.array_equal(a, loaded.params[name])
    assert result.model.params["norm"].tobytes() == model.params["norm"].tobytes()
    run(tmp_path / "none")
    with pytest.raises(ValueError, match="no average of these weights"):
        export(ExportConfig(str(tmp_path / "none"), str(tmp_path / "x"), ema=True))


@pytest.mark.parametrize("plan", ["all", "all,async", "all,weights=params"])
def test_the_average_is_evaluated_where_asked_and_changes_nothing(tmp_path, plan):
    """At every validation, under programs that bake weights, at once and behind, and others."""
    asked = {"ema_tokens": 128, "ema_eval": True}
    run(tmp_path / "often", plan=plan, optim=asked)
    run(tmp_path / "once", plan=plan, optim={**asked, "ema_eval": False})
    often, once = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("often", "once")
    )
    assert [r["step"] for r in often if "val/ema" in r] == [2, 4, 6]
    assert [r["step"] for r in once if "val/ema" in r] == [6]
    without = [{k: v for k, v in row.items() if k != "val/ema"} for row in often]
    assert without == [{k: v for k, v in row.items() if k != "val/ema"} for row in once]
    assert often[-1]["val/ema"] == once[-1]["val/ema"]
    first, second = everything(tmp_path / "often"), everything(tmp_path / "once")
    assert (first["model"], first["optim"]) == (second["model"], second["optim"])
    assert read_history(tmp_path / "often").series("val/ema").steps == [2, 4, 6]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", stop=4, plan=plan, optim=asked)  # no stale programs behind it
    resume(tmp_path / "run")
    assert everything(tmp_path / "run") == first


def test_no_average_is_evaluated_where_none_is_kept():
    with pytest.raises(ConfigError, match=r"optim\.ema_eval evaluates an average.*ema_tokens"):
        config = TrainConfig(optim=OptimConfig(ema_eval=True))
        check_pairs(config, wishes_of(config))


def test_a_run_ends_where_patience_does(tmp_path):
    """A rate of 0 lowers no loss: validations at 2 and 4 are two too many."""
    still = {"optim": {"lr": 0.0}, "steps": 20, "patience": 2}
    lines: list[str] = []
    result = run(tmp_path / "whole", lines=lines, **still)
    assert not result.interrupted and len(result.losses) == 4
    assert any("ended at update 4 of 20: 2 validations in a row" in line for line in lines)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", stop=3, **still)
    assert len(resume(tmp_path / "run").losses) == 4
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    assert len(resume(tmp_path / "run").losses) == 4  # it has ended
    assert len(resume(tmp_path / "run", patience=3).losses) == 6
    assert len(run(tmp_path / "learns", patience=1).losses) == 6

"""Updates of more micro-batches from some update on: what they read, and byte-exact resume."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anefast.config import ConfigError, OptimConfig, TrainConfig
from anefast.data import Batches, Epoch
from anefast.forecast import forecast, other_batch
from anefast.opening import with_optimiser
from anefast.ramp import Ramp
from anefast.telemetry.history import read_history
from anefast.wishes import wishes_of

from .test_resume import everything, run
from .test_resume_optim import resume
from .test_resume_optim import run as train

RAMP = {"optim": {"accumulation": 2, "ramp": "5@6, 1@9"}, "steps": 12}
SIZES = [2] * 5 + [5] * 3 + [1] * 4


def test_a_ramp_is_a_function_of_the_update():
    ramp = Ramp.of(2, "5@6,1@9")
    assert [ramp.at(update) for update in range(1, 13)] == SIZES and ramp.most == 5
    assert [ramp.total(n) for n in range(13)] == [sum(SIZES[:n]) for n in range(13)]
    assert Ramp.of(3, "") == Ramp(3)


@pytest.mark.parametrize("text", ["8", "8@1", "0@5", "8@9, 4@9", "8@9, 4@5", "@5", "8@x", "8@5,"])
def test_what_is_no_ramp_is_refused(text):
    with pytest.raises(ConfigError, match=r"optim\.ramp must be .* Hint: 8@500, 32@2000 has"):
        OptimConfig(ramp=text)


def test_each_micro_batch_is_read_once_and_in_order(tmp_path, monkeypatch):
    read, batch = [], Batches.batch
    monkeypatch.setattr(Batches, "batch", lambda self, n: (read.append(n), batch(self, n))[1])
    run(tmp_path / "run", **RAMP)
    assert read == list(range(sum(SIZES)))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert np.diff([row["tokens"] for row in rows]).tolist() == [2 * 32 * n for n in SIZES]
    assert read_history(tmp_path / "run").micro_batches.total(12) == sum(SIZES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("ramp") / "run"
    run(out, **RAMP)
    return everything(out)


@pytest.mark.parametrize("at", [{"stop_after": 5}, {"micro": 12}, {"micro": 27}, {"stop_after": 8}])
def test_a_stopped_ramp_resumes_byte_for_byte(tmp_path, whole, at):
    """Before the ramp's first step, inside an update of either size, and behind its second."""
    run(tmp_path / "run", **RAMP, **at)
    run(tmp_path / "run", **RAMP, resume=str(tmp_path / "run"))
    assert everything(tmp_path / "run") == whole


def test_ranks_read_in_each_update_what_one_would(tmp_path):
    """Two ranks of half the micro-batches: the same data, so nearly the same losses."""
    two = train(tmp_path / "two", dist={"emulate": 2}, optim={"accumulation": 1, "ramp": "2@3"})
    one = train(tmp_path / "one", optim={"accumulation": 2, "ramp": "4@3"})
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-4)


@pytest.mark.parametrize("plan", ["all", "all,async"])
def test_a_ramp_trains_and_resumes_under_programs(tmp_path, plan):
    """Async plans swap after a quarter of each update's own micro-steps."""
    ramp = {"optim": {"accumulation": 1, "ramp": "4@3"}, "plan": plan, "max_compiles": 10**6}
    train(tmp_path / "whole", **ramp)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop=4, **ramp)
    resume(tmp_path / "run")
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    config = TrainConfig(swap_after=0.25, optim=OptimConfig(accumulation=1, ramp="8@3"))
    assert [config.swap_at(update) for update in (2, 3)] == [0, 2]


@pytest.mark.parametrize(
    "name,factor",
    [("adamw", "the square root of the batch, here by 2"), ("sgd", "the batch, here by 4")],
)
def test_the_advice_for_the_rate_follows_the_optimiser(name, factor):
    config = TrainConfig.from_preset(
        "bytes", steps=10, optim={"name": name, "accumulation": 2, "ramp": "8@5, 16@50"}
    )
    lines = forecast(config, Epoch(10**6, 128))
    assert "as 10 updates of 2,048 to 8,192 tokens" in lines[0]
    assert [line for line in lines if line.startswith("ramp:")] == [
        f"ramp: 8 micro-batches from update 5 on, 4 x the first ones; rates of {name} grow with "
        f"{factor}, and lr keeps to its schedule"
    ]
    lines = forecast(config.replace(steps=4), Epoch(10**6, 128))
    assert any("ends at update 4, before it begins" in line for line in lines)


@pytest.mark.parametrize(
    "changes,hint",
    [
        ({"data": {"batch": 32}}, "the square root of the batch; --optim.lr 0.006"),
        ({"optim": {"accumulation": 4, "name": "sgd"}}, "the batch; --optim.lr 0.36"),
        ({"data": {"batch": 2}}, "the square root of the batch; --optim.lr 0.0015"),
        ({"data": {"batch": 12}}, None),
        ({"data": {"batch": 32}, "optim": {"lr": 1e-3}}, None),
    ],
)
def test_another_batch_than_the_preset_s_is_said(changes, hint):
    lines: list[str] = []
    config = TrainConfig.from_preset("bytes", **changes)
    with_optimiser(config, wishes_of(config), lines.append, None)
    found = [line for line in lines if "tokens per update" in line]
    assert len(found) == (hint is not None)
    assert all(line.endswith(f"grow with {hint}") for line in found)


def test_ranks_make_the_batch_larger():
    lines: list[str] = []
    config = TrainConfig.from_preset("bytes")
    with_optimiser(config, wishes_of(config), lines.append, None, 4)
    assert lines[0].endswith("grow with the square root of the batch; --optim.lr 0.006"), lines


def test_no_preset_no_advice():
    config = TrainConfig()
    assert other_batch(config.preset, config.update_tokens, config.optim) == ""

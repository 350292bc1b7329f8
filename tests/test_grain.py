"""What fixed-point products lose of gradients: the estimate against products themselves, the report
that names it, and the loss scale that grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.config import LossScaleConfig, ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.optim import LossScale
from anefast.runtime import TrainingStep
from anefast.runtime.grain import Lost, lost, starved

from .test_fixed import value

MODEL = ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=172, vocab_size=64)


def halves(shape: tuple[int, int], size: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float16)


@pytest.mark.parametrize("size", [2.0**-20, 2.0**-14, 2.0**-11, 2.0**-8, 1.0])
def test_dropped_terms_are_counted_as_the_rule_has_them(size):
    """Every pair of elements meets in a product of a column by a row."""
    dy, w = halves((60, 1), size, 0), halves((1, 70), 0.03, 1)
    dy[:5], w[0, :3] = 0, 0
    pairs = [
        (value(a)[1] + value(b)[1]) <= -17
        for a in dy.view(np.uint16)[:, 0]
        for b in w.view(np.uint16)[0]
        if a & 0x7FFF and b & 0x7FFF
    ]
    found = lost(dy.reshape(-1), w.reshape(-1))
    assert found.dropped == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found.zero == pytest.approx(np.mean(dy == 0)) and found.zero >= 5 / 60


@pytest.mark.parametrize("size", [2.0**-13, 2.0**-11, 2.0**-9, 2.0**-6])
def test_the_error_is_that_of_the_product_within_a_factor_of_two(size):
    dy, w = halves((128, 200), size, 2), halves((200, 96), 0.03, 3)
    out = np.empty((128, 96), np.float16)
    _C.gemm(dy, w, out, fixed=True)
    exact = dy.astype(float) @ w.astype(float)
    error = np.linalg.norm(out - exact) / np.linalg.norm(exact)
    found = lost(dy.reshape(-1), w.reshape(-1))
    # Terms that were dropped whole are worse than rounded ones.
    assert found.error / 2 < error < found.error * 2 + found.dropped
    assert error < 0.01 or found.error > 0.005


def test_nothing_of_nothing_is_lost():
    assert lost(np.zeros(8, np.float16), halves((1, 8), 1, 0)[0]) == Lost(0.0, 0.0, 1.0)
    assert not starved({})
    three = {str(i): Lost(0, e, 0) for i, e in enumerate((0.0, 0.0, 0.0, 0.5))}
    assert starved(three)  # a quarter of them
    assert not starved(three | {"more": Lost(0, 0, 0)})


def gradients(chip: str, scale: float, plan: str = "layer") -> tuple[dict[str, np.ndarray], Any]:
    """Gradients of one micro-step, their scale taken out, and what was said of it."""
    x = np.random.default_rng(1).integers(0, 64, (2, 32)).astype(np.int32)
    device = anefast.Device("host", chip=chip)
    step = TrainingStep(MODEL, anefast.init_params(MODEL, 0), device, 2, 32, find_plan(plan))
    step.begin_update()
    step.micro_step(x, np.roll(x, -1, 1), scale)
    step.wait()
    found = {name: g / scale for name, g in step.grads.items()}
    report = step.health.look(step.params)
    asked = step.starved()
    step.close()
    return found, (asked, report)


@pytest.mark.parametrize("plan", ["unfused", "all", "layer,recompute", "layer,weights=params"])
def test_a_small_scale_loses_gradients_and_the_report_says_which(plan):
    """The incident of an M3 Pro in a model: gradients too small for their products vanish."""
    exact, (asked, report) = gradients("", 2.0**-6, plan)
    assert not asked and report.lost == {}  # fp32 sums lose nothing so
    small, (asked, report) = gradients("m4", 2.0**-6, plan)
    worst = "layers.0.attn.wq"
    assert asked and report.lost[worst].error > 0.5 and report.lost[worst].dropped > 0.9
    assert not small[worst].any() or relative(small, exact, worst) > 0.5
    (said,) = [f for f in report.findings if "fixed point" in f.message]
    assert said.kind == "underflow" and "larger loss scale" in said.message
    row = report.row()
    assert row["health/product_dropped"] > 0.9 and row["health/product_error"] > 0.5
    assert 0 <= row["health/product_zero"] <= 1
    large, (asked, report) = gradients("m4", 64.0, plan)
    assert not asked and not [f for f in report.findings if "fixed point" in f.message]
    assert relative(large, exact, worst) < 0.1


def relative(a: dict[str, np.ndarray], b: dict[str, np.ndarray], name: str) -> float:
    return float(np.linalg.norm(a[name] - b[name]) / np.linalg.norm(b[name]))


def test_the_scale_grows_when_starved_and_never_past_its_maximum():
    scale = LossScale(LossScaleConfig(initial=1.0, growth_interval=100, maximum=8.0))
    seen = []
    for overflow, hungry in ((False, True), (False, True), (True, True), *[(False, True)] * 4):
        scale.update(overflow, hungry)
        seen.append(scale.value)
    assert seen == [2, 4, 2, 4, 8, 8, 8]
    still = LossScale(LossScaleConfig(initial=1.0, dynamic=False))
    still.update(False, True)
    assert still.value == 1


def test_a_scale_leaves_room_for_the_largest_gradient_of_late():
    """stories260k on an M4: one update's gradients are 100 times those of the one before. At a
    scale of 512 they overflow, at 128 they do not."""
    scale = LossScale(LossScaleConfig(initial=1.0, growth_interval=50, maximum=1024.0))
    for unit in (14.1, 0.35):  # of the largest gradient, without the scale
        for _ in range(20):
            scale.update(False, True, unit * scale.value)
        assert scale.value == 128
    again = LossScale(scale.config)
    again.restore(json.loads(json.dumps(scale.state())))
    for _ in range(40):  # in the end what is long past counts less
        for one in (scale, again):
            one.update(False, True, 0.35 * one.value)
    assert scale.value == again.value > 128 and scale.state() == again.state()
    scale.update(True, True, 3.0)
    assert scale.value * 2 * scale.peak > 2**15 / 16  # no growth right after an overflow


def run(out: Path, chip: str, dynamic: bool) -> tuple[list[dict[str, Any]], list[float]]:
    config = TrainConfig(
        steps=8, out=str(out), chip=chip, plan="layer", eval_every=0, sample_tokens=0,
        health_every=1, model=MODEL.replace(vocab_size=0),
        loss_scale=LossScaleConfig(initial=2.0**-6, dynamic=dynamic),
    )  # fmt: skip
    data = config.data.replace(source="stories:50", seq_len=32, batch=2)
    optim = config.optim.replace(accumulation=1)
    anefast.fit(config.replace(data=data, optim=optim))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return rows, [row["loss_scale"] for row in rows if "loss_scale" in row]


def test_a_run_finds_its_scale_on_a_chip_and_is_left_alone_elsewhere(tmp_path):
    rows, scales = run(tmp_path / "m4", "m4", True)
    assert scales[0] == 2.0**-6 and scales[-1] == 2.0 ** (-6 + len(scales) - 1)  # doubled each time
    assert rows[1]["health/product_error"] > rows[-1]["health/product_error"]
    rows, scales = run(tmp_path / "still", "m4", False)
    assert set(scales) == {2.0**-6} and rows[-1]["health/product_error"] > 0.5
    rows, scales = run(tmp_path / "exact", "", True)
    assert set(scales) == {2.0**-6} and "health/product_error" not in rows[1]


UPDATES = 120


def curve(out: Path, data_dir: Path, chip: str, initial: float, dynamic: bool) -> list[float]:
    config = TrainConfig.from_preset("stories260k", steps=UPDATES, out=str(out), chip=chip)
    data = config.data.replace(
        source=str(data_dir / "tinystories_train_2MiB.txt"),
        tokenizer=str(data_dir / "tok512.bin"),
        collapse_spaces=True,
    )
    scale = config.loss_scale.replace(initial=initial, dynamic=dynamic)
    config = config.replace(
        data=data, loss_scale=scale, sample_tokens=0, eval_every=30, eval_batches=8, plan="all"
    )
    losses = [loss for _, loss in anefast.fit(config).val_losses]
    print(f"{chip or 'exact':6} {initial:<8g} dynamic={dynamic}: {losses}")
    return losses


@pytest.mark.slow
def test_so_small_a_scale_that_products_vanish_costs_loss_and_is_found_out(tmp_path, data_dir):
    """From scratch; the default scale against exact is test_profile_training.py's."""
    exact = curve(tmp_path / "exact", data_dir, "", 64.0, True)[-1]
    starved = curve(tmp_path / "starved", data_dir, "m4", 2.0**-6, False)[-1]
    grown = curve(tmp_path / "grown", data_dir, "m4", 2.0**-6, True)[-1]
    assert starved > 1.08 * exact and grown < 1.04 * exact
    rows = (tmp_path / "starved" / "metrics.jsonl").read_text().splitlines()
    seen = [row for row in map(json.loads, rows) if "health/product_error" in row]
    assert seen[0]["health/product_error"] > 0.9 and seen[0]["health/worst"]

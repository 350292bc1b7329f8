"""Training under every chip's profile, and numeric health: the report names the right tensor."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anefast
from anefast import _C, ir
from anefast.chips.behaviour import CHIPS
from anefast.config import LossScaleConfig, ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.models import layers
from anefast.runtime import TrainingStep
from anefast.runtime.inspect.health import Report, counts

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=33)
PLANS = ["unfused", "all", "all,weights=params", "layer,ports=packed"]


def stories260k(data_dir: Path, out: Path, chip: str, steps: int, **data: int) -> float:
    """The validation loss of a short run on real data."""
    config = TrainConfig.from_preset("stories260k", steps=steps, out=str(out), chip=chip)
    config = config.replace(
        data=config.data.replace(
            source=str(data_dir / "tinystories_train_2MiB.txt"),
            tokenizer=str(data_dir / "tok512.bin"),
            collapse_spaces=True,
            **data,
        ),
        sample_tokens=0,
        eval_every=0,
        eval_batches=2 if data else 8,
        plan="all",
    )
    return anefast.fit(config).val_losses[-1][1]


@pytest.fixture(scope="module")
def exact(data_dir, tmp_path_factory):
    """Validation losses of the exact profile by number of updates."""
    known: dict[int, float] = {}

    def loss(steps: int) -> float:
        if steps not in known:
            known[steps] = stories260k(data_dir, tmp_path_factory.mktemp("exact") / "r", "", steps)
        return known[steps]

    return loss


NUMBERS = ("products", "rounding", "slice_cap", "product_cap", "nan")
NUMBERS += ("denormals", "sums", "tables", "tiny")


def alike() -> dict[str, list[str]]:
    """Chips whose numbers end in the same places, by the first of them."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, chip in CHIPS.items():
        key = (chip.dialect, *(chip.switches[n].value for n in NUMBERS))
        groups.setdefault(key, []).append(name)
    return {names[0]: names for names in groups.values()}


@pytest.mark.slow
@pytest.mark.parametrize("chip", alike())
def test_stories260k_trains_within_2_percent_of_exact(exact, data_dir, tmp_path, chip):
    loss = stories260k(data_dir, tmp_path / "run", chip, 200)
    print(f"{chip}: {loss:.4f}, exact {exact(200):.4f}")
    assert loss == pytest.approx(exact(200), rel=0.02) and loss < 3.6


@pytest.mark.slow
@pytest.mark.parametrize("names", [n for n in alike().values() if len(n) > 1], ids="-".join)
def test_chips_that_are_alike_train_alike(data_dir, tmp_path, names):
    losses = {stories260k(data_dir, tmp_path / n, n, 6, batch=4, seq_len=64) for n in names}
    assert len(losses) == 1


@pytest.mark.parametrize("chip", ["m1-pro"])
def test_a_short_run_stays_within_2_percent_of_exact(data_dir, tmp_path, chip):
    loss = stories260k(data_dir, tmp_path / "run", chip, 8, batch=4, seq_len=64)
    wanted = stories260k(data_dir, tmp_path / "exact", "", 8, batch=4, seq_len=64)
    assert loss == pytest.approx(wanted, rel=0.02) and loss != wanted


# Numeric health.


def naive_norm(x: ir.Tensor, name: str, epsilon: float) -> ir.Tensor:
    """RMSNorm as a textbook writes it: squares before anything is scaled."""
    mean = ir.reduce_sum(x * x, (1,)) * (1 / x.shape[1])
    return x * ir.pow(mean + epsilon, -0.5) * ir.parameter(name, (1, x.shape[1], 1, 1))


def look(
    plan: str, chip: str = "", scale: float = 64.0, gain: float = 1.0, w3: float = 1.0
) -> Report:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 33, (2, 32)).astype(np.int32)
    params = anefast.init_params(CONFIG, 0)
    params["tok_embeddings"] *= gain
    params["layers.0.ffn.w3"] *= w3
    device = anefast.Device("host", chip=chip)
    step = TrainingStep(CONFIG, params, device, 2, 32, find_plan(plan))
    step.micro_step(x, np.roll(x, -1, 1), scale)
    step.wait()
    report = step.health.look(params)
    step.close()
    return report


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("chip", ["", "m1"])
def test_a_naive_norm_is_found_inside_its_program(monkeypatch, plan, chip):
    # Embeddings of about 60, then 600: the sum of their squares leaves fp16, then each square.
    assert not any(f.kind == "overflow" for f in look(plan, chip, gain=3e3).findings)
    monkeypatch.setattr(layers, "rms_norm", naive_norm)
    for gain, op in ((3e3, "reduce_sum"), (3e4, "mul")):
        found = look(plan, chip, gain=gain).findings[0]
        assert (found.kind, found.name) == ("overflow", f"layers.0.attn.qkv.{op}_0")
        assert f"in {op}" in found.message and "scale before squaring" in found.message


@pytest.mark.parametrize("plan", PLANS)
def test_an_oversized_loss_scale_is_found_where_it_enters(plan):
    report = look(plan, scale=2.0**22)
    assert report.findings[0].name == "dh" and "smaller loss scale" in report.findings[0].message
    assert report.row()["health/worst"] == "dh" and report.row()["health/overflow"] > 0
    assert report.worst()[0][1].overflow > 0


def test_an_undersized_loss_scale_underflows():
    report = look("all", scale=2.0**-10)
    assert report.findings[0].kind == "underflow" and "larger loss scale" in str(report.findings)
    assert look("all").findings == []


@pytest.mark.parametrize("plan", PLANS)
def test_products_beyond_the_cliff_overflow_under_a_chip_only(plan):
    exact, chip = (look(plan, chip, w3=1e5).findings[0] for chip in ("", "m1"))
    assert (exact.kind, chip.kind) == ("saturation", "overflow")
    written = "matmul" if "params" in plan else "conv"  # how the text has it
    assert (exact.name, chip.name) == ("layers.0.ffn.conv_1", f"layers.0.ffn.{written}_1")
    assert "end at 32768 on a chip" in chip.message


def small(out: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig.from_preset("bytes", steps=4, out=str(out), chip="m1")
    return config.replace(
        data=config.data.replace(source="stories:100", batch=2, seq_len=32),
        model=config.model.replace(dim=32, n_layers=1, n_heads=2),
        sample_tokens=0, eval_every=0, eval_batches=1, plan="all", **changes,
    )  # fmt: skip


@pytest.mark.parametrize("at", [0, 2])
def test_an_overflow_in_any_micro_step_is_named(tmp_path, monkeypatch, at):
    scales = itertools.count()
    micro_step = TrainingStep.micro_step

    def faulty(self, x, y, loss_scale):
        return micro_step(self, x, y, 2.0**22 if next(scales) == at else loss_scale)

    monkeypatch.setattr(TrainingStep, "micro_step", faulty)
    said: list[str] = []
    still = LossScaleConfig(dynamic=False)  # one that moves takes that advice by itself
    config = small(tmp_path / "run", health_every=2, loss_scale=still)
    optim = config.optim.replace(accumulation=4)
    anefast.fit(config.replace(optim=optim, steps=2), show=said.append)
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["health/worst"] == "dh" and rows[1]["health/overflow"] > 0
    assert rows[2]["health/overflow"] == 0 and "health/worst" not in rows[2]
    told = [line for line in said if line.startswith("health, update 1: dh: ")]
    assert len(told) == 1 and "smaller loss scale" in told[0]


@pytest.mark.parametrize("n", [1, 7, 16384, 50001])
def test_counting(n):
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 65536, n, np.uint16)
    h = bits.view(np.float16)
    a = np.abs(h.astype(np.float64))
    finite = a[np.isfinite(a)]
    want = (
        n, np.isinf(a).sum(), np.isnan(a).sum(), ((a > 0) & (a < 2.0**-14)).sum(), (a == 0).sum(),
        (finite >= 32752).sum(), finite.max(initial=0),
    )  # fmt: skip
    assert tuple(counts(h)) == want
    for wrong in (_C.half_health, _C.half_overflows):
        with pytest.raises(ValueError, match="float16"):
            wrong(np.zeros(4, np.float32))


@pytest.mark.parametrize("shape", [(1, 5, 1, 32), (2, 7, 1, 64), (3, 2, 4, 96), (4, 9)])
def test_lines_that_are_0_are_counted(shape):
    rng = np.random.default_rng(1)
    h = rng.standard_normal(shape).astype(np.float16)
    assert _C.half_zero_lines(h) == (0, 0)
    h[..., 3] = 0
    h[0, ..., 8] = -0.0
    h[1 % shape[0], 1] = 0
    flat = h.reshape(shape[0], -1, shape[-1])
    want = (flat == 0).all(2).sum(), (flat == 0).all(1).sum()
    assert _C.half_zero_lines(h) == want and want[1] > shape[0]
    with pytest.raises(ValueError, match="float16"):
        _C.half_zero_lines(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("plan", ["unfused", "layer"])
def test_one_position_that_vanished_is_found(plan):
    """One of 64: a thirty-second of an eighth of the tensor."""
    x = np.random.default_rng(1).integers(0, 33, (2, 32)).astype(np.int32)
    params = anefast.init_params(CONFIG, 0)
    step = TrainingStep(CONFIG, params, anefast.Device("host"), 2, 32, find_plan(plan))
    step.micro_step(x, x, 64.0)
    step.wait()
    assert step.health.look(params).findings == []
    t = next(t for t in step.compiled.bound[0].made if t.shape == (2, 32, 1, 32))
    with step.compiled.surfaces[t].write() as data:
        data[1, :, :, 7] = 0
    (found,) = step.health.look(params).findings
    assert (found.kind, found.name) == ("vanished", step.health.names[t])
    assert "1 of 64 positions are 0 in every channel" in found.message
    step.close()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
def test_one_that_overflowed_is_seen_wherever_it_is(value):
    h = np.full(40000, -65504, np.float16)
    h[::3] = 2.0**-24
    assert not _C.half_overflows(h) and not _C.half_overflows(h[:0])
    for at in (0, 16383, 16384, 39999):
        h[at] = value
        assert _C.half_overflows(h)
        h[at] = 0


def test_what_a_dynamic_scale_handles_is_counted_at_the_end(tmp_path):
    said: list[str] = []
    scale = LossScaleConfig(initial=2.0**20, maximum=2.0**20)
    anefast.fit(small(tmp_path / "run", health_every=2, loss_scale=scale), show=said.append)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    skipped = sum(bool(json.loads(line).get("overflow")) for line in text.splitlines())
    told = [line for line in said if "overflow" in line]
    assert skipped > 1 and len(told) == 1
    assert told[0].startswith(f"{skipped} updates were skipped as gradients overflowed")


def test_a_run_says_so_once_and_writes_it_down(tmp_path):
    said: list[str] = []
    scale = LossScaleConfig(initial=2.0**20, maximum=2.0**20, dynamic=False)
    config = small(tmp_path / "run", health_every=2, loss_scale=scale)
    anefast.fit(config, show=said.append)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows[1]["overflow"] and rows[1]["health/overflow"] > 0  # an overflow always gets a look
    assert "health/overflow" in rows[2]
    told = [line for line in said if line.startswith("health, update 1: ")]
    assert len([t for t in told if "overflowed" in t]) == 1 and "loss scale" in told[0]
    assert rows[1]["health/worst"] in told[0]
    assert any(line.startswith("device: host as m1 (") for line in said)

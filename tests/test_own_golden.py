"""The program path against goldens that the repository carries (goldens.py made them in float64).

The same questions that test_golden.py asks of a public checkpoint, where that is at hand.
"""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.config import OptimConfig
from anefast.formats import llama2c
from anefast.optim import Optimizer
from anefast.tokenizer import ByteTokenizer
from tests import goldens
from tests.reference import relative_error
from tests.tolerances import TOLERANCES

LOSS_SCALE = 64.0


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(goldens.GOLDEN))


@pytest.fixture(scope="module")
def model():
    return anefast.Model.load(goldens.MODEL, "bytes")


def test_the_goldens_are_what_their_script_computes(golden, model):
    """The forward and the backward pass and one update; sums in another order differ a little."""
    exact = {n: p.astype(np.float64) for n, p in model.params.items()}
    loss, grads, logits = goldens.mean_loss(exact, golden["x"], golden["y"])
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-12)
    np.testing.assert_allclose(logits[:, -1], golden["logits_last"], rtol=1e-9, atol=1e-9)
    for name, g in grads.items():
        assert relative_error(golden[f"grad/{name}"], g) < 1e-7, name
    assert goldens.AdamW(exact).update(grads) == pytest.approx(golden["steps/norms"][0], rel=1e-9)
    x, y = golden["steps/x"][1], golden["steps/y"][1]
    after = goldens.mean_loss(exact, x, y)[0]
    assert after == pytest.approx(float(golden["steps/losses"][1]), rel=1e-9)


@pytest.mark.parametrize("mode", [mode for mode in TOLERANCES if mode != "relaxed"])
def test_loss_logits_and_gradients(golden, model, mode):
    allowed = TOLERANCES[mode]
    device = anefast.Device("host", chip="" if mode == "exact" else mode)
    x, y = golden["x"], golden["y"]
    step = model.training_step(device, batch=goldens.B, seq=goldens.S, plan="all")
    loss, tokens = step.micro_step(x, y, LOSS_SCALE)
    step.wait()
    assert tokens == x.size
    assert abs(loss / tokens - golden["loss"]) < allowed.small_loss
    if mode == "exact":
        np.testing.assert_allclose(step.nll, golden["nll"], atol=0.02)
    grads = {name: g / (LOSS_SCALE * tokens) for name, g in step.grads.items()}
    step.close()
    for name, g in grads.items():
        assert relative_error(g, golden[f"grad/{name}"]) < allowed.small_gradient, name


def test_logits_and_greedy_choices(golden, model):
    inference, sure = model.inference(anefast.Device("host")), 0
    for row, want in zip(golden["x"], golden["logits_last"], strict=True):
        assert np.abs(inference.logits(list(row)) - want).max() < 0.02
    ids, gaps = golden["greedy/ids"].tolist(), golden["greedy/gaps"]
    for at, gap in enumerate(gaps, start=len(ids) - len(gaps)):
        if gap > 0.04:
            assert int(inference.logits(ids[:at]).argmax()) == ids[at], at
            sure += 1
    inference.close()
    assert sure > len(gaps) // 2


def test_ten_updates(golden):
    config, params = llama2c.load(goldens.MODEL)
    optim = Optimizer(params, OptimConfig(**goldens.OPTIM))
    step = anefast.Model(config, params, ByteTokenizer()).training_step(
        anefast.Device("host"), batch=goldens.B, seq=goldens.S
    )
    for i, (x, y) in enumerate(zip(golden["steps/x"], golden["steps/y"], strict=True)):
        loss, tokens = step.micro_step(x, y, LOSS_SCALE)
        step.wait()
        assert abs(loss / tokens - golden["steps/losses"][i]) < 2e-3, i
        update = optim.update(step.grads, 1 / (LOSS_SCALE * tokens), goldens.OPTIM["lr"])
        step.begin_update()
        assert abs(update.grad_norm / golden["steps/norms"][i] - 1) < 1e-2, i
        step.update_weights()
    loss, tokens = step.evaluate(golden["x"], golden["y"])
    assert abs(loss / tokens - golden["steps/after"]) < 2e-3
    step.close()


def test_the_file_round_trips(tmp_path):
    config, params = llama2c.load(goldens.MODEL)
    assert config == goldens.CONFIG
    llama2c.save(tmp_path / "again.bin", config, params)
    assert (tmp_path / "again.bin").read_bytes() == goldens.MODEL.read_bytes()

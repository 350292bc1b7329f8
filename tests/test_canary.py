"""The canary: it lets a sound device go on, whatever chip it is, and names what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from anefast import Device
from anefast.chips.behaviour import CHIPS
from anefast.config import GuardConfig, ModelConfig
from anefast.model import Model
from anefast.runtime import TrainingStep
from anefast.runtime.canary import Canary, WrongValues
from anefast.tokenizer import open_tokenizer

TOLERANCE = GuardConfig().canary_tolerance
SHAPE = ModelConfig(dim=64, n_layers=3, n_heads=4, vocab_size=320, max_seq_len=64)


def trained(plan: str = "layer", chip: str = "", scale: float = 64.0) -> TrainingStep:
    """A step after one micro-step."""
    model = Model.from_config(SHAPE, open_tokenizer("bytes"), seed=0)
    step = model.training_step(device=Device("host", chip=chip), batch=1, seq=64, plan=plan)
    tokens = np.random.default_rng(0).integers(0, 256, (1, 64), dtype=np.int32)
    step.micro_step(tokens, np.roll(tokens, -1, 1), scale)
    step.wait()
    return step


def canary(step: TrainingStep, tolerance: float = TOLERANCE) -> Canary:
    return Canary(step.device, step.compiled, tolerance)


@pytest.mark.parametrize("plan", ["layer", "all,weights=params", "unfused,weights=packed"])
def test_the_host_agrees_with_itself_to_the_last_bit(plan: str) -> None:
    step = trained(plan)
    watched = canary(step, 1e-9)
    watched.look(step.params, 1)
    watched.evaluate(step.params, 2)
    assert watched.looked == 2
    step.params["layers.0.attn.wq"] *= 2.0  # not those of the programs, where they are baked in
    if "weights" in plan:
        return watched.look(step.params, 3)
    with pytest.raises(WrongValues, match=r"\[canary\] update 3: forward.layers.0 gave"):
        watched.look(step.params, 3)


@pytest.mark.parametrize("chip", sorted(CHIPS))
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_what_chips_do_otherwise_is_within_half_the_tolerance(chip: str, scale: float) -> None:
    step = trained("all", chip, scale)
    watched = canary(step, TOLERANCE / 2)
    watched.look(step.params, 1)
    assert watched.looked == 1


@pytest.mark.parametrize("at", [0, -1])
def test_a_wrong_value_is_named(at: int) -> None:
    step = trained()
    bound = step.compiled.bound[at]
    with bound.outputs[0].write() as data:
        was = float(data[0, 0, 0, 5])
        data[0, 0, 0, 5] = 3 * np.abs(data).max() + 1
        now = float(data[0, 0, 0, 5])
    name, _ = bound.kernel.program.outputs[0]
    with pytest.raises(WrongValues) as raised:
        canary(step).look(step.params, 7)
    said = str(raised.value)
    assert f"update 7: {bound.kernel.name} gave {name}[0, 0, 0, 5] = {now:.6g} and no error" in said
    assert f"the same inputs give {was:.6g}" in said and f"again, it gives {was:.6g}" in said
    canary(step).evaluate(step.params, 7)  # which does not read what was in the surface


def test_a_micro_step_that_overflowed_is_left_for_the_next_one() -> None:
    step = trained()
    with step.compiled.bound[1].outputs[0].write() as data:
        data[:] = 0  # wrong, too
        data[0, 0, 0, 0] = np.inf
    watched = canary(step)
    watched.look(step.params, 1)
    assert watched.looked == -1

"""A pretrained model with massive activations: its stream reaches 23,000 on the first position.

The judges are transformers in fp32 (loss and greedy text, in the shared data) and PyTorch in fp32
(gradients, here). Random models never show what this one does.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from anefast.fuse import find_plan
from anefast.runtime import Device, TrainingStep
from anefast.runtime.infer import Inference
from anefast.runtime.stream import ROOM, peak, stream_scale
from tests import smollm
from tests.reference import relative_error
from tests.test_judges import torch_loss
from tests.test_tolerances import relaxed
from tests.tolerances import TOLERANCES

pytestmark = pytest.mark.slow

FILE = "smollm2_135m_q4_1.json"
SEQ, LOSS_SCALE = 256, 64.0


@pytest.fixture(scope="module")
def golden(data_dir):
    path = data_dir / "hf_golden" / FILE
    if not path.exists():
        pytest.skip(f"no {FILE} in the shared test data")
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def model():
    return smollm.load()


def windows(golden):
    ids = np.array(golden["text_ids"], np.int32)
    return ids[None, :SEQ].copy(), ids[None, 1 : SEQ + 1].copy()


@cache
def torch_gradients(ids):
    """Of the sum of token losses, by PyTorch in fp32."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    config, params = smollm.load()
    x, y = (torch.tensor([ids[at : at + SEQ]], dtype=torch.int32) for at in (0, 1))
    p = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    torch_loss(torch, p, config, x, y).backward()
    return {name: t.grad.numpy() for name, t in p.items()}


def micro_step(model, golden, chip, plan, stream=1.0):
    """Mean loss, gradients of the summed one, and what health says."""
    config, params = model
    config = config.replace(stream_scale=stream)
    step = TrainingStep(config, params, Device("host", chip=chip), 1, SEQ, find_plan(plan))
    loss, tokens = step.micro_step(*windows(golden), LOSS_SCALE * stream)
    step.wait()
    assert tokens == SEQ
    report = step.health.look(params)
    step.close()
    for grad in step.grads.values():
        grad /= np.float32(LOSS_SCALE * stream)
    return loss / tokens, step.grads, report


def judge(model, golden, mode, chip, plan, stream=1.0):
    allowed = TOLERANCES[mode]
    loss, grads, report = micro_step(model, golden, chip, plan, stream)
    assert abs(loss - golden["loss"]) < allowed.loss
    wanted = torch_gradients(tuple(golden["text_ids"]))
    errors = {name: relative_error(grad, wanted[name]) for name, grad in grads.items()}
    worst = max(errors, key=errors.__getitem__)
    median = float(np.median([*errors.values()]))
    off = loss - golden["loss"]
    print(f"{mode} {plan}: {off:+.1e}, median {median:.1e}, {worst} {errors[worst]:.1e}")
    assert median < allowed.median_gradient
    assert errors[worst] < allowed.gradient, worst
    assert not [f for f in report.findings if f.kind in ("overflow", "vanished")]


@pytest.mark.parametrize("plan", ["unfused", "layer", "all"])
def test_loss_and_gradients(model, golden, plan):
    judge(model, golden, "exact", "", plan)


def test_the_stream_scaled(model, golden):
    config, params = model
    tokens = windows(golden)[0][0]
    assert 20000 < peak(config, params, tokens) < 27000
    scale = stream_scale(config, params, tokens)
    assert scale == 0.25 and peak(config.replace(stream_scale=scale), params, tokens) < ROOM
    judge(model, golden, "exact", "", "all", scale)


@pytest.mark.parametrize("chip", ["m1", "m2", "m3", "m4", "m5"])
@pytest.mark.parametrize("plan", ["unfused", "layer", "all"])
def test_loss_and_gradients_as_a_chip(model, golden, plan, chip):
    """Half a layer per program is more programs than a chip holds at once: numbers alone count."""
    judge(model, golden, chip, f"{chip},loaded=400", plan)


@pytest.mark.parametrize("chip", ["", "m1", "m5"])
def test_greedy_text(model, golden, chip):
    """Token by token as transformers has it, but where its two best are too close to tell."""
    config, params = model
    inference = Inference(config, params, Device("host", chip=chip), find_plan("all"))
    for case in golden["greedy"]:
        ids = list(case["ids"])
        for wanted in case["greedy"]:
            found = int(inference.logits(ids).argmax())
            assert found == wanted, (case["text"], len(ids) - len(case["ids"]))
            ids.append(wanted)
    inference.close()


def test_relaxed(model, golden, data_dir):
    call = "import sys\nfrom tests.test_smollm import judge_relaxed\njudge_relaxed(sys.argv[1])"
    relaxed(call, str(data_dir / "hf_golden" / FILE))


def judge_relaxed(path):
    judge(smollm.load(), json.loads(Path(path).read_text("utf-8")), "relaxed", "", "all")

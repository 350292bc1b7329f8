"""Every mode stays within the tolerance that docs/chips.md publishes: stories260K, real text.

test_smollm.py asks the same of a pretrained model with massive activations.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import anefast
from anefast.chips.behaviour import CHIPS
from tests.reference import relative_error
from tests.test_golden import LLAMA2C_NAMES, stacked
from tests.tolerances import DESCRIBED, TOLERANCES, published

LOSS_SCALE = 64.0
BF16 = "from anefast import _C; print('relaxed' in _C.gemm_isa() and 'no' not in _C.gemm_isa())"


def judge(folder: str, mode: str, chip: str = "") -> None:
    allowed = TOLERANCES[mode]
    golden = np.load(f"{folder}/golden/stories260K_ts_B4S128.npz")
    model = anefast.Model.load(f"{folder}/stories260K.bin", f"{folder}/tok512.bin")
    device = anefast.Device("host", chip=chip)
    step = model.training_step(device, batch=4, seq=128, plan="all")
    loss, tokens = step.micro_step(golden["x"], golden["y"], LOSS_SCALE)
    step.wait()
    step.close()
    assert abs(loss / tokens - golden["loss"]) < allowed.small_loss
    grads = {name: g / (LOSS_SCALE * tokens) for name, g in step.grads.items()}
    for name in [*LLAMA2C_NAMES, "tok_embeddings", "norm"]:
        got = stacked(grads, name, model.config.n_layers)
        assert relative_error(got, golden[f"grad/{name}"]) < allowed.small_gradient, name


def relaxed(call: str, *arguments: str) -> None:
    """Runs `call`, Python, where products are relaxed. Skips where they cannot be."""
    env = os.environ | {"ANEFAST_ISA": "relaxed"}
    can = subprocess.run([sys.executable, "-c", BF16], env=env, capture_output=True, text=True)
    if can.stdout.strip() != "True":
        pytest.skip("this processor multiplies no bf16")
    command = [sys.executable, "-c", call, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_mode_has_a_row():
    assert list(published())[:2] == ["exact", "relaxed"]
    assert set(DESCRIBED) <= set(published()) - {"exact", "relaxed"} <= set(CHIPS)


@pytest.mark.parametrize("mode", ["exact", *CHIPS])
def test_mode(data_dir, mode):
    judge(str(data_dir), mode, "" if mode == "exact" else mode)


def test_relaxed(data_dir):
    call = "import sys\nfrom tests.test_tolerances import judge\njudge(sys.argv[1], *sys.argv[2:])"
    relaxed(call, str(data_dir), "relaxed")

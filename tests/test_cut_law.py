"""The cut law: the same graph cut in any way gives identical bytes on the host."""

from __future__ import annotations

import numpy as np
import pytest

import anefast
from anefast.fuse import Plan
from anefast.runtime import TrainingStep
from tests.test_judges import CONFIGS, random_case

CUTS = [
    Plan("unfused", forward="half", backward="half"),
    Plan("layers", forward=1, backward=1),
    Plan("all", forward="all", backward="all"),
    Plan("mixed", forward="all", backward="half"),
    Plan("portable text", forward="half", backward="half", dialect="ios16"),
]


def bytes_of(config, plan, threads=2):
    """(loss, gradients, evaluations) of one micro-step under a plan, as bytes."""
    params, x, y = random_case(config, seed=5)
    device = anefast.Device("host", f"threads={threads}")
    step = TrainingStep(config, params, device, *x.shape, plan)
    loss, _ = step.micro_step(x, y, 32.0)
    step.wait()
    grads = {name: g.tobytes() for name, g in step.grads.items()}
    evaluations = step.sequence.evaluations
    step.close()
    return loss, grads, evaluations


@pytest.mark.parametrize("name", CONFIGS)
def test_any_cut_gives_the_same_bytes(name):
    config = CONFIGS[name]
    loss, grads, _ = bytes_of(config, CUTS[0])
    assert np.isfinite(loss)
    for plan in CUTS[1:]:
        other_loss, other, _ = bytes_of(config, plan)
        assert other_loss == loss, plan.name
        for key, data in grads.items():
            assert other[key] == data, (plan.name, key)


def test_thread_count_changes_nothing():
    one = bytes_of(CONFIGS["gqa"], CUTS[0], threads=1)
    assert one == bytes_of(CONFIGS["gqa"], CUTS[0], threads=2)


def test_the_unfused_baseline_takes_two_forward_and_four_backward_programs_a_layer():
    config = CONFIGS["mha"]
    assert bytes_of(config, CUTS[0])[2] == 6 * config.n_layers
    assert bytes_of(config, CUTS[2])[2] == 2

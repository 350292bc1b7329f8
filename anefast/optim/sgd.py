"""Stochastic gradient descent with momentum, heavy-ball or Nesterov's, and decoupled decay.

The momentum is a sum, not a mean, as in PyTorch. Decay is apart from it (arXiv 1711.05101, SGDW).
"""

from __future__ import annotations

import numpy as np

from anefast import _C
from anefast.config import OptimConfig
from anefast.optim.record import One, Record, Shape, elementwise


def states(config: OptimConfig, name: str, shape: Shape) -> dict[str, Shape]:
    """The momentum, where there is one."""
    return {"momentum": shape} if config.momentum else {}


def rule(config: OptimConfig, step: int, factor: float) -> _C.UpdateRule:
    """See Record.rule."""
    return _C.UpdateRule.sgd(factor, config.momentum, config.nesterov)


def reference(one: One) -> None:
    """See Record.reference."""
    f = np.float32
    g, mu = one.grad * f(one.factor), f(one.config.momentum)
    step_by = g
    if mu:
        m = one.states["momentum"]
        m[...] = mu * m + g
        step_by = g + mu * m if one.config.nesterov else m
    keep = f(1.0 - float(f(one.rate)) * float(f(one.decay)))
    one.weight[...] = one.weight * keep - f(one.rate) * step_by


SGD = Record(
    name="sgd",
    own={"momentum": 0.9, "weight_decay": 0.0, "nesterov": False},
    states=states,
    update=elementwise(rule),
    reference=reference,
    rule=rule,
    rate=30.0,  # of a gradient that is clipped to a norm of 1, and spread over all weights
    batch=1.0,
)

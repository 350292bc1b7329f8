"""AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam with decay apart from the gradient."""

from __future__ import annotations

import numpy as np

from anefast import _C
from anefast.config import OptimConfig
from anefast.optim.record import One, Record, Shape, elementwise


def states(config: OptimConfig, name: str, shape: Shape) -> dict[str, Shape]:
    """Means of the gradient and of its square."""
    return {"mean": shape, "square": shape}


def rule(config: OptimConfig, step: int, factor: float) -> _C.UpdateRule:
    """See Record.rule."""
    c = config
    bias1, bias2 = 1.0 - c.beta1**step, 1.0 - c.beta2**step
    return _C.UpdateRule.adamw(factor, c.beta1, c.beta2, c.eps, bias1, bias2)


def reference(one: One) -> None:
    """See Record.reference."""
    c, f = one.config, np.float32
    rate, decay, beta1, beta2 = (float(f(v)) for v in (one.rate, one.decay, c.beta1, c.beta2))
    keep, correct = f(1.0 - rate * decay), f(1.0 / np.sqrt(1.0 - c.beta2**one.step))
    step_size = f(rate / (1.0 - c.beta1**one.step))
    g = one.grad * f(one.factor)
    m, v = one.states["mean"], one.states["square"]
    m[...] = f(beta1) * m + f(1.0 - beta1) * g
    v[...] = f(beta2) * v + f(1.0 - beta2) * g * g
    one.weight[...] = one.weight * keep - step_size * m / (np.sqrt(v) * correct + f(c.eps))


ADAMW = Record(
    name="adamw",
    own={"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
    states=states,
    update=elementwise(rule),
    reference=reference,
    rule=rule,
)

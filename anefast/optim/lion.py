"""Lion (Chen et al., arXiv 2302.06675): the sign of a mean, with a momentum of a longer memory."""

from __future__ import annotations

import numpy as np

from anefast import _C
from anefast.config import OptimConfig
from anefast.optim.record import One, Record, Shape, elementwise


def states(config: OptimConfig, name: str, shape: Shape) -> dict[str, Shape]:
    """The momentum."""
    return {"momentum": shape}


def rule(config: OptimConfig, step: int, factor: float) -> _C.UpdateRule:
    """See Record.rule."""
    return _C.UpdateRule.lion(factor, config.beta1, config.beta2)


def reference(one: One) -> None:
    """See Record.reference."""
    c, f = one.config, np.float32
    beta1, beta2, rate, decay = (float(f(v)) for v in (c.beta1, c.beta2, one.rate, one.decay))
    g, m = one.grad * f(one.factor), one.states["momentum"]
    sign = np.sign(f(beta1) * m + f(1.0 - beta1) * g)
    m[...] = f(beta2) * m + f(1.0 - beta2) * g
    one.weight[...] = one.weight * f(1.0 - rate * decay) - f(rate) * sign


LION = Record(
    name="lion",
    own={"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.5},
    states=states,
    update=elementwise(rule),
    reference=reference,
    rule=rule,
    rate=0.2,  # the paper: 3 to 10 times less, with as much more decay
)

"""Adafactor (Shazeer and Stern, arXiv 1804.04235): a matrix of second moments as two vectors.

The rate is relative to the weights' root mean square and at most 1 / sqrt(step); an update larger
than 1 in that mean is cut down to it; there is no first moment. As in PyTorch, the means' product
is kept above eps squared, where the paper adds eps to the squares.
"""

from __future__ import annotations

import numpy as np

from anefast import _C
from anefast.config import OptimConfig
from anefast.optim.record import Array, One, Record, Shape, Work

LEAST = 1e-3  # of the weights' root mean square, where they are smaller
FORGETS = -0.8  # the new squares' part in the means is step to this power


def states(config: OptimConfig, name: str, shape: Shape) -> dict[str, Shape]:
    """Means of the squared gradient: of a matrix (m, n) by rows and columns, else of each value."""
    if len(shape) == 2:
        return {"row": (shape[0], 1), "column": (1, shape[1])}
    return {"square": shape}


def update(work: Work) -> None:
    """See Record.update."""
    c, step, factor = work.config, work.step, work.factor
    if (m := work.only(lambda states: "row" in states)).weights:
        rows, columns = m.by_state()
        _C.adafactor(
            m.weights, m.grads, rows, columns, m.rates, m.decays, factor,
            step**FORGETS, step**-0.5, c.eps, LEAST,
        )  # fmt: skip
    for one in work.only(lambda states: "square" in states).each():  # a thousandth of the weights
        reference(one)


def reference(one: One) -> None:
    """See Record.reference."""
    f, fresh, g = np.float32, one.step**FORGETS, one.grad * np.float32(one.factor)
    weight, states, eps, mean = one.weight, one.states, one.config.eps, {"row": -1, "column": 0}
    for name, state in states.items():
        now = g * g if name == "square" else np.mean(g * g, mean[name], keepdims=True)
        state[...] = f(1 - fresh) * state + f(fresh) * now
    if "square" in states:
        square = states["square"]
    else:
        row = states["row"]
        square = row @ states["column"] / max(row.mean(), f(eps))
    size = max(LEAST, _rms(weight)) * min(one.rate, one.step**-0.5)
    by = g * np.minimum(1 / np.sqrt(np.maximum(square, np.finfo(f).tiny)), f(1 / eps))
    weight[...] = weight * f(1 - one.rate * one.decay) - f(size / max(1.0, _rms(by))) * by


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


ADAFACTOR = Record(
    name="adafactor",
    own={"eps": 1e-30, "weight_decay": 0.0},
    states=states,
    update=update,
    reference=reference,
    rate=10.0,  # relative to weights, which are some 0.02
    whole=frozenset({"row", "column", "square"}),
)

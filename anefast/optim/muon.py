"""Muon (Jordan et al. 2024) of the layers' matrices, AdamW of everything else.

A matrix moves by its Nesterov momentum with all singular values brought near 1, by five steps of
Newton-Schulz. Moonlight's scaling (Liu et al., arXiv 2502.16982), 0.2 sqrt(max(m, n)), gives such a
step the size of AdamW's, so both take the same rate and the same decay. Embedding, classifier,
gains, biases and adapters are AdamW's, with its settings.
"""

from __future__ import annotations

import math

import numpy as np

from anefast import _C
from anefast.config import OptimConfig
from anefast.optim.adamw import ADAMW
from anefast.optim.record import Array, One, Record, Shape, Work

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of x, x^3 and x^5


def states(config: OptimConfig, name: str, shape: Shape) -> dict[str, Shape]:
    """The momentum of a hidden matrix; of all others what AdamW has."""
    hidden = len(shape) == 2 and name.startswith("layers.") and ".lora_" not in name
    return {"momentum": shape} if hidden else ADAMW.states(config, name, shape)


def scale(weight: Array) -> float:
    """The factor of the rate."""
    return 0.2 * math.sqrt(max(weight.shape))


def update(work: Work) -> None:
    """See Record.update."""
    hidden = work.only(lambda states: "momentum" in states)
    if hidden.weights:
        (momenta,) = hidden.by_state()
        _C.muon(
            hidden.weights, hidden.grads, momenta,
            [rate * scale(w) for rate, w in zip(hidden.rates, hidden.weights, strict=True)],
            [rate * decay for rate, decay in zip(hidden.rates, hidden.decays, strict=True)],
            work.factor, work.config.momentum,
        )  # fmt: skip
    others = work.only(lambda states: "mean" in states)
    if others.weights:
        ADAMW.update(others)


def reference(one: One) -> None:
    """See Record.reference."""
    if "momentum" not in one.states:
        return ADAMW.reference(one)
    f, mu, m = np.float32, one.config.momentum, one.states["momentum"]
    g = one.grad * f(one.factor)
    m[...] = f(mu) * m + f(1 - mu) * g
    x = f(mu) * m + f(1 - mu) * g
    x = x / max(float(np.linalg.norm(x)), 1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    keep, step = f(1 - one.rate * one.decay), f(one.rate * scale(one.weight))
    one.weight[...] = one.weight * keep - step * x


MUON = Record(
    name="muon",
    own={"momentum": 0.95, **ADAMW.own},
    states=states,
    update=update,
    reference=reference,
    whole=frozenset({"momentum"}),
)

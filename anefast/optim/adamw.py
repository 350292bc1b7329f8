"""AdamW over a dictionary of fp32 weights, with clipping and unscaling folded into the update.

Decay is decoupled (Loshchilov and Hutter) and touches matrices only: a norm's gain is a scale, and
pulling it to zero is no regularisation. The gradients are read twice in all, once for the global
norm and once for the update, however many factors apply. That first reading is why a gradient is
kept whole until the update: how much to clip cannot be known from a part of it. Without clipping it
may flow instead, made a panel at a time and never kept. The loops are csrc/cpu/adamw.cpp, and
_fused.pyx is the same update written plainly, which tests hold them to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import OptimConfig
from anefast.nn import zeros_like

if TYPE_CHECKING:
    from anefast.runtime.flow import Flow

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Update:
    """What one call of `AdamW.update` did."""

    grad_norm: float  # global, of the unscaled gradient, before clipping; inf or nan: overflow
    overflow: bool  # the gradient was not finite, so nothing was changed


class AdamW:
    """AdamW for `params`, changed in place. `mean` and `square` are fp32, of the same shapes."""

    def __init__(self, params: Arrays, config: OptimConfig) -> None:
        for name, p in params.items():
            if p.dtype != np.float32 or not p.flags.c_contiguous:
                raise ValueError(
                    f"[adamw] {name} expected C-contiguous float32, got {p.dtype}. "
                    "Hint: np.ascontiguousarray(p, np.float32)."
                )
        self.params = params
        self.config = config
        self.mean = zeros_like(params)
        self.square = zeros_like(params)
        self.step = 0  # updates made; skipped ones do not count
        self.torn = False  # an update was broken off: some weights and moments are of after it

    def update(self, grads: Arrays, factor: float, lr: float, flow: Flow | None = None) -> Update:
        """Clip and apply `factor * grads` at rate `lr`; `grads` stay as they are.

        factor: 1 / (loss scale * tokens) for accumulated sums. flow: the gradients that are not in
        `grads`; there is no clipping with them. A gradient that is not finite changes neither
        weights nor moments nor the step count.
        """
        squares = squared_norm(grads)
        norm = math.sqrt(squares) * factor
        if flow is not None and not flow.finite():
            norm = math.inf
        if not math.isfinite(norm):
            return Update(norm, overflow=True)
        c = self.config
        if c.clip and flow is not None:
            raise ValueError("[adamw] expected clip 0 for gradients that flow, whose norm is last.")
        if c.clip and norm > c.clip:
            factor *= c.clip / norm
        self.torn = True
        self.step += 1
        bias1, bias2 = 1.0 - c.beta1**self.step, 1.0 - c.beta2**self.step
        rule = (factor, lr, c.beta1, c.beta2, c.eps, bias1, bias2)
        stored = [name for name in self.params if name in grads]
        _C.adamw(
            self._flat(self.params, stored), self._flat(grads, stored),
            self._flat(self.mean, stored), self._flat(self.square, stored),
            self._decays(stored), *rule,
        )  # fmt: skip
        if flow is not None:
            decays = self._decays(flow.names)
            squares += flow.update(self.params, self.mean, self.square, decays, *rule)
            norm = math.sqrt(squares) * factor
        self.torn = False
        return Update(norm, overflow=False)

    def _flat(self, arrays: Arrays, names: list[str]) -> list[npt.NDArray[np.float32]]:
        return [arrays[name].reshape(-1) for name in names]

    def _decays(self, names: list[str]) -> list[float]:
        return [self.config.weight_decay if self.params[n].ndim >= 2 else 0.0 for n in names]


def squared_norm(grads: Arrays) -> float:
    """Sum of squares over all tensors, in double, tensors in the dictionary's order."""
    return _C.squared_norm([g.reshape(-1) for g in grads.values()])

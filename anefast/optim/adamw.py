"""AdamW over a dictionary of fp32 weights, with clipping and unscaling folded into the update.

Decay is decoupled (Loshchilov and Hutter) and touches matrices only: a norm's gain is a scale, and
pulling it to zero is no regularisation. The gradients are read twice in all, once for the global
norm and once for the update, however many factors apply. That first reading is why a gradient is
kept whole until the update: neither clipping nor an overflow can be known from a part of it. The
loops are csrc/cpu/adamw.cpp; _fused.pyx is the same update written plainly, which tests hold them
to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import OptimConfig
from anefast.nn import zeros_like

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

    def update(self, grads: Arrays, factor: float, lr: float) -> Update:
        """Clip and apply `factor * grads` at rate `lr`; `grads` stay as they are.

        factor: 1 / (loss scale * tokens) for accumulated sums. A gradient that is not finite
        changes neither weights nor moments nor the step count.
        """
        norm = global_norm(grads) * factor
        if not math.isfinite(norm):
            return Update(norm, overflow=True)
        c = self.config
        if c.clip and norm > c.clip:
            factor *= c.clip / norm
        self.step += 1
        bias1, bias2 = 1.0 - c.beta1**self.step, 1.0 - c.beta2**self.step
        weights, flat_grads, means, squares = (
            [arrays[name].reshape(-1) for name in self.params]
            for arrays in (self.params, grads, self.mean, self.square)
        )
        decays = [c.weight_decay if p.ndim >= 2 else 0.0 for p in self.params.values()]
        _C.adamw(
            weights, flat_grads, means, squares, decays,
            factor, lr, c.beta1, c.beta2, c.eps, bias1, bias2,
        )  # fmt: skip
        return Update(norm, overflow=False)


def global_norm(grads: Arrays) -> float:
    """Root of the sum of squares over all tensors, in double, tensors in the dictionary's order."""
    return math.sqrt(_C.squared_norm([g.reshape(-1) for g in grads.values()]))

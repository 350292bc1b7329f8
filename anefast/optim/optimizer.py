"""An optimiser over a dictionary of fp32 weights, with clipping and unscaling folded into it.

Decay is decoupled and touches matrices only: a norm's gain is a scale, and pulling it to zero is no
regularisation. The gradients are read twice in all, once for the global norm and once for the
update, however many factors apply. That first reading is why a gradient is kept whole until the
update: how much to clip cannot be known from a part of it. Without clipping it may flow instead,
made a panel at a time and never kept.
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
from anefast.models import zeros_of
from anefast.optim.record import Work
from anefast.optim.registry import record_of, settled
from anefast.optim.tensors import check_rules, of_tensor, parse_rules

if TYPE_CHECKING:
    from anefast.runtime.unstored import UnstoredGradients

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Update:
    """The result of one `Optimizer.update`."""

    grad_norm: float  # global, of the unscaled gradient, before clipping; inf or nan: overflow
    overflow: bool  # the gradient was not finite, so nothing was changed


class Optimizer:
    """An optimiser of `params`, changed in place. `state` has fp32 arrays by state and tensor.

    parts: of each tensor that it updates, which of its values (`Record.splits` says where that may
    be a part of them), as slices of the flat tensor. `params` and `state` are then of those, flat
    where they are not whole. `shapes` are those of all states, in the order of `state`.
    """

    def __init__(
        self, params: Arrays, config: OptimConfig, parts: Mapping[str, slice] | None = None
    ) -> None:
        for name, p in params.items():
            if p.dtype != np.float32 or not p.flags.c_contiguous:
                raise ValueError(
                    f"[optim] {name} expected C-contiguous float32, got {p.dtype}. "
                    "Hint: np.ascontiguousarray(p, np.float32)."
                )
        self.config, self.parts = settled(config), parts
        self.record = record_of(config)
        self.rules = parse_rules(config.rules)
        check_rules(self.rules, params)
        self._matrices = {name for name, p in params.items() if p.ndim >= 2}
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        own: dict[str, dict[str, tuple[int, ...]]] = {}
        self.params = self.own(params)
        for name, p in params.items():
            part = self.params.get(name)
            for state, shape in self.record.states(self.config, name, p.shape).items():
                self.shapes.setdefault(state, {})[name] = shape
                of_own = own.setdefault(state, {})
                if part is not None:
                    of_own[name] = shape if part.size == p.size else part.shape
        self.state = {state: zeros_of(of_state) for state, of_state in own.items()}
        self.step = 0  # updates made; skipped ones do not count
        self.torn = False  # an update was broken off: some weights and states are of after it

    def own(self, arrays: Arrays) -> Arrays:
        """Views of the parts of these arrays that this optimiser updates."""
        if self.parts is None:
            return arrays
        return {name: part_of(arrays[name], cut) for name, cut in self.parts.items()}

    def update(
        self,
        grads: Arrays,
        factor: float,
        lr: float,
        unstored: UnstoredGradients | None = None,
        squares: float | None = None,
    ) -> Update:
        """Clip and apply `factor * grads` at rate `lr`; `grads` stay as they are.

        factor: 1 / (loss scale * tokens) for accumulated sums. unstored: the gradients that are not
        in `grads`; there is no clipping with them. A gradient that is not finite changes neither
        weights nor states nor the step count. squares: the sum of the squares of all gradients,
        where it is known, or where `grads` are not all of them.
        """
        grads = self.own(grads)
        if squares is None:
            squares = squared_norm(grads)
        norm = math.sqrt(squares) * factor
        if unstored is not None and not unstored.finite():
            norm = math.inf
        if not math.isfinite(norm):
            return Update(norm, overflow=True)
        clip = self.config.clip
        if clip and unstored is not None:
            raise ValueError(
                "[optim] expected clip 0 for gradients that are not stored: their norm is known "
                "only after the update."
            )
        if clip and norm > clip:
            factor *= clip / norm
        self.torn = True
        self.step += 1
        if stored := [name for name in self.params if name in grads]:
            self.record.update(self._work(stored, grads, factor, lr))
        if unstored is not None:
            assert self.record.rule is not None
            rule = self.record.rule(self.config, self.step, factor)
            work = self._work(unstored.names, {}, factor, lr)
            squares += unstored.update(rule, work.weights, work.by_state(), work.rates, work.decays)
            norm = math.sqrt(squares) * factor
        self.torn = False
        return Update(norm, overflow=False)

    def _work(self, names: list[str], grads: Arrays, factor: float, lr: float) -> Work:
        decay = max(0.0, self.config.weight_decay)  # -1: this optimiser has none
        tuned = [of_tensor(self.rules, n, lr, decay if n in self._matrices else 0.0) for n in names]
        return Work(
            self.config, self.step, factor, names,
            weights=[self.params[n] for n in names],
            grads=[grads[n] for n in names if grads],
            states=[{s: a[n] for s, a in self.state.items() if n in a} for n in names],
            rates=[rate for rate, _ in tuned],
            decays=[decay for _, decay in tuned],
        )  # fmt: skip


def part_of(array: npt.NDArray[np.float32], cut: slice) -> npt.NDArray[np.float32]:
    """A view of so many values of an array: flat, or as it is where they are all."""
    flat = array.reshape(-1)[cut]
    return array if flat.size == array.size else flat


def panel_squares(grads: Arrays) -> npt.NDArray[np.float64]:
    """Sums of squares in double, of each `_C.UPDATE_PANEL` values of each tensor in order."""
    return _C.squares([g.reshape(-1) for g in grads.values()])


def squared_norm(grads: Arrays) -> float:
    """Sum of squares over all tensors, in double, tensors in the dictionary's order."""
    return in_order(panel_squares(grads))


def in_order(sums: npt.NDArray[np.float64]) -> float:
    """Their sum from the first to the last, whoever has made them."""
    return float(np.add.accumulate(sums)[-1]) if len(sums) else 0.0

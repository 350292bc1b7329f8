"""The record of an optimiser: its states, its own settings and its update.

There is one file for each beside this one, with the plain NumPy update of one tensor that tests
hold the native loop to, and a line in registry.py. optimizer.py applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.config import OptimConfig

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]
States = dict[str, Array]
OWN = ("beta1", "beta2", "eps", "weight_decay", "momentum", "nesterov")  # not all read all of these


class One(NamedTuple):
    """One tensor of an update: `weight` and `states` are changed in place. See Work."""

    config: OptimConfig
    step: int
    factor: float
    weight: Array
    grad: Array
    states: States
    rate: float
    decay: float


@dataclass(frozen=True)
class Work:
    """Some tensors of one update, all lists in one order. Arrays are fp32, C-contiguous.

    `weights` and `states` are changed in place, `grads` are not. The gradient is `factor` times
    what `grads` hold. step: of this update, the first is 1.
    """

    config: OptimConfig
    step: int
    factor: float
    names: list[str]
    weights: list[Array]
    grads: list[Array]
    states: list[States]
    rates: list[float]
    decays: list[float]

    def each(self) -> Iterator[One]:
        """The tensors one by one."""
        lists = self.weights, self.grads, self.states, self.rates, self.decays
        for of_one in zip(*lists, strict=True):
            yield One(self.config, self.step, self.factor, *of_one)

    def by_state(self) -> list[list[Array]]:
        """The states as the native loops take them: of all tensors the first, then the second."""
        return [list(of_all) for of_all in zip(*(s.values() for s in self.states), strict=True)]

    def only(self, take: Callable[[States], bool]) -> Work:
        """The work on the tensors whose states are such."""
        at = [i for i, states in enumerate(self.states) if take(states)]
        lists: dict[str, Any] = {
            name: [getattr(self, name)[i] for i in at]
            for name in ("names", "weights", "grads", "states", "rates", "decays")
        }
        return replace(self, **lists)


@dataclass(frozen=True)
class Record:
    """An optimiser. own: its values of the settings that not all optimisers read (`OWN`).

    rate: what its learning rate usually is of AdamW's. batch: the power of the batch that its rate
    grows with. states: of a weight, by name and shape, the shapes of its states by name. update:
    one update of some tensors. rule: the native rule of an elementwise one; its gradients may flow
    (runtime/unstored.py). reference: the update of one tensor in plain NumPy, for tests. whole:
    names of states that are of a tensor as a whole; the update of a tensor without them is that of
    its values, each by itself.
    """

    name: str
    own: Mapping[str, float]
    states: Callable[[OptimConfig, str, Shape], dict[str, Shape]]
    update: Callable[[Work], None]
    reference: Callable[[One], None]
    rule: Callable[[OptimConfig, int, float], _C.UpdateRule] | None = None
    rate: float = 1.0
    batch: float = 0.5
    whole: frozenset[str] = frozenset()

    def splits(self, config: OptimConfig, name: str, shape: Shape) -> bool:
        """True if parts of such a tensor may be updated in several places, to the same bytes."""
        return self.whole.isdisjoint(self.states(config, name, shape))

    @property
    def flows(self) -> bool:
        """True if its gradients may be made where the update uses them, a panel at a time."""
        return self.rule is not None


def elementwise(rule: Callable[[OptimConfig, int, float], _C.UpdateRule]) -> Callable[[Work], None]:
    """The `update` of a record whose native rule this is."""

    def update(work: Work) -> None:
        made = rule(work.config, work.step, work.factor)
        _C.update(made, work.weights, work.grads, work.by_state(), work.rates, work.decays)

    return update

"""Local updates (DiLoCo, Douillard et al., arXiv 2311.08105): one message in many updates.

Each rank makes `dist.local_steps` updates of weights of its own, with moments of its own. Then all
meet: the mean of what the ranks have changed is the gradient of an outer step, SGD with Nesterov's
momentum, from the weights that all had before (the anchor). All go on from where that leads.

The loss scale is one for all: an update that overflows on one rank is skipped on all. Each rank
clips its own gradient. A checkpoint has the anchor as the model, and of each rank what is its own:
moments, and weights where ranks have not met since their last update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anefast.config import OptimConfig, TrainConfig
from anefast.distributed.together import Arrays, Groups, Together
from anefast.distributed.world import Floats, Losses, World, summed
from anefast.models.parameters import block
from anefast.optim import Optimizer, Update
from anefast.optim.optimizer import squared_norm

if TYPE_CHECKING:
    from anefast.runtime import TrainingStep

WEIGHT, OUTER = "weight", "outer_momentum"  # groups of a checkpoint's arrays
STATE = "local_updates"  # in the state of a checkpoint


class Local(Together):
    """Ranks that meet after some updates. An emulation has the arrays of one of them in place (its
    weights, its moments), and keeps those of the others."""

    def __init__(self, config: TrainConfig, world: World, step: TrainingStep) -> None:
        super().__init__(config, world, step)
        dist = config.dist
        self._every, self._steps = dist.local_steps, config.steps
        self._made, self._length = 0, 0  # updates since ranks met, and before that
        self._met = False
        self.anchor = {name: p.copy() for name, p in step.trained.items()}
        nesterov = dist.outer_momentum > 0
        self._outer = Optimizer(
            self.anchor,
            OptimConfig(
                name="sgd", lr=dist.outer_lr, momentum=dist.outer_momentum, nesterov=nesterov,
                clip=0.0,
            ),
        )  # fmt: skip
        self._live = [*step.trained.values(), *(a for of in self._states() for a in of.values())]
        each = range(world.shares if world.shares > 1 else 0)
        self._kept = [[a.copy() for a in self._live] for _ in each]
        self._at = 0
        self._losses: list[Losses] = []
        self._squares: list[float] = []  # of all ranks

    def _states(self) -> list[Arrays]:
        return list(self.optimizer.state.values())

    def _early_sums(self) -> None:
        """Gradients stay where they are."""

    @property
    def alone(self) -> bool:
        return False

    @property
    def apart(self) -> bool:
        return self.world.size > self.world.shares

    def about(self) -> list[str]:
        c = self._outer.config
        return [
            f"dist: each rank makes {self._every} updates of its own, then all take one step "
            f"together (lr {c.lr:g}, momentum {c.momentum:g})"
        ]

    def due(self, step: int, every: int) -> bool:
        """True at the first meeting since a multiple of `every`."""
        return self._met and step // every > (step - self._length) // every

    def begin(self, share: int) -> None:
        if self._kept:
            self._swap(share)
            self.step.update_weights()

    def _swap(self, share: int) -> None:
        """Puts the arrays of one emulated rank in place."""
        if share == self._at or not self._kept:
            return
        for live, was, now in zip(self._live, self._kept[self._at], self._kept[share], strict=True):
            was[...] = live
            live[...] = now
        self._at = share

    def _each(self) -> Iterator[int]:
        """The ranks of this process, each in its place while it is told."""
        for share in range(self.world.shares):
            self._swap(share)
            yield share

    def bank(self, losses: Losses) -> None:
        self._losses.append(losses)
        super().bank(losses)

    def sum(self, losses: Losses) -> Losses:
        """The losses of all ranks. Gradients stay where they are."""
        self.bank(losses)
        grads = self.step.grads
        norms = [squared_norm(grads) for _ in self.world.banked(block(grads))]
        own = [(*losses, norm) for losses, norm in zip(self._losses, norms, strict=True)]
        every = self.world.numbers(own)
        self._squares = [row[2] for row in every]
        self._tokens = [max(1, int(row[1])) for row in every]
        return summed([(row[0], int(row[1])) for row in every])

    def apply(self, scale: float, tokens: int, lr: float, last: bool) -> Update:
        """The largest of the ranks' norms is that of the update."""
        grads, before = self.step.grads, self.optimizer.step
        each = zip(self._squares, self._tokens, strict=True)
        norms = [math.sqrt(squares) / (scale * n) for squares, n in each]
        overflow = not all(map(math.isfinite, norms))
        for share in self.world.banked(block(grads)):
            self._swap(share)
            self.optimizer.step = before
            rank = self.world.rank + share
            squares = math.inf if overflow else self._squares[rank]
            factor = 1.0 / (scale * self._tokens[rank])
            self.optimizer.update(grads, factor, lr, squares=squares)
        self.world.forget()
        self._losses = []
        self._made += 1
        self._met = self._made >= self._every or last
        if self._met:
            self._meet()
        self.changed = self._met or not overflow
        return Update(max(norms) if not overflow else math.inf, overflow)

    def _meet(self) -> None:
        grads, weights = self.step.grads, self.step.trained
        for share in self._each():
            for name, p in weights.items():
                np.subtract(self.anchor[name], p, out=grads[name])
            if share + 1 < self.world.shares:
                super().bank((0.0, 0))
        self.world.reduce(block(grads), (0.0, 0))
        self._outer.update(grads, 1.0 / self.world.size, self._outer.config.lr)
        self._share_anchor()
        self._made, self._length = 0, self._made

    def _share_anchor(self) -> None:
        for _ in self._each():
            for name, p in self.step.trained.items():
                p[...] = self.anchor[name]

    def common(self, params: Arrays) -> Arrays:
        return {**params, **self.anchor}

    # ---- checkpoints ----

    def state(self) -> dict[str, Any]:
        return {STATE: {"made": self._made, "ranks": self.world.size}}

    def groups(self) -> Groups:
        self._swap(0)
        outer = {OUTER: self._outer.state["momentum"]} if self._outer.state else {}
        return {**self._weights(), **outer}

    def _weights(self) -> Groups:
        return {WEIGHT: self.step.trained} if self._made else {}

    def _own(self) -> Groups:
        """The state that differs from rank to rank."""
        return {**self.optimizer.state, **self._weights()}

    def others(self) -> Iterator[Groups]:
        """The state of each rank but the first; on rank 0. Arrays are valid until the next one is
        asked for."""
        if self._kept:
            for share in self._each():
                if share:
                    yield self._own()
            self._swap(0)
            return
        own = self._own()
        flat = np.concatenate([a.reshape(-1) for of in own.values() for a in of.values()])
        for rank, floats in enumerate(self.world.collect(flat)):
            if rank:
                yield _cut(floats, own)

    def restore(self, state: Mapping[str, Any]) -> int:
        made, ranks = (state[STATE][name] for name in ("made", "ranks"))
        if not (type(made) is int and 0 <= made < self._every):
            raise ValueError(f"expected local updates below {self._every}, got {made!r}")
        if not (type(ranks) is int and 1 <= ranks <= 1024):
            raise ValueError(f"expected ranks from 1 to 1024, got {ranks!r}")
        self._made = made
        return ranks

    def take_common(self) -> None:
        for name, p in self.step.trained.items():
            self.anchor[name][...] = p
        self._share_anchor()

    def owners(self) -> Iterator[tuple[int, Groups]]:
        for share in self._each():
            yield self.world.rank + share, self._own()


def _cut(floats: Floats, like: Groups) -> Groups:
    """Floats as groups of arrays."""
    found: dict[str, Arrays] = {}
    at = 0
    for group, arrays in like.items():
        cut: dict[str, Floats] = {}
        for name, array in arrays.items():
            cut[name] = floats[at : at + array.size].reshape(array.shape)
            at += array.size
        found[group] = cut
    return found

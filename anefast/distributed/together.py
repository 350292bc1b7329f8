"""One update of all ranks: from the gradients of each to new weights, the same on all.

The trainer makes the micro-steps, and asks for the rest in this order: `sum`, when the last
micro-step of an update is over, then `apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anefast.config import TrainConfig
from anefast.distributed.shares import Shares, nbytes
from anefast.distributed.world import Losses, World
from anefast.nn.params import block
from anefast.optim import Optimizer, Update, record_of
from anefast.optim.average import Average
from anefast.optim.optimizer import panel_squares
from anefast.optim.registry import settled

if TYPE_CHECKING:
    from anefast.runtime import TrainingStep


class Together:
    """Gradients are summed over ranks, and every rank makes the same update of all weights; or,
    with `dist.shard_optimizer`, each that of its own part."""

    def __init__(self, config: TrainConfig, world: World, step: TrainingStep) -> None:
        self.world, self.step = world, step
        self.shares: Shares | None = None
        parts = None
        if config.dist.shard_optimizer and world.size > world.shares:
            record, optim = record_of(config.optim), settled(config.optim)
            shapes = {name: p.shape for name, p in step.trained.items()}
            self.shares = Shares(step.grads, world, lambda n: record.splits(optim, n, shapes[n]))
            parts = self.shares.of(world.rank)
        self.optimizer = Optimizer(step.trained, config.optim, parts)
        half_life = config.optim.ema_tokens
        self.average = Average(self.optimizer.params, half_life) if half_life else None

    @property
    def apart(self) -> bool:
        """Whether no rank has by itself what a checkpoint holds."""
        return self.shares is not None

    def bank(self, losses: Losses) -> None:
        """An emulated rank has made its micro-steps, and the next one begins."""
        self.world.bank(block(self.step.grads), losses)

    def sum(self, losses: Losses) -> Losses:
        """The losses of all ranks, from those of this one; the gradients likewise."""
        if self.world.size == 1:
            return losses
        ends = self.shares.ends if self.shares is not None else None
        return self.world.reduce(block(self.step.grads), losses, ends)

    def apply(self, scale: float, tokens: int, lr: float) -> Update:
        """The update. scale: of the loss. tokens: that the sum of gradients is of, on all ranks."""
        grads, squares = self.step.grads, None
        if self.shares is not None:
            squares = self.shares.squares(panel_squares(self.optimizer.own(grads)))
        factor = 1.0 / (scale * tokens)
        done = self.optimizer.update(grads, factor, lr, self.step.flow, squares)
        if not done.overflow:
            if self.average is not None:
                self.average.update(tokens)
            self.spread()
        return done

    def spread(self) -> None:
        """What each rank has changed of the weights becomes known to all."""
        if self.shares is not None:
            self.shares.spread(self.step.trained)

    def memory(self) -> str:
        """What a rank holds of the optimiser, as a line; "" where it is all of it."""
        if self.shares is None:
            return ""
        states = self.optimizer.state
        own = nbytes({s: {n: a.shape for n, a in of.items()} for s, of in states.items()})
        return (
            f"dist: rank 0 keeps {own / 1e6:.1f} of {nbytes(self.optimizer.shapes) / 1e6:.1f} MB "
            f"of {self.optimizer.record.name}'s states"
        )

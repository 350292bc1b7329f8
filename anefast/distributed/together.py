"""One update of all ranks: from the gradients of each to new weights, the same on all.

The trainer makes the micro-steps, and asks for the rest in this order: `sum`, when the last
micro-step of an update is over, then `apply`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from anefast.config import TrainConfig
from anefast.distributed.early import Early
from anefast.distributed.shares import Shares, nbytes
from anefast.distributed.world import Ends, Floats, Losses, World
from anefast.models.parameters import block
from anefast.optim import Optimizer, Update, record_of
from anefast.optim.average import Average
from anefast.optim.optimizer import panel_squares
from anefast.optim.registry import settled

if TYPE_CHECKING:
    from anefast.runtime import TrainingStep

Arrays = Mapping[str, Floats]
Groups = Mapping[str, Arrays]  # of the arrays of a checkpoint


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

        self._early = self._early_sums()
        self.changed = False  # whether the last update has changed any weight

    @property
    def alone(self) -> bool:
        """True if there is nobody to train together with."""
        return self.world.size == 1

    @property
    def apart(self) -> bool:
        """True if no rank has by itself what a checkpoint holds."""
        return self.shares is not None

    def about(self) -> list[str]:
        """Lines for the start of a run."""
        if self.shares is None:
            return []
        states = self.optimizer.state
        own = nbytes({s: {n: a.shape for n, a in of.items()} for s, of in states.items()})
        return [
            f"dist: rank 0 keeps {own / 1e6:.1f} of {nbytes(self.optimizer.shapes) / 1e6:.1f} MB "
            f"of {self.optimizer.record.name}'s states"
        ]

    def due(self, step: int, every: int) -> bool:
        """True if what is done every so many updates is done after update `step`."""
        return step % every == 0

    def begin(self, share: int) -> None:
        """The micro-steps of one of this process's ranks begin."""

    def bank(self, losses: Losses) -> None:
        """An emulated rank has made its micro-steps, and the next one begins."""
        self.world.bank(block(self.step.grads), losses)

    def _early_sums(self) -> Early | None:
        """Sums that begin during the last pass, where there is another process to wait for."""
        if self.world.size == self.world.shares:
            return None
        return Early(self.world, self.step, self._ends)

    @property
    def _ends(self) -> Ends | None:
        return self.shares.ends if self.shares is not None else None

    def last(self, at: str) -> None:
        """The last micro-step of an update comes next."""
        if self._early is not None:
            self._early.begin(at)
            self.step.on_complete = self._early.offer

    def arrive(self, at: str) -> dict[str, float]:
        """That micro-step is over. See World.arrive."""
        if self._early is None:
            return self.world.arrive(at)
        self.step.on_complete = None
        return self._early.finish()

    def sum(self, losses: Losses) -> Losses:
        """The losses of all ranks, from those of this one; the gradients likewise."""
        but = self._early.parts if self._early is not None else ()
        return self.world.reduce(block(self.step.grads), losses, self._ends, but)

    def apply(self, scale: float, tokens: int, lr: float, last: bool) -> Update:
        """The update. scale: of the loss. tokens: that the sum of gradients is of, on all ranks.
        last: of the run."""
        grads, squares = self.step.grads, None
        if self.shares is not None:
            squares = self.shares.squares(panel_squares(self.optimizer.own(grads)))
        factor = 1.0 / (scale * tokens)
        done = self.optimizer.update(grads, factor, lr, self.step.unstored, squares)
        self.changed = not done.overflow
        if self.changed:
            if self.average is not None:
                self.average.update(tokens)
            self.spread()
        return done

    def spread(self) -> None:
        """Gives each rank the weights that the others have changed."""
        if self.shares is not None:
            self.shares.spread(self.step.trained)

    def common(self, params: Arrays) -> Arrays:
        """`params` with the weights that all ranks have in common."""
        return params

    # ---- checkpoints ----

    def state(self) -> dict[str, Any]:
        """Numbers that a checkpoint has of it."""
        return {}

    def groups(self) -> Groups:
        """Arrays that a checkpoint has besides those of the optimiser, of rank 0."""
        return {}

    def others(self) -> Iterator[Groups]:
        """Arrays of the other ranks that a checkpoint has."""
        return iter(())

    def restore(self, state: Mapping[str, Any]) -> int:
        """Takes the numbers of a checkpoint, and returns how many ranks have arrays of their own in
        it. KeyError, TypeError or ValueError where they are not such."""
        return 1

    def take_common(self) -> None:
        """The weights have been read from a checkpoint: all ranks had them in common."""

    def owners(self) -> Iterator[tuple[int, Groups]]:
        """The ranks of this process that have arrays of their own, while these are in place."""
        return iter(())

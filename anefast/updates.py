"""A training loop in your own hands, in which the order of calls cannot be wrong.

    >>> import anefast
    >>> model = anefast.Model.from_config(                              # doctest: +SKIP
    ...     anefast.ModelConfig(), anefast.open_tokenizer("bytes"))
    >>> data = anefast.data.open_data("stories", model.tokenizer)       # doctest: +SKIP
    >>> with model.trainer(batch=8, seq=128, lr=3e-3) as trainer:       # doctest: +SKIP
    ...     for batch in trainer.batches(data, updates=100):
    ...         loss = trainer.update(batch)

Nothing is written to a disk: `fit` (train.py) keeps runs, checkpoints and telemetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from anefast.checks import real, refuse, whole
from anefast.config import TrainConfig
from anefast.data import TokenData
from anefast.optim import LossScale, Optimizer, Update, learning_rate
from anefast.score import Ids, Losses, scored
from anefast.tokenizer.base import Lengths

if TYPE_CHECKING:
    from anefast.model import Model
    from anefast.runtime import TrainingStep

Batch = tuple[Ids, Ids]


class Updates:
    """Updates of one model, one call each. A context manager: leaving it unloads the programs.

    `last` is what the optimiser did in the newest update: its gradient norm, and whether it was
    skipped because the gradients overflowed fp16 (the loss scale is then halved).
    """

    def __init__(self, model: Model, step: TrainingStep, config: TrainConfig) -> None:
        self.model, self.step, self.config = model, step, config
        self.optimizer = Optimizer(step.trained, config.optim)
        self.scale = LossScale(config.loss_scale)
        self.last: Update | None = None
        self.made = 0  # updates, skipped ones included
        self._lengths = Lengths(model.tokenizer)

    def batches(self, data: TokenData, updates: int, seed: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of so many updates, `accumulation` for each."""
        batch, seq = self.step.shape
        drawn, ramp = data.batches(batch, seq, seed), self.config.optim.micro_batches
        for update in range(1, whole("trainer", "updates", updates, 0) + 1):
            yield [drawn.batch(n) for n in range(ramp.total(update - 1), ramp.total(update))]

    def update(self, batches: Batch | Iterable[Batch], lr: float | None = None) -> float:
        """One update of the weights, from these micro-batches. Returns the mean loss, nats per
        token.

        batches: (x, y), int32 [B, S] tokens and targets, or several of them. lr: the learning rate
        of this update; None takes the schedule of the settings. ValueError for arrays of another
        shape; nothing has changed then.
        """
        taken = _several(batches)
        if lr is not None:
            real("trainer", "lr", lr, "a finite rate")
        scale, total, tokens = self.scale.value, 0.0, 0
        self.step.begin_update()
        for x, y in taken:
            loss, n = self.step.micro_step(x, y, scale)
            total, tokens = total + loss, tokens + n
        self.step.end_update()
        if lr is None:
            c = self.config
            lr = learning_rate(c.optim, self.made + 1, c.steps, c.schedule)
        factor = 1.0 / (scale * max(1, tokens))
        starved, largest = self.step.starved(), self.step.largest()
        self.last = self.optimizer.update(self.step.grads, factor, lr)
        self.scale.update(self.last.overflow, starved, largest)
        self.made += 1
        if not self.last.overflow:
            self.step.update_weights()
        return total / max(1, tokens)

    def evaluate(self, batches: Batch | Iterable[Batch]) -> float:
        """The mean loss of these batches, nats per token. No weight changes."""
        return scored(_several(batches), self._losses, self._lengths).nats_per_token

    def _losses(self, x: Ids, y: Ids) -> Losses:
        self.step.evaluate(x, y)
        return self.step.nll

    def close(self) -> None:
        """Unloads the programs. Gradients and moments are gone; the model keeps its weights."""
        self.step.close()

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _several(batches: Batch | Iterable[Batch]) -> list[Batch]:
    """One batch or several, as a list. ValueError for none."""
    if isinstance(batches, tuple) and len(batches) == 2 and isinstance(batches[0], np.ndarray):
        return [batches]
    hint = "(x, y), or a list of those"
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, dict, np.ndarray)):
        refuse("trainer", "batches", batches, "pairs of x and y", hint)
    found = list(batches)
    pairs = all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in found)
    if not found or not pairs:
        refuse("trainer", "batches", found, "pairs of x and y, at least one", hint)
    return [(x, y) for x, y in found]

"""An exponential moving average of the weights, by a half-life in tokens.

An update of t tokens moves the average 1 - 0.5^(t / half-life) of the way to the new weights. It
begins as the initial weights, is kept in checkpoints beside the optimiser's states, and changes
nothing in the run. What it is good for: it is often better than the weights of one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.checkpoint import OPTIM, CheckpointError, find_checkpoint
from anefast.errors import shown
from anefast.formats.safetensors import read_safetensors

if TYPE_CHECKING:
    from anefast.models import Vocabulary

Arrays = Mapping[str, npt.NDArray[np.float32]]
GROUP = "ema"  # of a checkpoint's arrays


class Average:
    """The average of `params`, which others change. half_life: tokens."""

    def __init__(self, params: Arrays, half_life: int) -> None:
        self.params, self.half_life = params, half_life
        self.arrays = {name: p.copy() for name, p in params.items()}

    def update(self, tokens: int) -> None:
        """Takes note of weights that are `tokens` further on."""
        part = 1.0 - 0.5 ** (tokens / self.half_life)
        _C.average(list(self.arrays.values()), list(self.params.values()), part)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, `params` hold the average."""
        kept = {name: p.copy() for name, p in self.params.items()}
        self._put(self.arrays)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, arrays: Arrays) -> None:
        for name, p in self.params.items():
            p[...] = arrays[name]


def load_average(
    path: str | Path, params: Arrays, vocabulary: Vocabulary | None
) -> dict[str, npt.NDArray[np.float32]]:
    """`params`, as `Model.load` has read and checked them in a run or checkpoint, with the averages
    that it has in their place.

    vocabulary: the ids that were trained. CheckpointError where there is no average.
    """
    folder = find_checkpoint(path)
    prefix = f"{GROUP}."
    found = {
        name.removeprefix(prefix): stored.read()
        for name, stored in read_safetensors(folder / OPTIM).items()
        if name.startswith(prefix)
    }
    if not found or not found.keys() <= params.keys():
        raise CheckpointError(
            f"[checkpoint] {shown(folder)} has no average of these weights. "
            "Hint: --optim.ema-tokens keeps one while a run trains."
        )
    if vocabulary is None:
        return {**params, **found}
    full = {name: p.copy() for name, p in params.items()}
    return {**full, **vocabulary.spread(vocabulary.rows(found), full)}

"""Calls between ranks: the world of one process, and one process that stands for many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.models.weights import peeked

Floats = npt.NDArray[np.float32]
Losses = tuple[float, int]  # a sum over tokens in nats, and how many tokens it is of
Ends = Sequence[int]  # where each rank's part of some floats begins, and where the last one ends


def tree_sum(parts: Sequence[Any]) -> Any:
    """The sum of arrays or numbers as a pairwise tree over their order. Parts may change.

    >>> tree_sum([1.0, 2.0, 3.0])
    6.0
    """
    left = list(parts)
    while len(left) > 1:
        pairs = range(0, len(left) - 1, 2)
        added = [_added(left[i], left[i + 1]) for i in pairs]
        left = added + left[len(added) * 2 :]
    return left[0]


def _added(a: Any, b: Any) -> Any:
    return np.add(a, b, out=a) if isinstance(a, np.ndarray) else a + b


def summed(losses: Sequence[Losses]) -> Losses:
    """The losses of all ranks as one."""
    return tree_sum([loss for loss, _ in losses]), sum(tokens for _, tokens in losses)


class World:
    """A world of one rank: this process. What every other world looks like, too.

    rank: of this process, from 0. size: how many ranks there are. shares: of how many ranks this
    process makes the micro-steps. Only rank 0 writes and prints.
    """

    rank, size, shares = 0, 1, 1
    advice = ""  # on how its ranks were started

    def batch(self, cursor: int, micro: int, accumulation: int) -> int:
        """Which micro-batch of the data this process reads as its `micro`-th of an update.

        cursor: micro-batches that all ranks have read before the update. Ranks take turns, so that
        an update reads the same data however ranks x accumulation is split.
        """
        share, own = divmod(micro, accumulation)
        return cursor + own * self.size + self.rank + share

    def ends_share(self, micro: int, accumulation: int) -> bool:
        """True if `micro` micro-steps end a share, and another one of this process follows."""
        return micro % accumulation == 0 and micro < self.shares * accumulation

    def bank(self, grads: Floats, losses: Losses) -> None:
        """Keeps a share's gradients and losses until they are asked for."""

    def banked(self, grads: Floats) -> Iterator[int]:
        """The ranks of this process, from 0, while `grads` are those that each has banked."""
        yield 0

    def forget(self) -> None:
        """Drops what was banked."""

    def sum(self, grads: Floats, part: tuple[int, int], ends: Ends | None = None) -> None:
        """Sums floats `part[0]` to `part[1]` over all ranks, in place; not in an emulation.

        ends: each rank needs its own part only; the other parts are of no use afterwards.
        """

    def reduce(
        self,
        grads: Floats,
        losses: Losses,
        ends: Ends | None = None,
        but: Sequence[tuple[int, int]] = (),
    ) -> Losses:
        """Sums gradients over all ranks, in place. Returns the sums of losses and tokens.

        ends: see `sum`. but: parts that it has summed already.
        """
        return losses

    def gather(self, floats: Floats, ends: Ends) -> None:
        """Each rank's part of `floats` becomes that of all."""

    def collect(self, floats: Floats) -> Iterator[Floats]:
        """On rank 0 the floats of each rank, in their order, one at a time; nothing on the others,
        which have to ask all the same."""
        yield floats

    def numbers(self, own: Sequence[Sequence[float]]) -> list[list[float]]:
        """The rows of all ranks in their order. own: a row for each share of this process."""
        return [list(row) for row in own]

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag as true on all ranks where it is true on any."""
        return flags

    def same(self, facts: Mapping[str, object]) -> None:
        """BadInput that names the first rank where a fact is another one than on rank 0."""

    def told(self, text: str) -> str:
        """The value of rank 0."""
        return text

    def all(self, text: str) -> list[str]:
        """The values of all ranks, in their order."""
        return [text]

    def arrive(self, at: str) -> dict[str, float]:
        """Waits for all ranks, and returns who was last, as columns of timings. Failure where ranks
        do not come, which names them."""
        return {}

    def finish(self) -> None:
        """All ranks come here at the end of a run. One that leaves before ends all."""

    def abort(self, code: int) -> None:
        """Ends all ranks where there are others; returns where there are none."""


class Emulated(World):
    """R ranks in one process, one after the other: the bytes of R real ones, for R times the time
    and the memory of gradients."""

    def __init__(self, size: int) -> None:
        self.size = self.shares = size
        self._bank: list[tuple[Floats, Losses]] = []

    def bank(self, grads: Floats, losses: Losses) -> None:
        self._bank.append((grads.copy(), losses))

    def banked(self, grads: Floats) -> Iterator[int]:
        for share, (kept, _) in enumerate(self._bank):
            grads[...] = kept
            yield share

    def forget(self) -> None:
        self._bank = []

    def reduce(
        self,
        grads: Floats,
        losses: Losses,
        ends: Ends | None = None,
        but: Sequence[tuple[int, int]] = (),
    ) -> Losses:
        self.bank(grads, losses)
        grads[...] = tree_sum([kept for kept, _ in self._bank])
        found = summed([theirs for _, theirs in self._bank])
        self.forget()
        return found


def digest(arrays: Mapping[str, Floats]) -> str:
    """A short name for the bytes of arrays, for comparing them over ranks."""
    found = blake2b(digest_size=8)
    for name, array in peeked(arrays).items():
        found.update(name.encode())
        found.update(array.data if array.flags.c_contiguous else array.tobytes())
    return found.hexdigest()

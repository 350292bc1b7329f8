"""Examples to learn answers from: token ids in rows, and which of them are learnt.

An example is a sequence of its own, from its first token on and padded behind its end, so that no
example attends to another. Packing several into a sequence would fill it better, but needs a mask
of S x S per sequence, which would be one more input of every program with attention; ports are what
real chips are known to refuse first (docs of `fuse/legal.py`). So `tell` says how full rows are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.data.stream import Ids, TokenStream
from anefast.tokenizer import Tokenizer

IGNORED = -1  # as a target: this position has no loss

log = logging.getLogger("anefast")


@dataclass(frozen=True)
class Example:
    """ids: from BOS, if there is one, to the end. learnt: True for each id that is a target."""

    ids: Sequence[int]
    learnt: Sequence[bool]


def whole(text: str, tokenizer: Tokenizer) -> Example:
    """A document as an example: every id after the first is a target, EOS included."""
    ids = tokenizer.encode(text, bos=True, eos=True)
    return Example(ids, [False, *[True] * (len(ids) - 1)])


class Examples(TokenStream):
    """Examples end to end, which as a stream are all their ids.

    learnt: (len,) bool, True for each id that is a target.
    """

    def __init__(self, examples: Iterable[Example], dtype: Any) -> None:
        ids: list[npt.NDArray[Any]] = []
        learnt: list[npt.NDArray[np.bool_]] = []
        for example in examples:
            ids.append(np.asarray(example.ids, dtype))
            learnt.append(np.asarray(example.learnt, bool))
        ends = np.cumsum([0, *map(len, ids)])
        self._begin, self._end = ends[:-1], ends[1:]
        self.learnt = np.concatenate(learnt) if learnt else np.zeros(0, bool)
        super().__init__([np.concatenate(ids)] if ids else [])

    @property
    def count(self) -> int:
        return len(self._begin)

    @property
    def all_learnt(self) -> bool:
        """True if all ids but the first of each example are targets, as with documents."""
        return int(self.learnt.sum()) == len(self.learnt) - self.count

    def question(self, row: int) -> list[int]:
        """The ids of an example before the first that is learnt."""
        begin, end = int(self._begin[row]), int(self._end[row])
        ids: list[int] = self.read(begin, int(self.learnt[begin:end].argmax())).tolist()
        return ids

    def told(self) -> Iterator[npt.NDArray[Any]]:
        yield from self.blocks()
        yield self.learnt

    def part_of(self, first: int, last: int) -> Examples:
        """The examples first..last, not copied."""
        found = Examples([], np.uint32)
        begin, end = int(self._begin[first]), int(self._end[last - 1])
        found._begin, found._end = self._begin[first:last] - begin, self._end[first:last] - begin
        found.learnt = self.learnt[begin:end]
        TokenStream.__init__(found, [a[begin:end] for a in self._arrays])
        return found

    def pieces(self, S: int) -> Examples:
        """The same ids, examples of more than S + 1 of them in several: each begins with the last
        id of the one before, which it predicts from. Not copied."""
        counts = np.maximum(1, -(-(self._end - self._begin - 1) // S))
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        found = Examples([], np.uint32)
        found._begin = np.repeat(self._begin, counts) + S * (np.arange(counts.sum()) - firsts)
        found._end = np.minimum(np.repeat(self._end, counts), found._begin + S + 1)
        found.learnt = self.learnt
        TokenStream.__init__(found, self._arrays)
        return found

    def fitting(self, S: int) -> npt.NDArray[np.int64]:
        """The numbers of the examples that have a target within S positions."""
        # of a window of S + 1 ids, all but the first are predicted
        sums = np.concatenate([[0], np.cumsum(self.learnt)])
        first = np.minimum(self._begin + 1, self._end)
        last = np.minimum(self._begin + S + 1, self._end)
        return np.flatnonzero(sums[last] > sums[first])

    def window(self, rows: Sequence[int], S: int) -> tuple[Ids, Ids]:
        """x, y: int32 [len(rows), S]; targets that are not learnt, and padding, are IGNORED."""
        x = np.empty((len(rows), S), np.int32)
        y = np.full((len(rows), S), IGNORED, np.int32)
        for i, row in enumerate(rows):
            begin = int(self._begin[row])
            count = min(int(self._end[row]) - begin, S + 1)
            ids = self.read(begin, count)
            x[i] = ids[-1]  # padding: an id of the data that no query attends to
            x[i, : min(count, S)] = ids[:S]
            wanted = np.where(self.learnt[begin + 1 : begin + count], ids[1:], IGNORED)
            y[i, : count - 1] = wanted
        return x, y

    def tell(self, S: int, name: str, used: int) -> None:
        """Says what S positions mean for these examples, of which `used` fit (see `fitting`)."""
        lengths = self._end - self._begin
        full = float(np.minimum(lengths, S).sum() / (max(1, self.count) * S))
        log.info("data: %s: %d examples fill %.0f%% of %d positions", name, used, 100 * full, S)
        if cut := int((lengths > S + 1).sum()):
            log.warning("data: %d of %d examples are cut after %d tokens", cut, self.count, S + 1)
        if gone := self.count - used:
            log.warning(
                "data: %d of %d examples are skipped: no target within %d tokens",
                gone, self.count, S,
            )  # fmt: skip

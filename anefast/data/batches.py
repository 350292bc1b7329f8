"""A data set and the batches of its steps: which step reads which tokens.

A batch is a pure function of (seed, step), so the only cursor a run has to save is how many
micro-batches it has drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from anefast.data.error import DataError
from anefast.data.examples import IGNORED, Examples
from anefast.data.stream import Ids, TokenStream, sampled_fingerprint
from anefast.tokenizer import Tokenizer

Order = Literal["shuffled", "sequential"]


class Epoch(NamedTuple):
    """One pass over the training data: `size` of a unit, `sequence` of them in each sequence of a
    batch."""

    size: int
    sequence: int
    unit: str = "tokens"


@dataclass(frozen=True)
class TokenData:
    """A data set, tokenized and split.

    floor: nats per token that no model beats on average on the validation split, when the source is
    the built-in stories (what it means exactly: `stories.floor`), else None. description: one line
    for a log. fingerprint: changes when the tokens do; a resumed run asks `matches`.
    """

    train: TokenStream
    validation: TokenStream
    tokenizer: Tokenizer
    floor: float | None
    description: str
    fingerprint: str

    @property
    def amount(self) -> str:
        """The amount of training data, as text for a log."""
        return f"{len(self.train):,} tokens to train on"

    def matches(self, fingerprint: str) -> bool:
        """True if a run that recorded `fingerprint` was trained on these very tokens.

        Runs of before recorded a sample of them: for those, as far as the sample tells.
        """
        return fingerprint == self.fingerprint or fingerprint == sampled_fingerprint(
            self.train, self.validation
        )

    def ids(self) -> Ids:
        """The ids that occur, training and validation together, ascending."""
        found: set[int] = set()
        for stream in (self.train, self.validation):
            for block in stream.blocks():
                found.update(np.unique(block).tolist())
        return np.array(sorted(found), np.int32)

    def batches(self, B: int, S: int, seed: int = 0, order: Order = "shuffled") -> Batches:
        """Training batches of B sequences of S tokens. DataError if the data is too short."""
        for name, stream, needed in (
            ("training", self.train, B * S + 1),
            ("validation", self.validation, S + 1),
        ):
            if len(stream) < needed:
                raise DataError(
                    f"at least {needed:,} {name} tokens for {B} x {S}",
                    f"{self.description} has {len(stream):,}",
                    "give more text, or a smaller batch or sequence length",
                )
        return Batches(self.train, B, S, seed, order)

    def validation_batches(self, B: int, S: int, limit: int = 0) -> Iterator[tuple[Ids, Ids]]:
        """The validation split in fixed batches, the same every time.

        Yields (x, y), int32 [B, S]. Windows do not overlap; limit > 0 takes that many batches'
        worth, evenly spread over the split. Rows missing from the last batch have targets -1, which
        count in no loss. So weight by targets >= 0 when averaging.
        """
        chosen = _spread(range((len(self.validation) - 1) // S), limit * B)
        for first in range(0, len(chosen), B):
            rows = chosen[first : first + B]
            x, y = _windows(self.validation, [r * S for r in rows] + [0] * (B - len(rows)), S)
            y[len(rows) :] = IGNORED
            yield x, y


class Batches:
    """Chooses the tokens of each training step, as a pure function of (seed, order, step).

    sequential: window r is stream[r*S : r*S + S + 1], batch k has windows k*B .. k*B + B - 1, and
    after the last whole window the first comes again. shuffled: each epoch cuts the stream into
    windows at its own random offset and reads each once, in random order.
    """

    def __init__(self, stream: TokenStream, B: int, S: int, seed: int, order: Order) -> None:
        if order not in ("shuffled", "sequential"):
            raise DataError("order shuffled or sequential", f"got {order!r}", "shuffled is usual")
        self.stream, self.B, self.S, self.seed, self.order = stream, B, S, seed, order
        self.windows_per_epoch = self._count()
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def epoch(self) -> Epoch:
        return Epoch(len(self.stream), self.S)

    def batch(self, step: int) -> tuple[Ids, Ids]:
        """Micro-batch `step` (from 0): inputs x and targets y, int32 [B, S], y one token ahead."""
        if step < 0:
            raise ValueError(f"[data] expected a step >= 0, got {step}.")
        return self._read([self.start(step * self.B + b) for b in range(self.B)])

    def start(self, window: int) -> int:
        """The position in the stream at which sequence number `window` begins."""
        epoch, i = divmod(window, self.windows_per_epoch)
        return self._in_order(i) if self.order == "sequential" else int(self._epoch(epoch)[i])

    def _count(self) -> int:
        """The number of windows of an epoch. DataError if there is none."""
        if len(self.stream) < self.S + 1:
            raise DataError(
                f"at least {self.S + 1} tokens", f"got {len(self.stream)}", "give more text"
            )
        # A shuffled epoch gives up a window's length of tokens to have room for its offset.
        spare = 1 if self.order == "sequential" else self.S
        return max(1, (len(self.stream) - spare) // self.S)

    def _in_order(self, i: int) -> int:
        return i * self.S

    def _read(self, starts: list[int]) -> tuple[Ids, Ids]:
        return _windows(self.stream, starts, self.S)

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The start positions of an epoch's windows, in the order in which they are read."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # a batch spans two epochs at most, unless the data is tiny
                self._epochs.clear()
            self._epochs[epoch] = self._starts_of(epoch)
        return self._epochs[epoch]

    def _starts_of(self, epoch: int) -> npt.NDArray[np.int64]:
        # Raw Philox words are fixed for ever, numpy's own shuffles may change with its version.
        n, S = self.windows_per_epoch, self.S
        raw = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(n + 1)
        offsets = min(S, len(self.stream) - n * S)
        offset = int(raw[0]) * offsets >> 64
        return np.argsort(raw[1:], kind="stable") * S + offset


@dataclass(frozen=True)
class ExampleData(TokenData):
    """A data set of examples: each is a sequence of its own, and only a part of it is learnt.

    chats: whether they are written by the tokenizer's chat template. pieces: whether an example
    that is longer than a sequence is read in several; else what is behind the first is left out.
    """

    train: Examples
    validation: Examples
    chats: bool = False
    pieces: bool = False

    def in_pieces(self) -> ExampleData:
        """The same documents, read to their ends. DataError for examples of answers: a piece that
        begins inside an answer would have no question."""
        if not self.train.all_learnt:
            raise DataError(
                "documents, which may be read in pieces", f"{self.description} has answers",
                "leave out data.boundaries: no example attends to another",
            )  # fmt: skip
        return replace(self, pieces=True)

    @property
    def amount(self) -> str:
        learnt = int(self.train.learnt.sum())
        return f"{learnt:,} of {len(self.train):,} tokens are learnt, which tokens/s counts"

    def batches(self, B: int, S: int, seed: int = 0, order: Order = "shuffled") -> Batches:
        """Training batches of B examples in S positions. DataError if no example fits."""
        train = self.train.pieces(S) if self.pieces else self.train
        found = ExampleBatches(train, B, S, seed, order)
        train.tell(S, self.description, len(found.rows))
        return found

    def validation_batches(self, B: int, S: int, limit: int = 0) -> Iterator[tuple[Ids, Ids]]:
        """The validation examples in fixed batches; see TokenData."""
        examples = self.validation.pieces(S) if self.pieces else self.validation
        rows = _spread(examples.fitting(S).tolist(), limit * B)
        for first in range(0, len(rows), B):
            x, y = examples.window(rows[first : first + B], S)
            spare = B - len(x)
            yield (
                np.concatenate([x, np.repeat(x[:1], spare, axis=0)]),
                np.concatenate([y, np.full((spare, S), IGNORED, np.int32)]),
            )


class ExampleBatches(Batches):
    """Batches of examples, each read from its beginning. Every epoch reads each example once.

    A window is an example, and it starts at its number.
    """

    stream: Examples

    @property
    def epoch(self) -> Epoch:
        return Epoch(len(self.rows), 1, "examples")

    def _count(self) -> int:
        self.rows = self.stream.fitting(self.S)
        if not len(self.rows):
            raise DataError(
                f"examples whose answer begins within {self.S} tokens",
                f"none of {self.stream.count:,} does",
                "raise data.seq_len",
            )
        return len(self.rows)

    def _in_order(self, i: int) -> int:
        return int(self.rows[i])

    def _read(self, starts: list[int]) -> tuple[Ids, Ids]:
        return self.stream.window(starts, self.S)

    def _starts_of(self, epoch: int) -> npt.NDArray[np.int64]:
        raw = np.random.Philox(key=np.array([self.seed, epoch], np.uint64))
        return self.rows[np.argsort(raw.random_raw(len(self.rows)), kind="stable")]


def _spread(rows: Sequence[int], most: int) -> Sequence[int]:
    """At most `most` of the rows, evenly spread; all of them if it is 0."""
    return [rows[i * len(rows) // most] for i in range(most)] if 0 < most < len(rows) else rows


def _windows(stream: TokenStream, starts: Iterable[int], S: int) -> tuple[Ids, Ids]:
    rows = np.stack([stream.read(start, S + 1) for start in starts])
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

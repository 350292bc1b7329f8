"""Drafts of what a text may go on with, for one evaluation to verify: where from, and how many.

Tokens that follow what the text has said before (prompt look-up: Saxena 2023), or those of a
smaller model (speculative decoding: Leviathan et al. 2023). A draft changes when a token is made,
never which one (decode.py).
"""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from anefast.runtime import Inference

GRAMS = (3, 2)  # tokens that a draft goes on from, the longer match first
HABIT = 0.9  # weight of what is known already in a rate
HOPE = 0.6  # of drafts that are right before there were any, to which what is not tried returns


class Drafter(Protocol):
    """The source of drafts for one text. seconds: the time of a drafted token."""

    seconds: float

    def push(self, token: int) -> None:
        """Adds a token to the text."""

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next."""

    def close(self) -> None:
        """Releases what it uses on the device."""


class Lookup:
    """Drafts by looking up how the text went on where its last tokens were said before."""

    seconds = 0.0

    def __init__(self, ids: list[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where what follows these tokens begins
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Adds a token to the text."""
        for n in GRAMS:
            if len(self._ids) >= n:
                self._after[tuple(self._ids[-n:])] = len(self._ids)
        self._ids.append(token)

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next."""
        for n in GRAMS:
            begin = self._after.get(tuple(self._ids[-n:]))
            if begin is not None:
                return self._ids[begin : begin + most]
        return []

    def close(self) -> None:
        """Does nothing: it uses nothing on the device."""


class Smaller:
    """Drafts by the likeliest tokens of another model with the same tokenizer, of `vocab` ids."""

    def __init__(self, inference: Inference, ids: list[int], vocab: int) -> None:
        self._inference, self._ids, self._vocab = inference, list(ids), vocab
        self._size = inference.config.max_seq_len
        self.seconds = 0.0

    def push(self, token: int) -> None:
        """Adds a token to the text."""
        self._ids.append(token)

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next, as many as fit this model's context."""
        found: list[int] = []
        for _ in range(min(most, self._size + 1 - len(self._ids))):
            start = time.perf_counter()
            logits = self._inference.logits(self._ids + found)[: self._vocab]
            found.append(int(logits.argmax()))
            if len(found) > 1:  # the first reads more of the text
                self.seconds = time.perf_counter() - start
        return found

    def close(self) -> None:
        """Unloads its programs."""
        self._inference.close()


class Pace:
    """How many drafts are worth their time, from what evaluations took and how many were right.

    most: drafts at a time. An evaluation of as many columns as were not measured yet is expected to
    take as long as the nearest that were.
    """

    def __init__(self, most: int) -> None:
        self._most, self._rate = most, HOPE
        self._seconds: dict[int, float] = {}  # of evaluations, by columns

    def took(self, columns: int, seconds: float) -> None:
        """An evaluation of so many columns."""
        self._seconds[columns] = min(seconds, 1.1 * self._seconds.get(columns, seconds))

    def learn(self, drafted: int, right: int) -> None:
        """Records how many tokens of a draft were right: all before the first wrong one."""
        tried = min(drafted, right + 1)
        for i in range(tried):
            self._rate = HABIT * self._rate + (1 - HABIT) * (i < right)
        if not tried:
            self._rate += 0.02 * (HOPE - self._rate)

    def worth(self, texts: int, each: float) -> int:
        """The number of drafts that makes most tokens per second. texts: that are evaluated side by
        side; each: seconds per draft."""
        if not self._seconds:
            return self._most
        columns = sorted(self._seconds)
        counts = np.arange(self._most + 1)
        made = (1 - self._rate ** (counts + 1)) / (1 - min(self._rate, 0.999))
        known = [self._seconds[c] for c in columns]
        evaluation = np.interp(texts * (counts + 1), columns, known)
        return int((made / (evaluation + texts * counts * each)).argmax())

"""The built-in stories: unlimited, seeded, offline, and with a known entropy.

How a text can have exactly one derivation: walk.py. What the stories say: plots.py, words.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from .plots import PLOTS
from .walk import Grammar, Story
from .words import WORDS

__all__ = [
    "VOCABULARY",
    "Grammar",
    "Split",
    "Story",
    "floor",
    "grammar",
    "recognise",
    "stories",
    "story",
]

VOCABULARY = Path(__file__).with_name("vocabulary.bin")  # every word a token; made by pieces.py
Split = Literal["train", "validation"]
_SPLITS: tuple[Split, Split] = ("train", "validation")
_BLOCK = 128  # random words drawn at a time; a story takes about as many


@cache
def grammar() -> Grammar:
    """The grammar of the built-in stories."""
    return Grammar({**WORDS, **PLOTS})


def story(seed: int, index: int, split: Split = "train") -> Story:
    """Story `index` of `seed`: a pure function of its arguments, the same on every machine.

    seed, index: 0 <= n < 2**64. The splits draw from disjoint parts of one Philox counter space.
    A story is one of more than e**80, so that a held-out one turns up in training by chance only
    once in more corpora than anyone will make.
    """
    for name, number in (("seed", seed), ("index", index)):
        if not 0 <= number < 2**64:
            raise ValueError(f"[stories] expected 0 <= {name} < 2**64, got {number}.")
    bits = np.random.Philox(
        key=np.array([seed, index], np.uint64),
        counter=np.array([0, 0, 0, _SPLITS.index(split)], np.uint64),
    )
    words: list[int] = []

    def uniform(begins: Sequence[str], at: int) -> int:
        if not words:
            words.extend(bits.random_raw(_BLOCK).tolist())
        return (words.pop() * len(begins)) >> 64  # off uniform by less than 2**-58

    return grammar().derive(uniform)


def stories(seed: int, count: int, split: Split = "train", start: int = 0) -> Iterable[Story]:
    """Stories start .. start + count - 1 of a seed."""
    return (story(seed, index, split) for index in range(start, start + count))


def recognise(text: str) -> Story:
    """The one derivation of `text`, with its exact probability; ValueError if it has none."""
    return grammar().recognise(text)


def floor(told: Iterable[Story], predicted_tokens: int) -> float:
    """Entropy per token, in nats, of these stories: the loss of a model that knows the grammar.

    told: the stories of a split. predicted_tokens: the length of their token stream (BOS before
    each story) minus one, since the first BOS is given.

    -ln p(story) is what the best possible predictor pays for a whole story, whatever the tokenizer,
    as long as ids and text determine each other: each token costs -ln of its probability given all
    before it, and those factors multiply to p(story). BOS is free, because a story's end is settled
    by the story. So the sum over stories divided by the tokens is the mean loss of the grammar
    itself on exactly this split, not an estimate. It is no proof against luck: on one finite split
    some model may pay a little less; on average over splits none can. And a model that sees windows
    will sit above it by some amount, as a window that opens in mid-story hides the names and plot
    already chosen.
    """
    if predicted_tokens < 1:
        raise ValueError(f"[stories] expected at least 1 predicted token, got {predicted_tokens}.")
    return -sum(tale.logp for tale in told) / predicted_tokens

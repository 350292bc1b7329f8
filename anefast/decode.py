"""Continuing token ids: the loop between a model's logits and its text.

What it is not: the logits (runtime/infer.py), or the draw of one token (sampling.py). Tokens that
follow what the text has said before are drafted and verified together (prompt look-up: Saxena 2023;
speculative decoding: Leviathan et al. 2023). Each is drawn from the logits and by the random number
it would have had alone, so what is generated is the same, to the byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.runtime import Inference
from anefast.sampling import Choice, sample

log = logging.getLogger("anefast")

Hide = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
LONGEST = 7  # drafts at a time: with the token before them, what a thin product takes at once
GRAMS = (3, 2)  # tokens that a draft goes on from, the longer match first


@dataclass
class Made:
    """What a continuation came to: evaluations of the model, and tokens that were drafted and
    those of them that were right. log_probabilities: of each token made, at temperature 1, if
    they are kept. full: it ended because the context did."""

    tokens: int = 0
    evaluations: int = 0
    drafted: int = 0
    accepted: int = 0
    full: bool = False
    keeps: bool = False
    log_probabilities: list[float] = field(default_factory=list)

    def line(self) -> str:
        """How many drafts were right, for people."""
        if not self.drafted:
            return ""
        return (
            f"{self.accepted} of {self.drafted} drafted tokens were right: "
            f"{self.tokens / max(1, self.evaluations):.2f} tokens per evaluation"
        )


class Lookup:
    """Drafts by looking up how the text went on where its last tokens were said before.

    The length of a draft follows its luck: doubled where all of one was right, else one more than
    was right.
    """

    def __init__(self, ids: list[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where what follows these tokens begins
        self._length = LONGEST
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
                return self._ids[begin : begin + min(most, self._length)]
        return []

    def learn(self, drafted: int, right: int) -> None:
        """Takes in how many of a draft were right."""
        if drafted:
            self._length = min(LONGEST, 2 * drafted if right == drafted else right + 1)


def continued(
    inference: Inference,
    ids: list[int],
    tokens: int,
    choice: Choice,
    stops: Collection[int],
    hide: Hide | None = None,
    speculate: bool = True,
    made: Made | None = None,
) -> Iterator[int]:
    """Yields the ids that follow `ids`, until one of `stops`, `tokens` of them, or the context's
    end. hide: what the model may not say becomes minus infinity."""
    made = Made() if made is None else made
    ids, rng = list(ids), np.random.default_rng(choice.seed)
    lookup, limit = Lookup(ids if speculate else []), inference.config.max_seq_len
    last = len(ids) + tokens
    while len(ids) < last and len(ids) <= limit:
        most = min(last, limit + 1) - len(ids) - 1
        drafts = lookup.draft(most) if speculate else []
        before = inference.evaluations
        rows = inference.last_logits(ids + drafts, len(drafts) + 1)
        made.evaluations += inference.evaluations - before
        made.drafted += len(drafts)
        right = 0
        for i, logits in enumerate(rows):
            token = _drawn(logits, ids, choice, hide, rng, made)
            if token in stops:
                return
            right += i < len(drafts) and token == drafts[i]
            made.tokens += 1
            ids.append(token)
            lookup.push(token)
            yield token
            if i < len(drafts) and token != drafts[i]:
                break
        made.accepted += right
        lookup.learn(len(drafts), right)
    if len(ids) > limit and len(ids) < last:
        made.full = True
        log.warning(
            "[generate] the context of %d tokens is full: %d of %d tokens were made. "
            "Hint: a shorter prompt, or a model with a longer max_seq_len.",
            limit, made.tokens, tokens,
        )  # fmt: skip


def _drawn(
    logits: npt.NDArray[np.float32],
    ids: list[int],
    choice: Choice,
    hide: Hide | None,
    rng: np.random.Generator,
    made: Made,
) -> int:
    """One token, as if it were the only one that is asked for."""
    row = np.array(logits, np.float32)
    if choice.repetition_penalty != 1:
        _C.penalise(row, np.array(ids, np.int32), choice.repetition_penalty)
    if hide is not None:
        row = np.ascontiguousarray(hide(row), np.float32)
    token = sample(row, choice.temperature, choice.top_k, choice.top_p, rng, choice.min_p)
    if made.keeps:
        made.log_probabilities.append(_C.log_probability(np.array(logits, np.float32), token))
    return token


class StopText:
    """Text as it grows, up to the first of some strings. What may yet become one is held back.

    >>> end = StopText(["###"])
    >>> [end.push(part) for part in ("a", "b#", "c##", "#d")], end.met
    (['a', 'b', '#c', ''], True)
    """

    def __init__(self, stops: Collection[str] = ()) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.met = False

    def push(self, part: str) -> str:
        """More text; what of it, and of what was held, is certain."""
        if self.met:
            return ""
        text = self._held + part
        ends = [at for s in self._stops if (at := text.find(s)) >= 0]
        if ends:
            self.met, self._held = True, ""
            return text[: min(ends)]
        held = max(
            (n for s in self._stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def close(self) -> str:
        """What was held back to the end."""
        held, self._held = self._held, ""
        return held

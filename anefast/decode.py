"""Continuing token ids: the loop between a model's logits and its texts.

What it is not: the logits (runtime/infer.py), or the draw of one token (sampling.py). Texts are
continued side by side: an evaluation gives each of them its next token, and more where tokens that
were drafted (drafts.py) turn out to be the ones that are drawn. Each token is drawn from the logits
and by the random number it would have had alone, so what is generated is the same, to the byte.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.drafts import Drafter, Pace
from anefast.runtime import Inference
from anefast.sampling import Choice, likeliest, sample
from anefast.tokenizer import Stream, Tokenizer

log = logging.getLogger("anefast")

Logits = npt.NDArray[np.float32]
Hide = Callable[[Logits], Logits]


@dataclass
class Made:
    """Counts of a continuation: evaluations of the model, tokens drafted, and drafts that were
    right. log_probabilities: of each token made, at temperature 1, if
    they are kept; likeliest: so many of the likeliest tokens with theirs, if any are wanted. full:
    it ended because the context did."""

    tokens: int = 0
    evaluations: int = 0
    drafted: int = 0
    accepted: int = 0
    full: bool = False
    keeps: bool = False
    log_probabilities: list[float] = field(default_factory=list)
    wanted: int = 0
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)


def drafts_line(made: Collection[Made]) -> str:
    """A line that says how many drafts of these texts were right."""
    drafted, accepted = sum(one.drafted for one in made), sum(one.accepted for one in made)
    if not drafted:
        return ""
    per = sum(one.tokens for one in made) / max([1, *(one.evaluations for one in made)])
    return f"{accepted} of {drafted} drafted tokens were right: {per:.2f} tokens per evaluation"


@dataclass(frozen=True)
class Ends:
    """The ends of a text: `tokens` more ids, one of `stops`, or a full context of `limit` ids.

    slide: a full context ends nothing. Its older half is forgotten, all but the first token where
    that is `first`, and the text goes on from what is left.
    """

    tokens: int
    stops: Collection[int]
    limit: int
    slide: bool = False
    first: int = -1


class Text:
    """A text as it grows: what to ask the model for, and what its logits become.

    hide: what the model may not say becomes minus infinity. drafter: None drafts nothing. done:
    no more tokens are requested.
    """

    def __init__(
        self,
        ids: Collection[int],
        choice: Choice,
        ends: Ends,
        hide: Hide | None = None,
        drafter: Drafter | None = None,
        made: Made | None = None,
    ) -> None:
        self.ids, self.made = list(ids), Made() if made is None else made
        self._choice, self._ends, self._hide, self._drafter = choice, ends, hide, drafter
        self._rng = np.random.default_rng(choice.seed)
        self._last = len(self.ids) + ends.tokens
        self._begin = 0  # of what the context holds, but for a first token that stays
        self._drafts: list[int] = []
        self.done = ends.tokens == 0
        self.stopped = False  # by a token

    def asks(self, pace: Pace, texts: int = 1) -> tuple[list[int], int]:
        """The ids in the context with drafts behind them, and after how many of them to say what
        comes next. texts: that are asked for together."""
        seen = self._context()
        self._drafts = []
        if self._drafter is not None:
            room = min(self._last - len(self.ids), self._ends.limit + 1 - len(seen)) - 1
            worth = min(room, pace.worth(texts, self._drafter.seconds))
            self._drafts = self._drafter.draft(worth) if worth > 0 else []
        self.made.drafted += len(self._drafts)
        return seen + self._drafts, len(self._drafts) + 1

    def takes(self, rows: Logits, pace: Pace) -> list[int]:
        """The tokens that logits [drafts + 1, V] give."""
        found: list[int] = []
        drafts = self._drafts
        for i, logits in enumerate(rows):
            token = self._drawn(logits)
            if token in self._ends.stops:
                self.done = self.stopped = True
                break
            found.append(token)
            self.ids.append(token)
            if self._drafter is not None:
                self._drafter.push(token)
            if i == len(drafts) or token != drafts[i]:
                break
        right = sum(a == b for a, b in zip(found, drafts, strict=False))
        self.made.tokens += len(found)
        self.made.accepted += right
        pace.learn(len(drafts), right)
        self.done = self.done or len(self.ids) >= self._last
        if not self.done and not self._ends.slide and len(self.ids) > self._ends.limit:
            self._full()
        return found

    def close(self) -> None:
        """Releases what drafting uses on the device. Safe to call twice."""
        self.done = True
        if self._drafter is not None:
            self._drafter.close()

    def _context(self) -> list[int]:
        """The ids that the model reads: all, or behind what slid out of its context."""
        limit, first = self._ends.limit, self.ids[:1] == [self._ends.first]
        kept = self.ids[:1] if first and self._begin else []
        if len(kept) + len(self.ids) - self._begin > limit:
            kept = self.ids[:1] if first else []
            self._begin = len(self.ids) - max(1, limit // 2 - len(kept))
        return kept + self.ids[self._begin :]

    def _full(self) -> None:
        self.done = self.made.full = True
        log.warning(
            "[generate] the context of %d tokens is full: %d of %d tokens were generated. "
            "Hint: --slide forgets the older half and goes on; or take a shorter prompt.",
            self._ends.limit, self.made.tokens, self._ends.tokens,
        )  # fmt: skip

    def _drawn(self, logits: Logits) -> int:
        """One token, as if it were the only one requested."""
        choice, row = self._choice, np.array(logits, np.float32)
        if choice.repetition_penalty != 1:
            _C.penalise(row, np.array(self.ids, np.int32), choice.repetition_penalty)
        if self._hide is not None:
            row = np.ascontiguousarray(self._hide(row), np.float32)
        rest = (choice.temperature, choice.top_k, choice.top_p, self._rng, choice.min_p)
        token = sample(row, *rest)
        if self.made.keeps:
            raw = np.ascontiguousarray(logits, np.float32)
            top = likeliest(raw, self.made.wanted) if self.made.wanted else np.zeros(0, np.int32)
            own, *others = _C.log_probabilities(raw, np.array([token, *top], np.int32))
            self.made.log_probabilities.append(own)
            if self.made.wanted:
                self.made.likeliest.append(list(zip(top.tolist(), others, strict=True)))
        return token


class Together:
    """Texts that are continued side by side: an evaluation is of all of them."""

    def __init__(self, inference: Inference) -> None:
        self.inference = inference
        self.pace = Pace(inference.drafts_most)

    def step(self, texts: list[Text]) -> list[list[int]]:
        """The next tokens of each of these texts, none of which is done."""
        asked = [text.asks(self.pace, len(texts)) for text in texts]
        before, start = self.inference.evaluations, time.perf_counter()
        rows = self.inference.logits_of(asked)
        evaluations = self.inference.evaluations - before
        if evaluations == 1 and all(text.made.tokens for text in texts):  # none of a prompt
            self.pace.took(sum(count for _, count in asked), time.perf_counter() - start)
        for text in texts:
            text.made.evaluations += evaluations
        return [text.takes(given, self.pace) for text, given in zip(texts, rows, strict=True)]


def side_by_side(inference: Inference, texts: list[Text]) -> Iterator[tuple[int, int]]:
    """Continues texts to their ends. Yields which of them grew, and by which token. One that is
    closed meanwhile goes no further."""
    together = Together(inference)
    try:
        while under_way := [(i, text) for i, text in enumerate(texts) if not text.done]:
            found = together.step([text for _, text in under_way])
            for (i, _), tokens in zip(under_way, found, strict=True):
                for token in tokens:
                    yield i, token
    finally:
        for text in texts:
            text.close()


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
        """The text held back to the end."""
        held, self._held = self._held, ""
        return held


class Said:
    """The text of a growing answer: tokens as they come, the part of the text that is certain.

    begun: the text of `prompt`, which its tokens follow. stops: strings that end it, left out.
    met: one of them came. tokens: that were taken.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Collection[str] = (), prompt: Collection[int] = ()
    ) -> None:
        self._stream, self._end = Stream(tokenizer), StopText(stops)
        self.begun = "".join(self._stream.push(token) for token in prompt)
        self.tokens = 0

    @property
    def met(self) -> bool:
        return self._end.met

    def push(self, token: int) -> str:
        """One more token; nothing behind a stop string."""
        self.tokens += not self.met
        return self._end.push(self._stream.push(token))

    def close(self) -> str:
        """The text held back to the end."""
        return self._end.push(self._stream.close()) + self._end.close()

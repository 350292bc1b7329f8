"""From logits to the next token: temperature, top-k, top-p, min-p.

Not here: the loop that asks a model for logits (decode.py), or the arithmetic (csrc/cpu/sample.h).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.checks import real, refuse, whole
from anefast.errors import BadInput

# What generates text takes these unless told otherwise: the command and the API.
TOKENS, TEMPERATURE, TOP_K, TOP_P = 256, 0.8, 0, 0.95
SAMPLE_TEMPERATURE = 0.4  # of a run's closing sample, which shows what is known best

_SENTENCE = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d)\]]*(?=\s|$)")  # its end


def check_choice(
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int = 0,
    tokens: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> None:
    """ValueError in one line for a setting of sampling that cannot be."""
    where, hint = "sampling", "0 is greedy, 0.8 is usual"
    if real(where, "temperature", temperature, "finite and >= 0", hint) < 0:
        refuse(where, "temperature", temperature, "finite and >= 0", hint)
    whole(where, "top_k", top_k, 0, hint="0 turns it off")
    hint = "1 turns it off"
    if not 0 < real(where, "top_p", top_p, "above 0 and at most 1", hint) <= 1:
        refuse(where, "top_p", top_p, "above 0 and at most 1", hint)
    hint = "0 turns it off, 0.05 is usual"
    if not 0 <= real(where, "min_p", min_p, "at least 0 and at most 1", hint) <= 1:
        refuse(where, "min_p", min_p, "at least 0 and at most 1", hint)
    hint, said = "1 turns it off, 1.1 is usual", "finite and above 0"
    if real(where, "repetition_penalty", repetition_penalty, said, hint) <= 0:
        refuse(where, "repetition_penalty", repetition_penalty, said, hint)
    whole(where, "seed", seed, 0, hint="the same seed gives the same text")
    whole(where, "tokens", tokens, 0)


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen, as `sample` has it. repetition_penalty: logits of ids that the text
    has are divided by it where they are positive, else multiplied; 1 is off."""

    temperature: float = TEMPERATURE
    top_k: int = TOP_K
    top_p: float = TOP_P
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def check(self, tokens: int = 0) -> None:
        """ValueError in one line for a setting that cannot be, or a number of tokens."""
        cut = (self.temperature, self.top_k, self.top_p)
        check_choice(*cut, self.seed, tokens, self.min_p, self.repetition_penalty)


def sample(
    logits: npt.NDArray[np.float32],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: np.random.Generator | None = None,
    min_p: float = 0.0,
) -> int:
    """One token drawn from softmax(logits / temperature), cut to the likeliest.

    logits: (V,) float; -inf means never. temperature: 0 takes the largest logit, the lowest index
    among equals. top_k: only the k largest; 0 is off. top_p: of those, only the fewest that hold at
    least this share of their probability; 1 is off. min_p: of those, only what is at least this
    many times as likely as the likeliest; 0 is off. Equal logits rank by index. rng: where the one
    random number comes from; needed unless temperature is 0. ValueError for NaN, +inf or no choice.
    """
    check_choice(temperature, top_k, top_p, min_p=min_p)
    values = np.ascontiguousarray(logits, np.float32)
    if values.ndim != 1 or values.size == 0:
        raise _expected("logits of shape (V,)", values.shape, "sample one position at a time")
    largest = float(values.max())
    if not math.isfinite(largest):  # NaN and +inf both surface in the maximum
        raise _expected("finite logits or -inf", largest, "did the run diverge?")
    if temperature == 0:
        return int(values.argmax())
    if rng is None:
        raise _expected("a random generator", None, "np.random.default_rng(seed)")
    return _C.sample(values, rng.random(), temperature, top_k, top_p, min_p)


def likeliest(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int32]:
    """The ids of the largest of logits (V,), the largest first; equal ones rank by index.

    >>> likeliest(np.array([1, 3, 2, 3], np.float32), 3).tolist()
    [1, 3, 2]
    """
    count = min(count, len(logits))
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:count].astype(np.int32)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last sentence; all of it where none ends.

    >>> whole_sentences('"Oh no!" said Mia. She sat do')
    '"Oh no!" said Mia.'
    """
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else text


def _expected(what: str, got: object, hint: str) -> BadInput:
    return BadInput(f"[sampling] expected {what}, got {got}. Hint: {hint}.")

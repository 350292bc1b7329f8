"""Scores of texts: the sums of their tokens' losses, in three units, with standard errors.

`anefast eval`, the validation of a run and a loop of one's own all come here. What it is not: the
losses, which a training step or eval.py makes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anefast.tokenizer.base import Lengths

Ids = npt.NDArray[np.int32]
Losses = npt.NDArray[np.float32]


def bits_per_byte(nats: float, count: int) -> float:
    """A sum of token losses in bits, over the bytes of text that the tokens stand for."""
    return nats / math.log(2) / max(1, count)


@dataclass(frozen=True, repr=False)
class Score:
    """The score of a text that was read in windows.

    nats, tokens, bytes: (windows,), the sum of losses, the tokens and the bytes scored in each
    window. context: tokens of a window. Nats per token depend on the tokenizer; bits per byte do
    not, so they compare models with different tokenizers. An uncertainty is one standard error of
    the mean over windows, as if they were drawn independently.
    """

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    context: int

    def per(self, parts: npt.NDArray[np.int64]) -> tuple[float, float]:
        """Nats per part, and the standard error of that ratio over windows (linearised: Cochran
        1977, section 6.4); infinite for a single window."""
        total, n = max(1.0, float(parts.sum())), len(parts)
        ratio = float(self.nats.sum()) / total
        if n < 2:
            return ratio, math.inf
        apart = self.nats - ratio * parts
        return ratio, math.sqrt(float((apart**2).sum()) * n / (n - 1)) / total

    @property
    def nats_per_token(self) -> float:
        """The mean of -log p of a token."""
        return self.per(self.tokens)[0]

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per byte of text, which compares models with different tokenizers."""
        return bits_per_byte(float(self.nats.sum()), int(self.bytes.sum()))

    def __repr__(self) -> str:
        return (
            f"Score({self.nats_per_token:.4f} ± {self.per(self.tokens)[1]:.4f} nats per token, "
            f"perplexity {self.perplexity:.4f}, {self.bits_per_byte:.4f} bits per byte; "
            f"{self.tokens.sum():,} tokens)"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(self.lines()))}</pre>"

    def lines(self) -> list[str]:
        """The score as lines of text."""
        nats, off = self.per(self.tokens)
        bits, bits_off = (v / math.log(2) for v in self.per(self.bytes))
        return [
            f"{self.tokens.sum():,} tokens, {self.bytes.sum():,} bytes, in {len(self.nats)} "
            f"windows of {self.context} tokens",
            f"nats per token  {nats:.4f} ± {off:.4f}",
            f"perplexity      {math.exp(nats):.4f} ± {math.exp(nats) * off:.4f}",
            f"bits per byte   {bits:.4f} ± {bits_off:.4f}",
        ]


def scored(
    batches: Iterable[tuple[Ids, Ids]], losses: Callable[[Ids, Ids], Losses], lengths: Lengths
) -> Score:
    """The score of batches (x, y), int32 [B, S] tokens and targets, of which a row is a window.

    losses: of a batch, [B, S] nats. Targets below 0 are not scored, nor are rows without others.
    """
    found: list[tuple[float, int, int]] = []
    context = 0
    for x, y in batches:
        nats, context = losses(x, y), max(context, x.shape[1])
        for tokens, targets, row in zip(x, y, nats, strict=True):
            wanted = targets >= 0
            if count := int(wanted.sum()):
                total = float(row[wanted].sum(dtype=np.float64))
                found.append((total, count, lengths.of(tokens, targets)))
    nats_of, tokens_of, bytes_of = zip(*found, strict=True) if found else ((), (), ())
    return Score(
        np.array(nats_of, np.float64), np.array(tokens_of, np.int64), np.array(bytes_of, np.int64),
        context,
    )  # fmt: skip

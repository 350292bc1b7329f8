"""`anefast eval MODEL --data file.txt`: how well a model says a text, in three units.

Nats per token depend on the tokenizer; bits per byte do not, so models of different ones can be
compared. The text is worked off in windows that overlap by half: every token but a window's first
few is scored with at least half a context before it. The uncertainty is that of the mean over
windows, as if they were drawn independently: one standard error.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import tyro

from anefast import _C
from anefast.checks import refuse, whole
from anefast.cli import command, say
from anefast.config import ROW_MULTIPLE, ConfigError
from anefast.data import TokenData, TokenStream
from anefast.errors import BadInput, shown
from anefast.files import read_text
from anefast.mil.pack import halves
from anefast.model import Model
from anefast.models import classifier, family_of
from anefast.models.weights import peeked
from anefast.runtime import Device, fused_transformer
from anefast.tokenizer.base import adds_bos
from anefast.wishes import same_tokenizer

CONTEXT = 1024  # tokens of a window, unless the model was trained on fewer


@dataclass(frozen=True)
class EvalConfig:
    """Which model, on which text."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF file, or a llama2.c .bin.
    model: Annotated[str, tyro.conf.Positional]
    data: str = ""  # A text file, UTF-8; there has to be one.
    context: int = 0  # Tokens of a window; 0: as many as the model was trained on, at most 1024.
    tokens: int = 0  # Only the first so many tokens of the text; 0: all.
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.


@dataclass(frozen=True, repr=False)
class Score:
    """nats, tokens, bytes: of each window, what was scored of it. context: tokens of a window."""

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    context: int

    def per(self, parts: npt.NDArray[np.int64]) -> tuple[float, float]:
        """Nats per part, and the standard error of that ratio over windows (linearised: Cochran
        1977, section 6.4); infinite for a single window."""
        total, n = float(parts.sum()), len(parts)
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
        """e to the nats per token."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Does not depend on the tokenizer, so it compares models of different ones."""
        return self.per(self.bytes)[0] / math.log(2)

    def __repr__(self) -> str:
        return (
            f"Score({self.nats_per_token:.4f} ± {self.per(self.tokens)[1]:.4f} nats per token, "
            f"perplexity {self.perplexity:.4f}, {self.bits_per_byte:.4f} bits per byte; "
            f"{self.tokens.sum():,} tokens)"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(self.lines()))}</pre>"

    def lines(self) -> list[str]:
        """The score for people."""
        nats, off = self.per(self.tokens)
        bits, bits_off = (v / math.log(2) for v in self.per(self.bytes))
        return [
            f"{self.tokens.sum():,} tokens, {self.bytes.sum():,} bytes, in {len(self.nats)} "
            f"windows of {self.context} tokens",
            f"nats per token  {nats:.4f} ± {off:.4f}",
            f"perplexity      {math.exp(nats):.4f} ± {math.exp(nats) * off:.4f}",
            f"bits per byte   {bits:.4f} ± {bits_off:.4f}",
        ]


def evaluate(
    model: Model,
    text: str | Sequence[int],
    context: int = 0,
    tokens: int = 0,
    device: Device | None = None,
) -> Score:
    """Scores a text, or its ids. context: tokens of a window, 0 for what the model was trained on,
    at most 1024. tokens: only the first so many, 0 for all. BadInput where the text has too few."""
    limit = model.config.max_seq_len
    whole("eval", "context", context, 0)
    whole("eval", "tokens", tokens, 0)
    if context > limit or context == 1:
        raise BadInput(f"[eval] expected a context of 2 to {limit} tokens, got {context}.")
    length = context or min(limit, model.trained_length or CONTEXT, CONTEXT)
    if isinstance(text, str):
        ids = model.tokenizer.encode(text, bos=adds_bos(model.tokenizer))
    else:
        ids = list(text)
    ids = ids[: tokens + 1] if tokens else ids
    if len(ids) < 2:
        raise BadInput(f"[eval] expected a text of 2 tokens or more, got {len(ids)}.")
    sizes = np.array([0] + [len(model.tokenizer.piece(b, a)) for a, b in pairwise(ids)])
    on = device if device is not None else Device()
    found: list[tuple[float, int, int]] = []
    with Judge(model, length, on) as judge:
        for begin, first, end in windows(len(ids), length):
            said = judge.nats(np.array(ids[begin : end + 1], np.int32))
            scored = said[first - begin - 1 : end - begin]
            if not np.isfinite(scored).all():
                raise BadInput(
                    "[eval] expected finite losses, got one that is not: the residual stream left "
                    "fp16. Hint: model.stream_scale keeps it smaller."
                )
            found.append((float(scored.sum()), end + 1 - first, int(sizes[first : end + 1].sum())))
    nats, counts, lengths = zip(*found, strict=True)
    return Score(np.array(nats), np.array(counts), np.array(lengths), length)


def held_out(model: Model, data: TokenData | str | Path) -> str | list[int]:
    """The ids that `Model.evaluate` scores: of a file's text, or of a validation part."""
    if isinstance(data, (str, os.PathLike)):
        return read_text(data, where="eval")
    if not isinstance(data, TokenData) or not isinstance(data.validation, TokenStream):
        refuse("eval", "data", data, "the path of a text file, or TokenData", "open_data opens one")
    if not same_tokenizer(model.tokenizer, data.tokenizer):
        raise BadInput(
            f"[eval] expected data in the ids of the model's tokenizer, {model.tokenizer.name}, "
            f"got those of {data.tokenizer.name}. Hint: open_data(source, model.tokenizer)."
        )
    ids: list[int] = data.validation.read(0, len(data.validation)).tolist()
    return ids


def windows(count: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, last): positions begin.. are read, and first to last of `count` are scored.

    >>> list(windows(9, 4))
    [(0, 1, 4), (3, 5, 7), (6, 8, 8)]
    """
    begin, first = 0, 1
    while first < count:
        last = min(begin + length, count - 1)
        yield begin, first, last
        first = last + 1
        begin = last + 1 + length // 2 - length


class Judge:
    """A model's trunk as programs for windows of up to `length` tokens, with what its head needs.

    An adapter is merged into the weights. A context manager: leaving it unloads the programs.
    """

    def __init__(self, model: Model, length: int, device: Device) -> None:
        self._model, family = model, family_of(model.config)
        self._params = model.lora.adapter().merged(model.params) if model.lora else model.params
        self._rows = -(-length // ROW_MULTIPLE) * ROW_MULTIPLE
        self._bias = self._params.get(family.norm_bias)
        self._classifier = halves(peeked(self._params), classifier(self._params))
        if model.vocabulary is not None:
            self._classifier = self._classifier[model.vocabulary.ids]
        self._positions = None
        if (table := self._params.get(family.positions)) is not None:
            self._positions = np.zeros((self._rows, model.config.dim), np.float32)
            self._positions[: len(table)] = table[: self._rows]
        self._forward = fused_transformer(model.config, self._params, self._rows, device)

    def nats(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """-log p of ids[1:], each after all before it, over the ids the model was trained on."""
        config, n = self._model.config, len(ids) - 1
        tokens = np.zeros((1, self._rows), np.int32)
        tokens[0, :n] = ids[:-1]
        targets = np.full((1, self._rows), -1, np.int32)
        targets[0, :n] = self._targets(ids[1:])
        x = np.empty((1, config.dim, 1, self._rows), np.float16)
        _C.embed(tokens, self._params["tok_embeddings"], x, self._positions)
        h = self._forward(x)
        nll = np.empty((1, self._rows), np.float32)
        norm, eps = self._params["norm"], config.stream_eps
        _C.head_loss(h, norm, self._classifier, targets, eps, nll, self._bias)
        said: npt.NDArray[np.float32] = nll[0, :n]
        return said

    def _targets(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Rows of the classifier. BadInput for an id that the model was not trained on."""
        vocabulary = self._model.vocabulary
        if vocabulary is None:
            return ids
        strange = ids[~np.isin(ids, vocabulary.ids)]
        if strange.size:
            text = shown(self._model.tokenizer.decode(strange[:1].tolist()))
            raise BadInput(
                f"[eval] expected tokens that the model was trained on, got {strange[0]} "
                f"({text}). Hint: its vocabulary was compacted."
            )
        return vocabulary.compact(ids)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._forward.close()


def run(config: EvalConfig) -> None:
    """Prints the score."""
    for name, value in (("context", config.context), ("tokens", config.tokens)):
        whole("eval", name, value, 0)
    device = Device(config.device, chip=config.chip)
    if not config.data:
        raise ConfigError("[eval] expected --data, a text file to score, got none.")
    text = read_text(config.data, where="eval")
    model = Model.load(config.model, config.tokenizer)
    say(f"{config.model} on {device.description} ({device.label})")
    for line in evaluate(model, text, config.context, config.tokens, device).lines():
        say(line)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(EvalConfig, run, argv)


if __name__ == "__main__":
    main()

"""`anefast eval MODEL --data file.txt`: how well a model says a text, in three units.

The text is worked off in windows that overlap by half: every token but a window's first few is
scored with at least half a context before it. The classifier is read in fp16, as generating does.
Sums and units are score.py's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import tyro

from anefast import _C
from anefast.checks import refuse, whole
from anefast.cli import command, say
from anefast.config import ROW_MULTIPLE, ConfigError, from_settings
from anefast.data import ExampleData, TokenData, TokenStream
from anefast.errors import BadInput, shown
from anefast.files import read_text
from anefast.mil.pack import halves
from anefast.model import Model
from anefast.models import classifier, family_of
from anefast.models.weights import peeked
from anefast.origins import data_of
from anefast.runtime import Device, fused_transformer
from anefast.score import Ids, Score, scored
from anefast.telemetry import read_config
from anefast.telemetry.run import CONFIG
from anefast.tokenizer.base import Lengths, adds_bos
from anefast.wishes import same_tokenizer

CONTEXT = 1024  # tokens of a window, unless the model was trained on fewer


@dataclass(frozen=True)
class EvalConfig:
    """Score a text with a model: nats per token, perplexity, bits per byte."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF file, or a llama2.c .bin.
    model: Annotated[str, tyro.conf.Positional]
    data: str = ""  # A text file, UTF-8. Empty: the validation part of a run's own data.
    context: int = 0  # Tokens of a window; 0: as many as the model was trained on, at most 1024.
    tokens: int = 0  # Score only this many tokens, the first ones; 0: all.
    apart: bool = False  # Windows do not overlap, as those of a run's validation do not.
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.


def evaluate(
    model: Model,
    text: str | Sequence[int] | ExampleData,
    context: int = 0,
    tokens: int = 0,
    device: Device | None = None,
    apart: bool = False,
) -> Score:
    """Scores a text, or its ids, or the validation part of examples, each of which is a window.

    context: tokens of a window, 0 for what the model was trained on, at most 1024. tokens: only the
    first so many, 0 for all. apart: windows do not overlap, and what does not fill the last one is
    left out. BadInput where the text has too few tokens.
    """
    limit = model.config.max_seq_len
    whole("eval", "context", context, 0)
    whole("eval", "tokens", tokens, 0)
    if context > limit or context == 1:
        raise BadInput(f"[eval] expected a context of 2 to {limit} tokens, got {context}.")
    length = context or min(limit, model.trained_length or CONTEXT, CONTEXT)
    if isinstance(text, ExampleData):
        if tokens:
            raise BadInput("[eval] expected tokens of 0 for examples, which are scored whole.")
        return _score(model, text.validation_batches(1, length), length, device)
    if isinstance(text, str):
        ids = model.tokenizer.encode(text, bos=adds_bos(model.tokenizer))
    else:
        ids = list(text)
    ids = ids[: tokens + 1] if tokens else ids
    least = length + 1 if apart else 2
    if len(ids) < least:
        raise BadInput(f"[eval] expected a text of {least} tokens or more, got {len(ids)}.")
    text_ids = np.array(ids, np.int32)
    batches = (_batch(text_ids, *window) for window in windows(len(ids), length, apart))
    return _score(model, batches, length, device)


def _score(
    model: Model, batches: Iterable[tuple[Ids, Ids]], length: int, device: Device | None
) -> Score:
    with Judge(model, length, device if device is not None else Device()) as judge:
        return replace(scored(batches, judge.losses, Lengths(model.tokenizer)), context=length)


def _batch(ids: Ids, begin: int, first: int, last: int) -> tuple[Ids, Ids]:
    """A window's tokens and targets, both [1, n], of which those from `first` on are scored."""
    targets = ids[None, begin + 1 : last + 1].copy()
    targets[:, : first - begin - 1] = -1
    return ids[None, begin:last], targets


def held_out(model: Model, data: TokenData | str | Path) -> str | list[int] | ExampleData:
    """What `Model.evaluate` scores: a file's text, or a validation part's ids or examples."""
    if isinstance(data, (str, os.PathLike)):
        return read_text(data, where="eval")
    if not isinstance(data, TokenData) or not isinstance(data.validation, TokenStream):
        refuse("eval", "data", data, "the path of a text file, or TokenData", "open_data opens one")
    if not same_tokenizer(model.tokenizer, data.tokenizer):
        raise BadInput(
            f"[eval] expected data in the ids of the model's tokenizer, {model.tokenizer.name}, "
            f"got those of {data.tokenizer.name}. Hint: open_data(source, model.tokenizer)."
        )
    if isinstance(data, ExampleData):
        return data
    ids: list[int] = data.validation.read(0, len(data.validation)).tolist()
    return ids


def windows(count: int, length: int, apart: bool = False) -> Iterator[tuple[int, int, int]]:
    """(begin, first, last): positions begin.. are read, and first to last of `count` are scored.
    apart: whole windows that do not overlap.

    >>> list(windows(9, 4)), list(windows(9, 4, apart=True))
    ([(0, 1, 4), (3, 5, 7), (6, 8, 8)], [(0, 1, 4), (4, 5, 8)])
    """
    if apart:
        yield from ((b, b + 1, b + length) for b in range(0, count - length, length))
        return
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

    def losses(self, x: Ids, y: Ids) -> npt.NDArray[np.float32]:
        """-log p of targets y, each after all of x before it, over the ids the model was trained
        on: x, y [1, n]; 0 where a target is below 0. BadInput where one is not finite."""
        config, n = self._model.config, x.shape[1]
        tokens = np.zeros((1, self._rows), np.int32)
        tokens[:, :n] = x
        targets = np.full((1, self._rows), -1, np.int32)
        targets[:, :n] = self._targets(y)
        columns = np.empty((1, config.dim, 1, self._rows), np.float16)
        _C.embed(tokens, self._params["tok_embeddings"], columns, self._positions)
        h = self._forward(columns)
        nll = np.empty((1, self._rows), np.float32)
        norm, eps = self._params["norm"], config.stream_eps
        _C.head_loss(h, norm, self._classifier, targets, eps, nll, self._bias)
        said: npt.NDArray[np.float32] = nll[:, :n]
        if not np.isfinite(said).all():
            raise BadInput(
                "[eval] expected finite losses, got one that is not: the residual stream "
                "overflowed fp16. Hint: a smaller model.stream_scale."
            )
        return said

    def _targets(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Rows of the classifier. BadInput for an id that the model was not trained on."""
        vocabulary = self._model.vocabulary
        if vocabulary is None:
            return ids
        strange = ids[(ids >= 0) & ~np.isin(ids, vocabulary.ids)]
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
    if not config.data and not (Path(config.model) / CONFIG).is_file():
        raise ConfigError(
            "[eval] expected --data, a text file to score, got none. Hint: only a run has data of "
            "its own."
        )
    text = read_text(config.data, where="eval") if config.data else ""
    model = Model.load(config.model, config.tokenizer)
    say(f"{config.model} on {device.description} ({device.label})")
    if config.data:
        score = evaluate(model, text, config.context, config.tokens, device, config.apart)
    else:
        score = evaluate(
            model, own_data(config, model), config.context, config.tokens, device, True
        )
    for line in score.lines():
        say(line)


def own_data(config: EvalConfig, model: Model) -> str | list[int] | ExampleData:
    """The validation part of a run's data."""
    settings = from_settings(read_config(Path(config.model)))
    data = data_of(settings.data, model.tokenizer, model.config.vocab_size)
    say(f"the validation part of {data.description}, read as the run's validation does")
    return held_out(model, data)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(EvalConfig, run, argv)


if __name__ == "__main__":
    main()

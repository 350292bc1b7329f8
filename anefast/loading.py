"""What a model is opened from: a run or a checkpoint of ours, or a folder or file of others.

`Model.load` makes a model of it; formats/ has the files of others, checkpoint/ has ours.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from anefast.checkpoint import (
    base_path,
    find_checkpoint,
    load_adapter,
    load_model,
    load_state,
    load_trained_length,
    load_vocabulary,
    model_of,
)
from anefast.config import ModelConfig
from anefast.errors import BadInput, shown
from anefast.formats import ADAPTER_CONFIG, llama2c, open_source
from anefast.kinds import missing
from anefast.models import Params, Vocabulary
from anefast.models.adapter import Adapter
from anefast.tokenizer import Tokenizer, open_tokenizer

log = logging.getLogger("anefast")

KINDS = "a run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF or a llama2.c file"


class ModelError(BadInput):
    """A model and what was given with it do not go together. One line."""


def check_tokenizer(tokenizer: Tokenizer, size: int, padded: bool = False) -> None:
    """ModelError where a tokenizer is not one for a table of `size` rows.

    padded: the table may have more rows than the tokenizer has ids. That needs a yes from somebody,
    for the other reason is a tokenizer of another model, whose ids mean other things.
    """
    have = tokenizer.vocab_size
    if have == size or (have < size and padded):
        return
    hint = "use the tokenizer that this model was trained with"
    if have < size:
        hint += "; padded=True, or generate --padded, says that the table is larger on purpose"
    raise ModelError(
        f"[model] expected a tokenizer of {size} ids, as the model's table has, {tokenizer.name} "
        f"has {have}. Hint: {hint}."
    )


class Loaded(NamedTuple):
    """The parts of a model, as `Model` has them."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary | None = None
    trained: int = 0  # tokens per sequence that it was trained on, 0 if unknown
    adapter: Adapter | None = None


def load(path: Path, tokenizer: str = "", padded: bool = False) -> Loaded:
    """Opens what `path` leads to. Arguments and errors as in `Model.load`."""
    vocabulary, trained = None, 0
    if (found := open_source(path)) is not None:
        own = open_tokenizer(tokenizer) if tokenizer else found.tokenizer()
        check_tokenizer(own, found.config.vocab_size, padded or not tokenizer)
        if (path / ADAPTER_CONFIG).is_file():
            log.warning(
                "%s has a LoRA adapter beside its weights, which counts only where --adapter "
                "names it", shown(path),
            )  # fmt: skip
        return Loaded(found.config, found.load(), own)
    if path.is_dir():
        folder = find_checkpoint(path)
        if (adapter := load_adapter(folder)) is not None:
            return _of_adapter(folder, adapter, tokenizer, padded)
        config, params = load_model(folder, files=False)  # load_adapter has looked at them
        vocabulary = load_vocabulary(folder)
        trained = load_trained_length(folder)
        source = tokenizer or str(folder)
    else:
        if (gone := missing(path)) is not None:
            raise ModelError(f"[model] expected {KINDS}: {gone[0]}. Hint: {gone[1]}.")
        config, params = llama2c.load(path)
        source = tokenizer
    if not source:
        raise ModelError(
            f"[model] expected a tokenizer for {shown(path)}. Hint: llama2.c keeps it apart, "
            "pass its tokenizer .bin."
        )
    opened = open_tokenizer(source)
    check_tokenizer(opened, config.vocab_size, padded or not tokenizer)
    return Loaded(config, params, opened, vocabulary, trained)


def _of_adapter(folder: Path, adapter: Adapter, tokenizer: str, padded: bool) -> Loaded:
    """The base that the checkpoint of a LoRA run names, with the run's adapter."""
    base = load(Path(base_path(adapter, folder)), tokenizer or str(folder), padded)
    return base._replace(
        config=model_of(folder, load_state(folder, files=False)),
        vocabulary=load_vocabulary(folder),
        trained=load_trained_length(folder),
        adapter=adapter,
    )

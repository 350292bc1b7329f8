"""`anefast inspect MODEL`: what a model's files hold, and whether anefast takes them.

No weights are read, but for those of a run or a llama2.c file, which have no other way to be
checked. A model that is refused gets the reason, and exit code 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.cli import command, say
from anefast.config import ModelConfig
from anefast.errors import BadInput, shown
from anefast.formats import AdapterSource, open_adapter, open_source
from anefast.formats.huggingface import is_folder
from anefast.formats.stored import Tensors
from anefast.model import Model
from anefast.models import count_params, family_of
from anefast.tokenizer import Tokenizer


@dataclass(frozen=True)
class InspectConfig:
    """Show what a model's files hold."""

    # A Hugging Face folder, a GGUF file, a run, a checkpoint, a llama2.c .bin, or an adapter.
    model: Annotated[str, tyro.conf.Positional]
    # The tokenizer of a llama2.c .bin, which has none: "bytes" or a tokenizer file.
    tokenizer: str = ""


def inspect(config: InspectConfig) -> None:
    """Prints a few lines. ValueError in one line for a model that is refused."""
    adapter = open_adapter(Path(config.model))
    whole = adapter is None or is_folder(Path(config.model))
    source = open_source(Path(config.model)) if whole else None
    if config.tokenizer and (adapter or source):
        raise BadInput(
            f"[inspect] tokenizer {shown(config.tokenizer)} was named, but {shown(config.model)} "
            f"{'brings its own' if source else 'needs none'}. Hint: leave it out."
        )
    if adapter:
        say(*_adapter(adapter))
        if source is None:
            return
    if source is None:
        model = Model.load(config.model, config.tokenizer)
        say(*_shape(model.config), *_tokenizer(model.tokenizer, model.config))
        if lora := model.lora:
            about = f"rank {lora.rank}, scale {lora.scale:g}, beside {len(lora.ranks)} matrices"
            say(f"adapter:    {about} of {shown(lora.base.path) or 'a model without a name'}")
        return
    say(f"format:     {source.format}", *_shape(source.config), *_stored(source.tensors))
    source.check()
    try:
        lines = _tokenizer(source.tokenizer(), source.config)
    except (BadInput, ImportError) as error:
        lines = [f"tokenizer:  none that is read: {shown(error, 400)}"]
    say(*lines)


def _shape(config: ModelConfig) -> list[str]:
    heads = f"{config.n_heads} heads of {config.head_dim}"
    if config.n_kv_heads != config.n_heads:
        heads += f" on {config.n_kv_heads}"
    weights = count_params(config)
    own = "tied" if config.tied else "with a classifier of its own"
    return [
        f"family:     {config.family}",
        f"shape:      {config.n_layers} layers of {config.dim}, {heads}, "
        f"feed-forward {config.hidden_dim}",
        f"vocabulary: {config.vocab_size:,} rows, {own}",
        f"positions:  {config.max_seq_len:,}{_positions(config)}",
        f"weights:    {weights:,}, {weights * 4 / 2**20:,.0f} MiB in fp32",
    ]


def _positions(config: ModelConfig) -> str:
    said = f", rope_theta {config.rope_theta:g}" if family_of(config).rotary else ", learned"
    if config.rope_scaling:
        said += f", {config.rope_scaling[:60]}"
    if config.sliding_window:
        said += f", a window of {config.sliding_window:,}"
    return said


def _stored(tensors: Tensors) -> list[str]:
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.size
    kinds = ", ".join(f"{n:,} in {dtype}" for dtype, n in counts.most_common())
    nbytes = sum(t.nbytes for t in tensors.values())
    return [f"stored:     {len(tensors)} tensors, {nbytes / 2**20:,.0f} MiB: {kinds}"]


def _adapter(source: AdapterSource) -> list[str]:
    layers = Counter(name.rpartition(".")[2] for name in source.modules)
    scales = sorted({module.scale for module in source.modules.values()})
    tensors = {t.name: t for module in source.modules.values() for t in (module.a, module.b)}
    of = f"{source.base.sha256[:12]} {source.base.path}".strip()
    return [
        f"format:     {source.format}, a LoRA adapter",
        f"rank:       {source.rank}, scale {', '.join(f'{s:g}' for s in scales[:4])}",
        f"layers:     {', '.join(f'{n} {shown(name, 40)}' for name, n in layers.most_common(20))}",
        f"base:       {shown(of) or 'not said'}",
        *_stored(tensors),
    ]


def _tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> list[str]:
    spare = config.vocab_size - tokenizer.vocab_size
    rows = f"; {spare} rows of the table have none" if spare else ""
    return [
        f"tokenizer:  {tokenizer.name}, {tokenizer.vocab_size:,} ids{rows}; "
        f"documents begin with {tokenizer.bos_id}, end with {tokenizer.eos_id}"
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a model that is refused or not there."""
    command(InspectConfig, inspect, argv)


if __name__ == "__main__":
    main()

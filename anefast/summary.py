"""A model in a few lines: its shape, its parts, and their sizes."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anefast.config import ModelConfig
from anefast.models.weights import shapes_in

if TYPE_CHECKING:
    from anefast.models import Params
    from anefast.tokenizer import Tokenizer

_LAYER = re.compile(r"layers\.\d+\.")


@dataclass(frozen=True)
class Part:
    """Parameters of one name: those of the layers are one part together."""

    name: str
    shape: tuple[int, ...]
    times: int  # how many layers have one
    weights: int  # in all of them


@dataclass(frozen=True)
class Summary:
    """A model's parts. `str` gives a table, and a notebook shows it as one."""

    head: str  # the model in one line
    parts: tuple[Part, ...]
    optimizer: str  # by its name
    training: int  # numbers in memory while it trains: weights, gradients, states of `optimizer`

    @property
    def weights(self) -> int:
        return sum(part.weights for part in self.parts)

    def __str__(self) -> str:
        rows = [_cells(part) for part in self.parts]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return "\n".join([self.head, "", *lines, "", self._total()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(a)}</td><td>{b}</td><td style='text-align:right'>{c}</td></tr>"
            for a, b, c in map(_cells, self.parts)
        )
        head = "<tr><th>part</th><th>shape</th><th>weights</th></tr>"
        return f"<p>{html.escape(self.head)}</p><table>{head}{rows}</table><p>{self._total()}</p>"

    def _total(self) -> str:
        mib, training = (4 * numbers / 2**20 for numbers in (self.weights, self.training))
        return (
            f"{self.weights:,} weights: {mib:,.1f} MiB in fp32, {training:,.1f} MiB with gradients "
            f"and the states of {self.optimizer}"
        )


def line(config: ModelConfig, params: Params, tokenizer: Tokenizer) -> str:
    """A model in one line.

    >>> import numpy as np
    >>> from anefast.tokenizer import open_tokenizer
    >>> shape = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=259, max_seq_len=64)
    >>> line(shape, {"tok_embeddings": np.zeros((259, 32))}, open_tokenizer("bytes"))
    'llama, 8,288 weights: dim 32, 1 layer, 2 heads, context 64, tokenizer bytes of 259 ids'
    """
    heads = f"{config.n_heads} heads"
    if config.n_kv_heads != config.n_heads:
        heads += f" on {config.n_kv_heads} key/value heads"
    layers = f"{config.n_layers} layer{'s' * (config.n_layers != 1)}"
    weights = sum(map(math.prod, shapes_in(params).values()))
    return (
        f"{config.family}, {weights:,} weights: dim {config.dim}, "
        f"{layers}, {heads}, context {config.max_seq_len}, "
        f"tokenizer {tokenizer.name} of {tokenizer.vocab_size:,} ids"
    )


def parts(params: Params) -> tuple[Part, ...]:
    """The parts of a model, in the order of its parameters."""
    sizes: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, shape in shapes_in(params).items():
        key = _LAYER.sub("layers.*.", name), shape
        sizes.setdefault(key, []).append(math.prod(shape))
    return tuple(Part(name, shape, len(n), sum(n)) for (name, shape), n in sizes.items())


def _cells(part: Part) -> tuple[str, str, str]:
    times = f" x {part.times}" if part.times > 1 else ""
    return part.name, " x ".join(map(str, part.shape)) + times, f"{part.weights:,}"

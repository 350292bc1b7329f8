"""A model in files of any format, before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from anefast.config import ConfigError, ModelConfig
from anefast.errors import shown
from anefast.files import FileError
from anefast.models import Params, shapes
from anefast.models.foreign import Place, Places
from anefast.models.weights import Unread, Weights
from anefast.tokenizer import Tokenizer

from .stored import Array, Stored, Tensors


class ModelSourceError(FileError):
    """Files that do not hold the model that their settings describe. One line."""


@dataclass(frozen=True)
class ModelSource:
    """format: as a sentence calls it. places: where our parameters are among the tensors.
    tokenizer: opens the one that comes with the model; TokenizerError where there is none."""

    path: Path
    format: str
    config: ModelConfig
    places: Places
    tensors: Tensors
    tokenizer: Callable[[], Tokenizer]

    def check(self) -> None:
        """Every parameter is there in its shape, and nothing else is. ModelSourceError."""
        for name, shape in shapes(self.config).items():
            place = self.places[name]
            wanted = (shape[0] * place.of, *shape[1:])
            wanted = wanted[::-1] if place.transposed else wanted
            if place.name not in self.tensors:
                raise self._wrong(f"a tensor {place.name}, there is none")
            if (got := self.tensors[place.name].shape) != wanted:
                raise self._wrong(f"{place.name} of shape {list(wanted)}, got {list(got)}")
        known = {place.name for place in self.places.values()}
        if other := next((name for name in self.tensors if name not in known), None):
            raise self._wrong(f"no tensor {shown(other)}, which this family has no use for")

    def load(self) -> Params:
        """The weights, fp32 by our names, each read when it is asked for."""
        self.check()
        return Weights(
            {n: Unread(s, partial(self._read, n)) for n, s in shapes(self.config).items()}
        )

    def _read(self, name: str) -> Array:
        place = self.places[name]
        return np.ascontiguousarray(from_file(place, self.tensors[place.name]))

    def _wrong(self, expected: str) -> ModelSourceError:
        return ModelSourceError(
            f"[model] expected {shown(self.path)} to hold {expected}. "
            "Hint: it belongs to another model, or is damaged."
        )


def check_depth(config: ModelConfig, tensors: Tensors) -> None:
    """ConfigError for more layers than there are tensors, before a table of them all is made."""
    if config.n_layers > len(tensors):
        raise ConfigError(
            f"expected at most {len(tensors)} layers, as there are tensors, "
            f"got {config.n_layers:,}."
        )


def from_file(place: Place, tensor: Stored) -> Array:
    """A parameter of ours out of a tensor of a file."""
    values = tensor.read()
    values = values.T if place.transposed else values
    if place.of > 1:
        rows = len(values) // place.of
        values = values[place.part * rows : (place.part + 1) * rows].copy()  # not the others too
    return to_interleaved(values, place.split_heads) if place.split_heads else values


def to_file(
    places: Places, params: Mapping[str, Array]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Array]]]:
    """The inverse, tensor by tensor: (name, shape, what makes its values), parts put together."""
    parts: dict[str, list[str]] = {}
    for ours, place in places.items():
        parts.setdefault(place.name, []).append(ours)
    for name, held in parts.items():
        held.sort(key=lambda ours: places[ours].part)
        first = params[held[0]].shape
        shape = (first[0] * len(held), *first[1:])
        turned = places[held[0]].transposed

        def make(held: list[str] = held, turned: bool = turned) -> Array:
            found = [to_half_split(params[o], places[o].split_heads) for o in held]
            whole = found[0] if len(found) == 1 else np.concatenate(found)
            return np.ascontiguousarray(whole.T if turned else whole)

        yield name, shape[::-1] if turned else shape, make


def to_interleaved(rows: Array, heads: int) -> Array:
    """Rows [heads * D, ...], each head's halves interleaved: (j, j + D/2) -> (2j, 2j + 1).

    >>> to_interleaved(np.arange(4, dtype=np.float32), 1).tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_half_split(rows: Array, heads: int) -> Array:
    """The inverse of `to_interleaved`; rows as they are where heads is 0."""
    if not heads:
        return rows
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

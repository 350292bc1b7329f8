"""LoRA adapters in files of others: what the folders of PEFT and mlx-lm have in common.

Both name the linear layers as Hugging Face's model does and keep its order of rows, so that B of
queries and keys is permuted on the way, and A is not. Where a layer holds several of our matrices
side by side (GPT-2's c_attn), each gets its rows of B.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anefast import files
from anefast.config import ModelConfig
from anefast.errors import BadInput, shown
from anefast.models import family_of
from anefast.models.adapter import RANK_MOST, Adapter, AdapterError, Base, Pair, adaptable, scale_of
from anefast.models.foreign import Place, Places

from .safetensors import read_metadata, read_safetensors, write_safetensors
from .source import from_file, to_half_split
from .stored import Array, Stored

CONFIG = "adapter_config.json"
TABLES = ("lm_head", "embed_tokens", "wte")  # what the CPU computes, as layers of others are called
SHA256 = "anefast.base_sha256"  # in the metadata of the tensors, which others leave alone


class AdapterFileError(files.FileError):
    """The files hold no adapter, or one of another model. One line that names them."""


class Module(NamedTuple):
    """a: [rank, in], b: [out, rank]. scale: what B A is multiplied by."""

    a: Stored
    b: Stored
    scale: float


@dataclass(frozen=True)
class AdapterSource:
    """An adapter in a folder, before its numbers are read.

    format: as a sentence calls it. modules: by names of linear layers, such as
    model.layers.0.self_attn.q_proj. alpha, rslora: as the folder says for those that have no
    numbers of their own. root: see `_modules`.
    """

    path: Path
    format: str
    modules: Mapping[str, Module]
    alpha: float
    rslora: bool
    base: Base
    root: str = ""

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        return max(module.a.shape[0] for module in self.modules.values())

    def load(self, config: ModelConfig, places: Places | None = None) -> Adapter:
        """The adapter in our names and order, its ranks made equal with zeros, its scales equal by
        B. AdapterFileError where the model has not what it changes.

        places: of the folder that the model came from, where it is not in the usual order.
        """
        held = _modules(config, self.root, places or places_of(config))
        scaled: dict[str, tuple[Pair, float]] = {}
        for name, module in self.modules.items():
            if name not in held and name.rpartition(".")[2] in TABLES:
                raise AdapterFileError(
                    f"[adapter] expected {shown(self.path)} to change matrices of the layers, got "
                    f"{shown(name)}. Hint: the CPU computes embedding and classifier, which take "
                    "no pairs; train the adapter without it."
                )
            if name not in held:
                raise self._wrong(f"layers that the model has, got {shown(name)}")
            parts = held[name]
            self._check(name, module, config, [ours for ours, _ in parts])
            a, b = module.a.read(), module.b.read()
            for (ours, _), pair in zip(parts, _parted(a, b, parts), strict=True):
                scaled[ours] = pair, module.scale
        rank = max(len(pair.a) for pair, _ in scaled.values())
        scale = scale_of(self.alpha, rank, self.rslora)
        with np.errstate(over="ignore", invalid="ignore"):  # the record refuses what comes of it
            pairs = {
                ours: widened(Pair(a, b * np.float32(own / scale)), rank)
                for ours, ((a, b), own) in scaled.items()
            }
        try:
            return Adapter(rank, self.alpha, self.rslora, pairs, self.base)
        except AdapterError as error:
            raise AdapterFileError(f"[adapter] {shown(self.path)}: {error}") from None

    def _check(self, name: str, module: Module, config: ModelConfig, ours: list[str]) -> None:
        known = adaptable(config)
        shape = sum(known[n][0] for n in ours), known[ours[0]][1]
        got = module.b.shape[0], module.a.shape[1]
        if got != shape:
            raise self._wrong(f"{name} for a matrix of {list(shape)}, got {list(got)}")

    def _wrong(self, expected: str) -> AdapterFileError:
        return wrong(self.path, expected)


def wrong(path: files.AnyPath, expected: str) -> AdapterFileError:
    return AdapterFileError(
        f"[adapter] expected {shown(os.fspath(path))} to hold {expected}. "
        "Hint: it is of another model, or damaged."
    )


def read_layers(
    path: Path, ends: tuple[str, str], prefix: str = ""
) -> dict[str, tuple[Stored, Stored]]:
    """A and B by the name of their layer, of a file that holds nothing else. FileError.

    ends: of the names of A and of B. prefix: of all names, and left out.
    """
    tensors = read_safetensors(path)
    if not tensors:
        raise wrong(path, "the matrices of linear layers, it has none")
    found: dict[str, tuple[Stored, Stored]] = {}
    for name in tensors:
        layer = name.removesuffix(ends[0]).removesuffix(ends[1])
        a, b = (tensors.get(layer + end) for end in ends)
        if layer == name or not name.startswith(prefix) or a is None or b is None:
            raise wrong(path, f"{' and '.join(ends)} of linear layers, got {shown(name)}")
        found[layer.removeprefix(prefix)] = a, b
    return found


def module_of(path: Path, name: str, a: Stored, b: Stored, rank: int, scale: float) -> Module:
    """A layer's two tensors. AdapterFileError where they do not have `rank`."""
    if rank > RANK_MOST:
        raise wrong(path, f"ranks of at most {RANK_MOST}, got {rank:,} of {shown(name)}")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        said = f"[{rank}, in] and [out, {rank}], got {list(a.shape)} and {list(b.shape)}"
        raise wrong(path, f"A and B of {shown(name)} as {said}")
    return Module(a, b, scale)


def layers_of(adapter: Adapter, config: ModelConfig, root: str = "") -> dict[str, Pair]:
    """The inverse of `AdapterSource.load`: A and B by the names of linear layers.

    Where one layer holds several matrices and each has an A of its own, the layer's rank is their
    sum, and B has blocks. ValueError where no such layers hold the model.
    """
    found: dict[str, Pair] = {}
    for name, parts in _modules(config, root, places_of(config)).items():
        if not any(ours in adapter.pairs for ours, _ in parts):
            continue
        pairs = [
            Pair(a, to_half_split(b, place.split_heads))
            for (a, b), place in ((_pair(adapter, config, ours), place) for ours, place in parts)
        ]
        found[name] = _joined(pairs)
    return found


def save_tensors(
    path: Path, tensors: Mapping[str, Array], dtype: str, base: Base, metadata: Mapping[str, str]
) -> None:
    """Writes a file of adapters, whole or not at all."""
    shapes = {name: array.shape for name, array in tensors.items()}
    about = {**metadata, SHA256: base.sha256} if base.sha256 else metadata
    with files.replacing(path, "adapter") as file:
        write_safetensors(file, shapes, tensors.values(), dtype, about)


def base_of(path: Path, named: object) -> Base:
    """The model that an adapter was trained on; its sha256 where the file is ours."""
    return Base(named if isinstance(named, str) else "", read_metadata(path).get(SHA256, ""))


def widened(pair: Pair, rank: int) -> Pair:
    """The same adapter at a larger rank: the new rows of A and columns of B are zero."""
    more = rank - len(pair.a)
    return Pair(np.pad(pair.a, ((0, more), (0, 0))), np.pad(pair.b, ((0, 0), (0, more))))


def places_of(config: ModelConfig) -> Places:
    """The places of a model's parameters in Hugging Face folders. ValueError if there are none."""
    family = family_of(config)
    if family.hugging_face is None:
        raise BadInput(
            f"[adapter] expected a family that PEFT or mlx-lm has adapters of, got {family.name}."
        )
    return family.hugging_face.places(config)


def _modules(config: ModelConfig, root: str, places: Places) -> dict[str, list[tuple[str, Place]]]:
    """Which matrices of ours each linear layer of theirs holds, in their order there.

    root: how the names of all models begin in this format; "": as Hugging Face's.
    """
    spelled = family_of(config).hugging_face
    prefix = spelled.prefix if spelled and root else ""
    found: dict[str, list[tuple[str, Place]]] = {}
    for ours in adaptable(config):
        name = places[ours].name.removesuffix(".weight")
        if prefix and name.startswith(prefix):
            name = root + name.removeprefix(prefix)
        found.setdefault(name, []).append((ours, places[ours]))
    return {name: sorted(parts, key=lambda part: part[1].part) for name, parts in found.items()}


def _parted(a: Array, b: Array, parts: list[tuple[str, Place]]) -> list[Pair]:
    """The part of A for each of the matrices side by side in a layer: all of it, or a block."""
    stored = Stored("", b.shape, "F32", b.nbytes, lambda: b)
    rows = [from_file(place._replace(transposed=False), stored) for _, place in parts]
    count = len(parts)
    if len(a) % count == 0:
        blocks = [np.split(own, count, axis=1) for own in rows]
        if not any(b.any() for i, row in enumerate(blocks) for b in row[:i] + row[i + 1 :]):
            return [Pair(part, blocks[i][i]) for i, part in enumerate(np.split(a, count))]
    return [Pair(a, own) for own in rows]


def _joined(pairs: list[Pair]) -> Pair:
    """The inverse of `_parted`."""
    first = pairs[0].a
    if all(np.array_equal(pair.a, first) for pair in pairs):
        return Pair(first, np.concatenate([pair.b for pair in pairs]))
    rank, rows = len(first), len(pairs[0].b)
    b = np.zeros((rows * len(pairs), rank * len(pairs)), np.float32)
    for i, pair in enumerate(pairs):
        b[i * rows : (i + 1) * rows, i * rank : (i + 1) * rank] = pair.b
    return Pair(np.concatenate([pair.a for pair in pairs]), b)


def _pair(adapter: Adapter, config: ModelConfig, ours: str) -> Pair:
    """A and B of a matrix, zeros where the adapter leaves it as it is."""
    if ours in adapter.pairs:
        return adapter.pairs[ours]
    rows, columns = adaptable(config)[ours]
    a, b = np.zeros((adapter.rank, columns)), np.zeros((rows, adapter.rank))
    return Pair(a.astype(np.float32), b.astype(np.float32))

"""A LoRA adapter as a record: y = W x + scale B (A x) for matrices of a model that stays as it is.

Names, shapes and the order of rows are ours, whatever file it came from (`formats/peft.py`,
`formats/mlx_lora.py`). A checkpoint of a LoRA run holds `Adapter.tensors()` in its
model.safetensors, and rank, alpha, rslora and base (`Adapter.settings()`) in its state. LoRA: Hu et
al. 2021; rsLoRA: Kalajdzievski 2023.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anefast.config import ModelConfig
from anefast.errors import BadInput, shown
from anefast.models.parameters import Params, shapes
from anefast.models.weights import peeked

A, B = ".lora_a", ".lora_b"  # behind a parameter's name: its two matrices among tensors
RANK_MOST, ALPHA_MOST = 1024, 2.0**20

Array = npt.NDArray[np.float32]


class AdapterError(BadInput):
    """An adapter that cannot be: its numbers, or the model that it was given. One line."""


class Pair(NamedTuple):
    """a: [rank, in], b: [out, rank]; fp32."""

    a: Array
    b: Array


@dataclass(frozen=True)
class Base:
    """The model that an adapter was trained on. path: as it was named; sha256: `fingerprint`.
    Both are "" if unknown."""

    path: str = ""
    sha256: str = ""


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """The factor of B (A x): alpha / rank, or alpha / sqrt(rank) with rslora."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class Scaled:
    """An adapter without its numbers, whatever their layout."""

    rank: int
    alpha: float
    rslora: bool
    base: Base

    @property
    def scale(self) -> float:
        """See `scale_of`."""
        return scale_of(self.alpha, self.rank, self.rslora)

    def settings(self) -> dict[str, Any]:
        """All but the numbers, as JSON takes it."""
        said = {"rank": self.rank, "alpha": self.alpha, "rslora": self.rslora}
        return {**said, "base": asdict(self.base)}


@dataclass(frozen=True)
class Adapter(Scaled):
    """pairs: by the name of the parameter W [out, in] that they change (`adaptable`); all have the
    same rank. AdapterError for shapes that do not go together and numbers that are none."""

    rank: int
    alpha: float
    rslora: bool
    pairs: Mapping[str, Pair]
    base: Base = field(default_factory=Base)

    def __post_init__(self) -> None:
        if type(self.rank) is not int or not 1 <= self.rank <= RANK_MOST:
            raise _bad(f"a rank from 1 to {RANK_MOST}, got {shown(self.rank)}")
        if not 0 < self.alpha <= ALPHA_MOST:
            raise _bad(f"alpha above 0, at most {ALPHA_MOST:,.0f}, got {shown(self.alpha)}")
        if not self.pairs:
            raise _bad("at least one matrix that it changes, it has none")
        for name, (a, b) in self.pairs.items():
            for what, array, axis in ((A, a, 0), (B, b, 1)):
                if array.ndim != 2 or array.shape[axis] != self.rank or array.dtype != np.float32:
                    said = f"{array.dtype} of shape {list(array.shape)}"
                    raise _bad(f"{shown(name + what)} of rank {self.rank} in float32, got {said}")
                if not np.isfinite(array).all():
                    raise _bad(f"numbers in {shown(name + what)}, some are infinite or none at all")

    def check(self, config: ModelConfig, sha256: str = "") -> None:
        """AdapterError where it changes what a model has not, or was trained on another one.

        sha256: the model's fingerprint, "" where it is not known.
        """
        known = adaptable(config)
        for name, (a, b) in self.pairs.items():
            got = (len(b), a.shape[1])
            if name not in known:
                raise _bad(f"matrices of the model's layers, got {shown(name)}")
            if known[name] != got:
                raise _bad(f"{name} to be {list(known[name])} as the model's, got {list(got)}")
        if sha256 and self.base.sha256 and sha256 != self.base.sha256:
            of = f" {shown(self.base.path)}" if self.base.path else ""
            raise AdapterError(
                f"[adapter] expected the model{of} that it was trained on, whose sha256 begins "
                f"with {shown(self.base.sha256[:12])}, got one with {sha256[:12]}. "
                "Hint: name that model."
            )

    def merged(self, params: Mapping[str, Array]) -> Params:
        """The weights with the adapter in them: W + scale B A, summed in fp64 and rounded once.
        Others are the same arrays as before. AdapterError where fp32 cannot hold a sum."""
        found = dict(peeked(params))
        for name, (a, b) in self.pairs.items():
            change = self.scale * (b.astype(np.float64) @ a)
            with np.errstate(over="ignore"):
                found[name] = (found[name] + change).astype(np.float32)
            if not np.isfinite(found[name]).all():
                raise _bad(f"changes of {name} that fp32 can hold, some are larger")
        return found

    def tensors(self) -> dict[str, Array]:
        """Every A and B by the parameter's name with `.lora_a` or `.lora_b` behind it."""
        return {
            name + end: array
            for name, pair in self.pairs.items()
            for end, array in zip((A, B), pair, strict=True)
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Array], settings: Mapping[str, Any]) -> Adapter:
        """The inverse of `tensors` and `settings`. AdapterError."""
        names = [name.removesuffix(A) for name in tensors if name.endswith(A)]
        if {n + end for n in names for end in (A, B)} != tensors.keys():
            raise _bad(f"two tensors, {A} and {B}, for each matrix")
        pairs = {n: Pair(tensors[n + A], tensors[n + B]) for n in names}
        try:
            base = Base(**settings["base"])
            return cls(settings["rank"], settings["alpha"], settings["rslora"], pairs, base)
        except (KeyError, TypeError):
            raise _bad("rank, alpha, rslora and base beside its tensors") from None


def adaptable(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes [out, in] of the matrices that an adapter may change: all of the layers."""
    every = shapes(config).items()
    return {n: s for n, s in every if n.startswith("layers.") and len(s) == 2}


def fingerprint(params: Mapping[str, Array]) -> str:
    """sha256 over names, shapes and fp32 values of a model, however it lies in files and memory.

    >>> fingerprint({"w": np.ones((2, 3), np.float32)})[:12]
    '16462d18d2b9'
    """
    digest = hashlib.sha256()
    for name, values in peeked(params).items():
        digest.update(f"{name} {values.shape};".encode())
        digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()


def _bad(expected: str) -> AdapterError:
    return AdapterError(f"[adapter] expected {expected}. Hint: it is of another model, or damaged.")

"""LoRA in a graph: y = W x + B (A x), where W is baked and A and B are data (Hu et al. 2021).

`adapted` rewrites any graph of any family: a convolution by a matrix that has a pair gets the pair
beside it. `Lora` is an adapter as programs take it. Its arrays have rows of the matrices' sizes,
never of the rank, as rows of a device are multiples of 64 bytes: A is [rank, in], B is transposed,
[rank, out]. The rank is padded to a multiple of RANK_MULTIPLE with rows of zeros, whose gradients
are 0, so adapters of near ranks share their programs. The scale is multiplied into B when it is
staged: no program knows it, so no scale needs another one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from anefast import ir
from anefast.config import ConfigError, LoraConfig, ModelConfig
from anefast.models.adapter import A, Adapter, B, Base, Pair, Scaled, adaptable
from anefast.models.parameters import Params, zeros_of
from anefast.models.trained import GRAD, matching

RANK_MULTIPLE = 8

Array = npt.NDArray[np.float32]
Ranks = Mapping[str, int]  # of the pair beside a matrix, by the matrix's name; padded
NO_PAIRS: Ranks = MappingProxyType({})


@dataclass(frozen=True)
class Lora(Scaled):
    """An adapter in the layout of programs; see above. params: the live arrays, by name with A or B
    behind; `scale` is no part of them."""

    rank: int
    alpha: float
    rslora: bool
    base: Base
    params: Params

    @classmethod
    def of(cls, adapter: Adapter) -> Lora:
        """A copy of `adapter`."""
        rank = padded(adapter.rank)
        blank = {
            name + end: (rank, size)
            for name, (a, b) in adapter.pairs.items()
            for end, size in ((A, a.shape[1]), (B, b.shape[0]))
        }
        lora = cls(adapter.rank, adapter.alpha, adapter.rslora, adapter.base, zeros_of(blank))
        tensors = adapter.tensors()
        for name, view in lora.plain(lora.params).items():
            view[...] = tensors[name]
        return lora

    def plain(self, arrays: Mapping[str, Array]) -> Params:
        """Views of arrays that are laid out as `params`, laid out as the tensors of an adapter."""
        return {n: a[: self.rank] if n.endswith(A) else a[: self.rank].T for n, a in arrays.items()}

    def adapter(self) -> Adapter:
        """The record of what `params` are now."""
        tensors = {n: a.copy() for n, a in self.plain(self.params).items()}
        pairs = {n: Pair(tensors[n + A], tensors[n + B]) for n in self.ranks}
        return Adapter(self.rank, self.alpha, self.rslora, pairs, self.base)

    @property
    def ranks(self) -> dict[str, int]:
        return {n.removesuffix(A): len(a) for n, a in self.params.items() if n.endswith(A)}

    def staged(self) -> Params:
        """`params` as programs take them: B times the scale."""
        scale = np.float32(self.scale)
        return {n: p * scale if n.endswith(B) else p for n, p in self.params.items()}

    def unscale(self, grads: Params) -> None:
        """Turns gradients w.r.t. what was staged into those w.r.t. `params`, in place."""
        scale = np.float32(self.scale)
        for name, grad in grads.items():
            if name.endswith(B) and scale != 1:
                grad *= scale


def padded(rank: int) -> int:
    """The rank that programs have."""
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


def is_pair(parameter: str) -> bool:
    """True if a parameter is an A or a B."""
    return parameter.endswith((A, B))


def draw(
    rank: int,
    alpha: float,
    rslora: bool,
    targets: Mapping[str, tuple[int, ...]],
    base: Base,
    seed: int,
) -> Adapter:
    """A new adapter of these matrices [out, in]: A uniform in +-1/sqrt(in), as peft draws it, and B
    zero, so that it changes nothing yet.

    Each A has a stream of its own, keyed by seed and name.
    """
    pairs = {}
    for name, (rows, columns) in targets.items():
        rng = np.random.default_rng([seed, zlib.crc32((name + A).encode())])
        bound = 1 / math.sqrt(columns)
        a = rng.uniform(-bound, bound, (rank, columns)).astype(np.float32)
        pairs[name] = Pair(a, np.zeros((rows, rank), np.float32))
    return Adapter(rank, alpha, rslora, pairs, base)


def targets_of(config: ModelConfig, lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """The matrices [out, in] that get a pair, as `lora` says. ConfigError where there are none."""
    targets = adaptable(config)
    if lora.layers > config.n_layers:
        raise ConfigError(
            f"[config] expected lora.layers of a model with {config.n_layers} layers, got "
            f"{lora.layers}. Hint: leave it out for all of them."
        )
    if lora.layers:
        first = config.n_layers - lora.layers
        targets = {n: s for n, s in targets.items() if int(n.split(".")[1]) >= first}
    if lora.targets:
        named = matching(lora.targets, targets, "lora.targets")
        targets = {n: s for n, s in targets.items() if n in named}
    return targets


def adapted(graph: ir.Graph, ranks: Ranks) -> ir.Graph:
    """`graph` with the pairs of `ranks` beside their matrices. Not yet simplified."""

    def build(node: ir.Tensor, inputs: tuple[ir.Tensor, ...]) -> ir.Tensor:
        y = ir.rebuild(node, inputs)
        name = str(node.inputs[1].name) if node.op == "conv" else ""
        if name not in ranks:
            return y
        x, w = inputs
        a = ir.parameter(name + A, (ranks[name], w.shape[1], 1, 1))
        b = ir.parameter(name + B, (ranks[name], w.shape[0], 1, 1))
        return y + ir.conv(ir.conv(x, a), ir.transpose(b, ir.SWAP))

    return ir.rewrite(graph, build) if ranks else graph


def on_device(gradient: ir.Tensor, name: str) -> ir.Tensor:
    """A CPU's weight_grad of A or B as a product that the device makes, one for each sequence; what
    is left to the CPU is their sum. It has the name that `is_gradient` knows."""
    dy, x = gradient.inputs
    batch, _, _, seq = dy.shape
    with ir.place(gradient.scope, "backward"):
        left, right = (ir.reshape(t, (batch, 1, t.shape[1], seq)) for t in (dy, x))
        made = ir.matmul(left, right, transpose_y=True)
        return ir.apply("batch_grad", replace(made, name=GRAD + name))


def is_gradient(value: ir.Tensor) -> bool:
    """True if a device value is the gradient of an A or a B."""
    return value.op == "matmul" and str(value.name).startswith(GRAD)

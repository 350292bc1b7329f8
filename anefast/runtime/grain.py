"""Estimates how much of the gradients fixed-point products lose, from their operands.

A chip whose products are Q15.16 (csrc/cpu/gemm/fixed.h) rounds each to 2^-16 and drops it where the
exponents of its factors sum to -17 or less. A gradient dy that a weight is multiplied to loses most
where both are small, so a larger loss scale helps. Looked at are the products of the backward whose
dy has a surface, since a weight gradient reads it too; of large tensors, elements a stride apart.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.ir import Graph, Tensor, baked
from anefast.models import Params
from anefast.models.weights import peeked
from anefast.runtime.device import Surface

GRAIN = 2.0**-16  # of a Q15.16 product
SAMPLE = 4096  # elements of a tensor that are looked at
DROPPED_FROM = -17  # sum of exponents
SUBNORMAL = -14  # what the exponent of a subnormal counts as
STARVED = 1 / 32  # error of a product from which it wants a larger loss scale

Halves = npt.NDArray[np.float16]


class Lost(NamedTuple):
    """What one product dx = W^T dy loses. Shares count products of factors that are not 0."""

    dropped: float  # share of its terms
    error: float  # of dx by rounding, relative to its size; 1: nothing is left
    zero: float  # share of dy's elements that are exactly 0


class Grain:
    """The products of a graph's backward. surfaces: of the sequence that was cut from it."""

    def __init__(self, graph: Graph, surfaces: dict[Tensor, Surface]) -> None:
        self._products = []
        for t in graph.nodes:
            of = baked(t.inputs[1]) if t.op == "conv" and t.direction == "backward" else None
            if of is not None and of[1] and t.inputs[0] in surfaces:
                self._products.append((str(of[0].name), surfaces[t.inputs[0]]))

    def look(self, params: Params) -> dict[str, Lost]:
        """The losses of each product in the last micro-step, by the name of its weight."""
        found: dict[str, Lost] = {}
        weights = peeked(params)
        for name, surface in self._products:
            if name in weights:
                with surface.read() as data:
                    found[name] = lost(sampled(data), sampled(weights[name]))
        return found

    def starved(self, params: Params) -> bool:
        """True if a larger loss scale is wanted."""
        return starved(self.look(params))

    def largest(self) -> float:
        """The largest finite magnitude of any dy, all elements looked at."""
        found = 0.0
        for _, surface in self._products:
            with surface.read() as data:
                found = max(found, _C.half_health(np.ascontiguousarray(data))[-1])
        return found


def starved(products: dict[str, Lost]) -> bool:
    """True if a quarter of the products lose more than STARVED: those of scores lose first, and
    are as many."""
    errors = sorted(of.error for of in products.values())
    return bool(errors) and errors[len(errors) * 3 // 4] > STARVED


def sampled(array: Any) -> Halves:
    """At most SAMPLE elements, as fp16. Neighbours in a tensor are similar, so the stride is
    odd.
    """
    flat = array.reshape(-1)
    stride = -(-flat.size // SAMPLE) | 1
    with np.errstate(over="ignore"):
        half: Halves = flat[::stride].astype(np.float16)
    return half


def lost(dy: Halves, weight: Halves) -> Lost:
    """The loss of W^T dy, estimated from exponents, and from uniform, independent rounding."""
    of_dy, of_weight = exponents(dy), exponents(weight)
    together = np.convolve(of_dy, of_weight)
    total, zero = float(together.sum()), float(np.mean(dy == 0))
    if not total:
        return Lost(0.0, 0.0, zero)
    least = 2 * SUBNORMAL
    dropped = float(together[: DROPPED_FROM - least + 1].sum()) / total
    size = rms(dy) * rms(weight)
    error = min(1.0, GRAIN / math.sqrt(12) / size)
    return Lost(dropped, error, zero)


def exponents(h: Halves) -> npt.NDArray[np.int64]:
    """Counts of elements other than 0 by their exponent, from SUBNORMAL to 16."""
    bits = h[h != 0].view(np.uint16)
    field = np.maximum((bits >> 10) & 31, 1).astype(np.int64)
    return np.bincount(field - 1, minlength=31)


def rms(h: Halves) -> float:
    """Root mean square; infinite where an element is."""
    wide = h.astype(np.float64)
    return float(np.sqrt(np.mean(wide * wide)))

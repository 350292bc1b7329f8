"""Runs a graph in NumPy. Its only virtue is being obviously right: the referee of every executor.

float64 is for gradient checks. float16 rounds after every op to what a device would store (fp16, or
fp32 for CPU gradients) and computes inside in float64: wider than any device, rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Graph, Program
from .op import OPS, Array
from .tensor import ShapeError, Tensor

_STORED = {"fp16": np.float16, "fp32": np.float32}


def interpret(
    graph: Graph | Program, feeds: Mapping[str, npt.ArrayLike], dtype: type = np.float64
) -> dict[str, Array]:
    """Feeds hold inputs and parameters by name (for a Program, ports and parameters).

    A feed may leave out axes of size 1: (Co, Ci) for (Co, Ci, 1, 1). Returns the outputs by name,
    float64, or float16/float32 (CPU gradients) for dtype float16.
    """
    exact = np.dtype(dtype) == np.float64
    if not exact and np.dtype(dtype) != np.float16:
        raise ValueError(f"[interpret] expected float64 or float16, got {np.dtype(dtype)}.")
    values: dict[Tensor, Array] = {}

    def keep(t: Tensor, value: Any) -> None:
        if not exact:
            with np.errstate(over="ignore", under="ignore"):
                value = np.asarray(value).astype(_STORED[t.dtype])
        values[t] = np.asarray(value, dtype=np.float64)

    if isinstance(graph, Program):
        outputs = dict(graph.outputs)
        for port, t in graph.inputs:
            keep(t, _fed(feeds, port, t))
    else:
        outputs = graph.outputs
    with np.errstate(all="ignore"):  # inf and nan are results here, as on a device
        for t in graph.nodes:
            if t.op == "constant":
                keep(t, t.value)
            elif t.is_leaf:
                keep(t, _fed(feeds, t.name or "", t))
            else:
                keep(t, OPS[t.op].meaning([values[x] for x in t.inputs], t.attrs))
    kind = {name: np.float64 if exact else _STORED[t.dtype] for name, t in outputs.items()}
    return {name: values[t].astype(kind[name]) for name, t in outputs.items()}


def _fed(feeds: Mapping[str, npt.ArrayLike], name: str, t: Tensor) -> Array:
    if name not in feeds:
        raise ValueError(f"[interpret] expected a feed {name!r}, got {sorted(feeds)}.")
    array = np.asarray(feeds[name])
    if [d for d in array.shape if d != 1] != [d for d in t.shape if d != 1]:
        raise ShapeError("interpret", f"{name} of {list(t.shape)}", list(array.shape))
    return array.reshape(t.shape)

"""The graph: tensors, ops, gradients, passes, and a plain interpreter. NumPy only.

A model is written with these functions, differentiated by `gradients`, cleaned by `simplify`, and
cut into `Program`s that mil.emit writes as text. Reading order: tensor.py, op.py, ops/, grad.py,
graph.py, passes.py, interpret.py.
"""

from __future__ import annotations

from .grad import gradients, terms, unbroadcast
from .graph import SWAP, Graph, Program, baked, is_device, reach
from .interpret import interpret
from .op import OPS, Op, apply
from .ops.composite import gelu, layer_norm, rms_norm, rms_rstd, silu
from .ops.elementwise import (
    abs,
    add,
    clip,
    erf,
    exp,
    log,
    maximum,
    minimum,
    mul,
    pow,
    real_div,
    relu,
    rsqrt,
    sigmoid,
    sqrt,
    square,
    sub,
    tanh,
)
from .ops.layout import (
    concat,
    expand_dims,
    pad,
    reshape,
    slice_by_index,
    slice_by_size,
    split,
    squeeze,
    tile,
    transpose,
)
from .ops.linear import conv, matmul
from .ops.reduce import reduce_max, reduce_mean, reduce_sum, softmax
from .ops.rope import RopeForm, rope
from .passes import (
    expand,
    fold,
    rebuild,
    recompute,
    rewrite,
    share,
    simplify,
    substitute,
    with_rope,
)
from .tensor import ShapeError, Tensor, constant, input, parameter, place, scope

__all__ = [
    "OPS",
    "SWAP",
    "Graph",
    "Op",
    "Program",
    "RopeForm",
    "ShapeError",
    "Tensor",
    "abs",
    "add",
    "apply",
    "baked",
    "clip",
    "concat",
    "constant",
    "conv",
    "erf",
    "exp",
    "expand",
    "expand_dims",
    "fold",
    "gelu",
    "gradients",
    "input",
    "interpret",
    "is_device",
    "layer_norm",
    "log",
    "matmul",
    "maximum",
    "minimum",
    "mul",
    "pad",
    "parameter",
    "place",
    "pow",
    "reach",
    "real_div",
    "rebuild",
    "recompute",
    "reduce_max",
    "reduce_mean",
    "reduce_sum",
    "relu",
    "reshape",
    "rewrite",
    "rms_norm",
    "rms_rstd",
    "rope",
    "rsqrt",
    "scope",
    "share",
    "sigmoid",
    "silu",
    "simplify",
    "slice_by_index",
    "slice_by_size",
    "softmax",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "sub",
    "substitute",
    "tanh",
    "terms",
    "tile",
    "transpose",
    "unbroadcast",
    "with_rope",
]

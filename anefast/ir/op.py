"""The op record: everything the project knows about one op, in one place.

To add an op, write one record in a file of ops/ and one row in tests/test_ir_ops.py. Records are
looked up by name in OPS. What this is not: the ops themselves (ops/), or how MIL text is laid out
(mil/text.py reads the `mil` field and knows nothing about any op).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .tensor import Number, Shape, ShapeError, Tensor, lift

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]
# The gradient with respect to input i, given the node and the gradient of its result. It may still
# have the broadcast shape: grad.py sums it back, in one place for all ops.
Derivative = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Const:
    """One constant argument of a MIL op.

    Its value is the attribute `attr` (the argument's own name unless given) or, for arguments that
    never vary, the fixed `value`. `last`: an axis, or axes, written -1 where it is the last.
    """

    argument: str
    kind: Literal["bool", "int", "ints", "float", "string"]
    attr: str = ""
    value: Any = None
    last: bool = False

    def of(self, node: Tensor) -> Any:
        if self.value is not None:
            return self.value
        value = node.attrs[self.attr or self.argument]
        final = len(node.inputs[0].shape) - 1
        if not self.last:
            return value
        if isinstance(value, tuple):
            return tuple(-1 if axis == final else axis for axis in value)
        return -1 if value == final else value


@dataclass(frozen=True)
class Mil:
    """An op's form in MIL: argument names of its inputs, and its constants.

    `variadic`: all inputs go into the one tuple argument, as concat's values=(a, b). `commutes`:
    its two inputs may change places.
    """

    operands: tuple[str, ...]
    consts: tuple[Const, ...] = ()
    variadic: bool = False
    commutes: bool = False


@dataclass(frozen=True)
class Op:
    """`shape(inputs, attrs)` raises ShapeError; `meaning(arrays, attrs)` is float64 NumPy.

    `grad` gives the gradient w.r.t. one input; None where there is none. `parameter_grad` does so
    where that input is a parameter, as a CPU op. `expand` rewrites a composite into simpler ops.
    `device` is False for what only the CPU does; such ops give fp32 and are never written as MIL.
    """

    name: str
    shape: Callable[[Sequence[Tensor], Attrs], Shape]
    meaning: Callable[[Sequence[Array], Attrs], Array]
    grad: Derivative | None = None
    parameter_grad: Derivative | None = None
    mil: Mil | None = None
    expand: Callable[[Tensor], Tensor] | None = None
    device: bool = True


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    if op.name in OPS:
        raise ValueError(f"[{op.name}] expected one record per op, got a second one.")
    OPS[op.name] = op
    return op


def apply(name: str, *inputs: Tensor | Number | Array, **attrs: Any) -> Tensor:
    """A new node of op `name`. Attributes must be hashable: tuples, numbers, booleans, strings."""
    op = OPS[name]
    tensors = tuple(lift(x) for x in inputs)
    if op.device:
        for t in tensors:
            if t.dtype != "fp16":
                raise ShapeError(name, "fp16 inputs", repr(t), "CPU gradients stay on the CPU")
    shape = op.shape(tensors, attrs)
    dtype = "fp16" if op.device else "fp32"
    return Tensor(name, tensors, MappingProxyType(attrs), shape, dtype)


def each(*rules: Callable[[Tensor, Tensor], Tensor]) -> Derivative:
    """One rule per input, in order."""
    return lambda node, dy, i: rules[i](node, dy)


def shapes(inputs: Sequence[Tensor]) -> str:
    return " and ".join(str(list(t.shape)) for t in inputs)


def axis_of(where: str, axis: int, rank: int) -> int:
    """A non-negative axis; ShapeError when there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(where, f"an axis of a rank-{rank} tensor", axis)
    return axis % rank


def broadcast(where: str, inputs: Sequence[Tensor]) -> Shape:
    try:
        return tuple(np.broadcast_shapes(*(t.shape for t in inputs)))
    except ValueError:
        hint = "sizes must be equal, or 1, counted from the last axis"
        raise ShapeError(where, "shapes that broadcast", shapes(inputs), hint) from None

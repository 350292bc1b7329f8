"""Tensors: the nodes of a graph, and the leaves a graph grows from.

A tensor is symbolic: which op made it, out of what, and the shape that follows. It holds no values,
except for a constant. What an op means is not here: read op.py (the record) and ops/ (one record
per op); graph.py holds a set of tensors together.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anefast.errors import BadInput

Direction = Literal["forward", "backward"]
Shape = tuple[int, ...]
Number = int | float

_scope: contextvars.ContextVar[str] = contextvars.ContextVar("scope", default="")
_direction: contextvars.ContextVar[Direction] = contextvars.ContextVar(
    "direction", default="forward"
)
_order = itertools.count()


class ShapeError(BadInput):
    """A graph cannot be built: `[op] expected ..., got ... Hint: ...`."""

    def __init__(self, where: str, expected: str, got: object, hint: str = "") -> None:
        super().__init__(f"[{where}] expected {expected}, got {got}." + (hint and f" Hint: {hint}"))


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """One node. Frozen, compared and hashed by identity.

    `op` names a record of op.OPS, or is one of the leaves "input", "parameter", "constant".
    `shape` is static. `dtype` is "fp16" for everything a device sees, "fp32" for CPU gradients.
    `order` grows with creation, so sorting by it is always a topological order.
    """

    op: str
    inputs: tuple[Tensor, ...]
    attrs: Mapping[str, Any]
    shape: Shape
    dtype: str = "fp16"
    name: str | None = None
    scope: str = field(default_factory=_scope.get)
    direction: Direction = field(default_factory=_direction.get)
    order: int = field(default_factory=lambda: next(_order))

    @property
    def is_leaf(self) -> bool:
        return self.op in ("input", "parameter", "constant")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def value(self) -> npt.NDArray[Any]:
        """The unrounded elements of a constant. Other tensors have none."""
        if self.op != "constant":
            raise ValueError(f"[value] expected a constant, got {self!r}.")
        value: npt.NDArray[Any] = self.attrs["value"]
        return value

    def __repr__(self) -> str:
        label = f" {self.name}" if self.name else ""
        where = f" in {self.scope}" if self.scope else ""
        return f"<{self.op}{label} {self.dtype}{list(self.shape)}{where}>"

    # Arithmetic with tensors and Python numbers; broadcasting as NumPy does it.

    def __add__(self, other: Tensor | Number) -> Tensor:
        return _binary("add", self, other)

    def __radd__(self, other: Number) -> Tensor:
        return _binary("add", other, self)

    def __sub__(self, other: Tensor | Number) -> Tensor:
        return _binary("sub", self, other)

    def __rsub__(self, other: Number) -> Tensor:
        return _binary("sub", other, self)

    def __mul__(self, other: Tensor | Number) -> Tensor:
        return _binary("mul", self, other)

    def __rmul__(self, other: Number) -> Tensor:
        return _binary("mul", other, self)

    def __truediv__(self, other: Tensor | Number) -> Tensor:
        return _binary("real_div", self, other)

    def __rtruediv__(self, other: Number) -> Tensor:
        return _binary("real_div", other, self)

    def __neg__(self) -> Tensor:
        return _binary("mul", self, -1.0)


def _binary(op: str, x: Tensor | Number, y: Tensor | Number) -> Tensor:
    from .op import apply  # op.py needs Tensor, so the arrow back is taken late

    return apply(op, x, y)


def _leaf(op: str, name: str | None, shape: Shape, dtype: str, attrs: dict[str, Any]) -> Tensor:
    shape = tuple(int(d) for d in shape)
    if any(d < 1 for d in shape):
        raise ShapeError(op, "positive sizes", list(shape), "shapes are static on the ANE")
    return Tensor(op, (), MappingProxyType(attrs), shape, dtype, name)


def input(name: str, shape: Shape, dtype: str = "fp16") -> Tensor:
    """An input, fed on every evaluation. shape: usually (B, C, 1, S)."""
    return _leaf("input", name, shape, dtype, {})


def parameter(name: str, shape: Shape) -> Tensor:
    """A trained value, fp32 master on the CPU, fp16 on the device.

    shape: (Co, Ci, 1, 1) for a conv weight, (1, C, 1, 1) for a gain or a bias.
    Two parameters of one name are the same parameter.
    """
    return _leaf("parameter", name, shape, "fp16", {})


def constant(value: npt.ArrayLike, name: str | None = None) -> Tensor:
    """A constant known when the graph is built: a number (shape ()) or an array; fp16 on device.

    The elements are kept as given (float64 unless already floating), so that gradient checks in
    float64 see them unrounded: a copy, unless they are read-only.
    """
    array = np.asarray(value)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if not is_frozen(array):
        array = np.array(array, order="C")
    array.flags.writeable = False
    return _leaf("constant", name, array.shape, "fp16", {"value": array})


def is_frozen(array: npt.NDArray[Any]) -> bool:
    """True if an array and all that it is a view of are read-only arrays."""
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        if array.base is None:
            return True
        array = array.base
    return False


def digest(value: npt.NDArray[Any]) -> bytes:
    """Equal for equal elements in the same order. A view may be far larger than its memory, so it
    is taken in parts."""
    found = hashlib.blake2b(digest_size=16)
    parts: Any = np.nditer(value, ["external_loop", "buffered"], order="C")
    for part in parts:
        found.update(part.tobytes())
    return found.digest()


def lift(value: Tensor | Number | npt.NDArray[Any]) -> Tensor:
    """Numbers and arrays become constants; tensors pass."""
    return value if isinstance(value, Tensor) else constant(value)


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Labels the nodes made inside; nested scopes join with a dot.

    >>> with scope("layers.0"), scope("ffn"):
    ...     input("x", (1, 8, 1, 32)).scope
    'layers.0.ffn'
    """
    outer = _scope.get()
    token = _scope.set(f"{outer}.{name}" if outer else name)
    try:
        yield
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def place(scope: str, direction: Direction) -> Iterator[None]:
    """Sets scope and direction outright, whatever surrounds: for gradients and passes."""
    tokens = _scope.set(scope), _direction.set(direction)
    try:
        yield
    finally:
        _scope.reset(tokens[0])
        _direction.reset(tokens[1])

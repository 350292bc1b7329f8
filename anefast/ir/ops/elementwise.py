"""Element-by-element ops: one record each, and the function that builds the node.

Binary ops broadcast as NumPy does. There is no comparison op on all chips, so derivatives that
branch (relu, maximum, clip...) build their mask with `positive`, which is exact for every half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..op import Array, Attrs, Const, Derivative, Mil, Op, apply, broadcast, each, register
from ..tensor import Number, Shape, ShapeError, Tensor

T = Tensor | Number


# Two operands.


def _binary(
    name: str,
    f: Callable[[Array, Array], Array],
    grad: Derivative,
    parameter_grad: Derivative | None = None,
) -> None:
    register(
        Op(
            name,
            shape=lambda xs, attrs: broadcast(name, xs),
            meaning=lambda xs, attrs: f(xs[0], xs[1]),
            grad=grad,
            parameter_grad=parameter_grad,
            mil=Mil(("x", "y"), commutes=name in ("add", "mul", "maximum", "minimum")),
        )
    )


def _pow_y(n: Tensor, dy: Tensor) -> Tensor:
    raise ShapeError("pow", "an exponent that is a constant", repr(n.inputs[1]))


def _pow_x(n: Tensor, dy: Tensor) -> Tensor:
    x, y = n.inputs
    return dy * (y * pow(x, y - 1.0))


def _bias(n: Tensor, dy: Tensor, i: int) -> Tensor:
    return apply("bias_grad", dy)


def _scale(n: Tensor, dy: Tensor, i: int) -> Tensor:
    return apply("scale_grad", dy, n.inputs[1 - i])


_binary("add", np.add, each(lambda n, dy: dy, lambda n, dy: dy), _bias)
_binary("sub", np.subtract, each(lambda n, dy: dy, lambda n, dy: -dy))
_binary(
    "mul",
    np.multiply,
    each(lambda n, dy: dy * n.inputs[1], lambda n, dy: dy * n.inputs[0]),
    _scale,
)
_binary(
    "real_div",
    np.divide,
    each(lambda n, dy: dy / n.inputs[1], lambda n, dy: -(dy * (n / n.inputs[1]))),
)
_binary("pow", np.power, each(_pow_x, _pow_y))
_binary(
    "maximum",
    np.maximum,
    each(
        lambda n, dy: dy * positive(n.inputs[0] - n.inputs[1]),
        lambda n, dy: dy * (1.0 - positive(n.inputs[0] - n.inputs[1])),
    ),
)
_binary(
    "minimum",
    np.minimum,
    each(
        lambda n, dy: dy * positive(n.inputs[1] - n.inputs[0]),
        lambda n, dy: dy * (1.0 - positive(n.inputs[1] - n.inputs[0])),
    ),
)


def add(x: T, y: T) -> Tensor:
    return apply("add", x, y)


def sub(x: T, y: T) -> Tensor:
    return apply("sub", x, y)


def mul(x: T, y: T) -> Tensor:
    return apply("mul", x, y)


def real_div(x: T, y: T) -> Tensor:
    return apply("real_div", x, y)


def pow(x: T, y: T) -> Tensor:
    """x ** y. Only x has a derivative."""
    return apply("pow", x, y)


def maximum(x: T, y: T) -> Tensor:
    """Where equal, the gradient goes to y."""
    return apply("maximum", x, y)


def minimum(x: T, y: T) -> Tensor:
    """Where equal, the gradient goes to y."""
    return apply("minimum", x, y)


# One operand. Rules see the node y, so that they can use its value instead of computing it again.


def _unary(
    name: str,
    f: Callable[[Array], Array],
    rule: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    register(
        Op(
            name,
            shape=lambda xs, attrs: xs[0].shape,
            meaning=lambda xs, attrs: f(xs[0]),
            grad=lambda y, dy, i: rule(y.inputs[0], y, dy),
            mil=Mil(("x",)),
        )
    )


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


_erf = np.vectorize(math.erf, otypes=[np.float64])

_unary("square", np.square, lambda x, y, dy: dy * (x * 2.0))
_unary("abs", np.abs, lambda x, y, dy: dy * (positive(x) - positive(-x)))
_unary("sqrt", np.sqrt, lambda x, y, dy: dy * (0.5 / y))
_unary("exp", np.exp, lambda x, y, dy: dy * y)
_unary("erf", _erf, lambda x, y, dy: dy * (exp(-square(x)) * (2 / math.sqrt(math.pi))))
_unary("tanh", np.tanh, lambda x, y, dy: dy * (1.0 - square(y)))
_unary("sigmoid", _sigmoid, lambda x, y, dy: dy * (y * (1.0 - y)))
_unary("relu", lambda x: np.maximum(x, 0), lambda x, y, dy: dy * positive(x))


def square(x: Tensor) -> Tensor:
    return apply("square", x)


def abs(x: Tensor) -> Tensor:
    return apply("abs", x)


def sqrt(x: Tensor) -> Tensor:
    return apply("sqrt", x)


def exp(x: Tensor) -> Tensor:
    """Overflows to inf above 11.09 in fp16."""
    return apply("exp", x)


def erf(x: Tensor) -> Tensor:
    return apply("erf", x)


def tanh(x: Tensor) -> Tensor:
    return apply("tanh", x)


def sigmoid(x: Tensor) -> Tensor:
    return apply("sigmoid", x)


def relu(x: Tensor) -> Tensor:
    return apply("relu", x)


# With a number beside the operand. The ANE compiler wants epsilon spelled out even when it is 0.


def _same(xs: Sequence[Tensor], attrs: Attrs) -> Shape:
    return xs[0].shape


register(
    Op(
        "log",
        _same,
        lambda xs, attrs: np.log(xs[0] + attrs["epsilon"]),
        lambda y, dy, i: dy / (y.inputs[0] + y.attrs["epsilon"]),
        mil=Mil(("x",), (Const("epsilon", "float"),)),
    )
)
register(
    Op(
        "rsqrt",
        _same,
        lambda xs, attrs: 1 / np.sqrt(xs[0] + attrs["epsilon"]),
        lambda y, dy, i: dy * y * (square(y) * -0.5),
        mil=Mil(("x",), (Const("epsilon", "float"),)),
    )
)
register(
    Op(
        "clip",
        _same,
        lambda xs, attrs: np.clip(xs[0], attrs["alpha"], attrs["beta"]),
        lambda y, dy, i: (
            dy
            * (positive(y.inputs[0] - y.attrs["alpha"]) * positive(y.attrs["beta"] - y.inputs[0]))
        ),
        mil=Mil(("x",), (Const("alpha", "float"), Const("beta", "float"))),
    )
)


def log(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """ln(x + epsilon)."""
    return apply("log", x, epsilon=float(epsilon))


def rsqrt(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """1 / sqrt(x + epsilon). After a reduction write pow(x, -0.5), for chips that refuse rsqrt."""
    return apply("rsqrt", x, epsilon=float(epsilon))


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """x limited to [alpha, beta]."""
    if alpha > beta:
        raise ShapeError("clip", "alpha <= beta", f"{alpha} and {beta}")
    return apply("clip", x, alpha=float(alpha), beta=float(beta))


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0. Exact for every finite half: the smallest is 2^-24, and three
    multiplications by 2^15 with a clip after each lift it to 1 without ever overflowing."""
    x = clip(x, 0.0, 1.0)
    for _ in range(3):
        x = clip(x * 32768.0, 0.0, 1.0)
    return x

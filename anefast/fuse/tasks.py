"""How many tasks Apple's compiler makes of a program, by laws that others read off its objects.

A program is cut into tasks, which an engine runs one after the other; a product with what is fused
behind it is one, a broadcast two. The laws are of joshuaswarren/mil-hwx-compiler, whose campaign
gave some 3,000 small programs per target to Apple's compiler (`research/fusion-rules.md`,
`research/oracle-envelope.md`): counts of single operations and of a few chains, on targets h13 (M1)
and h14 (M2; as far as they were asked, h15 to h18 gave the same). Forms of ours that nobody has
compiled are estimates here, and have a range. No program of ours was counted, so neither are their
sums more than estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from anefast.chips.behaviour import HWX, Chip
from anefast.fuse.count import PRODUCTS, ProgramCount, StepCount
from anefast.ir import Program, Tensor, baked

SOURCE = f"laws of {HWX}; estimates where nobody has compiled our form"
PLAIN_BLOCK = (24, 29)  # tasks of a pre-norm block there, without RoPE, mask, gains and SwiGLU
TASK_BYTES = 1 << 20  # of weights, for each task of a product with constant weights


class Tasks(NamedTuple):
    """An estimated number of tasks, as a range."""

    least: int
    most: int

    def __add__(self, other: object) -> Tasks:
        assert isinstance(other, Tasks)
        return Tasks(self.least + other.least, self.most + other.most)

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


NONE, ONE, TWO, THREE = (Tasks(n, n) for n in range(4))
# Single operations. A range: nobody has compiled the form that we have.
SINGLE = {
    "transpose": ONE,
    "tile": ONE,
    "softmax": Tasks(5, 8),  # of the last axis: 6 up to 256 positions, 8 for one head of them
    "reshape": Tasks(0, 1),
    "slice_by_size": Tasks(1, 2),  # one from the beginning of the last axis
    "concat": Tasks(1, 2),
    "pad": Tasks(1, 2),
    "pow": Tasks(1, 3),  # three of two runtime operands; of a root, one
}
BINARY = ("add", "sub", "mul", "maximum", "minimum", "real_div")
ROOTS = ("sqrt", "rsqrt")
REDUCTIONS = {"reduce_sum": TWO, "reduce_mean": TWO, "reduce_max": ONE}  # over channels
FUSED_BEHIND = ("relu", "gelu", "silu")  # products, beside a scalar factor and a bias


def per_layer(count: StepCount, chip: Chip) -> dict[str, Tasks]:
    """The tasks of all programs of a direction, divided by the number of layers."""
    found: dict[str, Tasks] = {}
    for direction in ("forward", "backward"):
        every = [of_program(p, chip) for p in count.programs if p.direction == direction]
        total, layers = sum(every, NONE), count.config.n_layers
        found[direction] = Tasks(total.least // layers, -(-total.most // layers))
    return found


def of_program(count: ProgramCount, chip: Chip) -> Tasks:
    """Tasks of one program."""
    return of_nodes(count.lowered.program, chip.name.startswith("m1"))


def of_nodes(program: Program, h13: bool) -> Tasks:
    """Tasks of all operations. h13: whether heads of attention cost tasks of their own."""
    ops = [t for t in program.nodes if not t.is_leaf and not baked(t)]
    readers: dict[Tensor, list[Tensor]] = {}
    for t in ops:
        for x in t.inputs:
            readers.setdefault(x, []).append(t)
    kept = {t for _, t in program.outputs}

    def alone(t: Tensor) -> Tensor | None:
        """The only reader of a value that does not leave the program."""
        of = readers.get(t, [])
        return of[0] if len(set(of)) == 1 and t not in kept else None

    return sum((of_node(t, alone, h13) for t in ops), NONE)


Alone = Callable[[Tensor], "Tensor | None"]


def of_node(t: Tensor, alone: Alone, h13: bool) -> Tasks:
    """Tasks of one operation among its neighbours."""
    if t.op == "conv":
        whole = -(-2 * t.inputs[1].size // TASK_BYTES)
        return Tasks(whole, whole)
    if t.op == "matmul":
        heads = t.shape[-3] if h13 and t.rank > 2 else 1
        turned = ONE if t.attrs["transpose_y"] else NONE  # costs a task more
        more = 3 * (heads - 1)  # of the two products of attention together
        return Tasks(1 + more // 2, 2 + -(-more // 2)) + turned
    if (fused := fused_into(t, alone)) is not None:
        return fused
    if t.op in BINARY:
        return of_binary(t)
    if t.op in REDUCTIONS and 1 in t.attrs["axes"]:
        return REDUCTIONS[t.op]
    return SINGLE.get(t.op, ONE)


def fused_into(t: Tensor, alone: Alone) -> Tasks | None:
    """The cost of an operation inside a neighbour's task; None where it needs its own."""
    reader = alone(t)
    before = next((x for x in t.inputs if not x.is_leaf and alone(x) is t), None)
    if t.op == "abs" and reader is not None and reader.op == "reduce_max":
        return NONE
    if is_square(t) and reader is not None and reader.op == "reduce_mean":
        return NONE
    if before is None:
        return None
    if before.op in PRODUCTS and (t.op in FUSED_BEHIND or is_scale(t) or is_bias(t)):
        return NONE
    if before.op == "reduce_mean" and is_square(before.inputs[0]):
        return NONE if t.op == "add" and is_scalar(t) else None
    if t.op in ROOTS and before.op == "add" and is_scalar(before):
        return Tasks(0, 1)  # read off one program only
    return None


def of_binary(t: Tensor) -> Tasks:
    """An operation of two operands that has a task of its own."""
    first, second = t.inputs
    dividing = TWO if t.op == "real_div" else ONE
    if is_scalar(t) or (first.shape == second.shape and not held(first) and not held(second)):
        return dividing
    return TWO  # a broadcast, or a constant of more than one number


def held(x: Tensor) -> bool:
    """True if a value comes out of the weight file."""
    return x.op == "constant" or baked(x) is not None


def is_scalar(t: Tensor) -> bool:
    """True if one of two operands is a number in the text."""
    return any(x.op == "constant" and x.size == 1 for x in t.inputs)


def is_scale(t: Tensor) -> bool:
    return t.op == "mul" and is_scalar(t)


def is_bias(t: Tensor) -> bool:
    """True if a number is added for each channel, out of the weight file."""
    return t.op == "add" and any(held(x) and x.size == t.shape[1] for x in t.inputs)


def is_square(t: Tensor) -> bool:
    return t.op == "square" or (t.op == "mul" and t.inputs[0] is t.inputs[1])

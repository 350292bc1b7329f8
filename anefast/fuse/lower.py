"""Lowers a program to the ports a plan asks for: where values and weights lie in its surfaces.

A cut gives each program one port per value and bakes its weights. Here ports may be packed side by
side on the channel axis, and weights may become data: inputs of their own, or columns of an input
surface behind the activations. What is inside stays the same arithmetic, so not a bit changes: a
baked `conv` and a `matmul` with the weight as data are the same chain of multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anefast import ir
from anefast.fuse.cut import Schedule
from anefast.fuse.plan import Plan, is_vector
from anefast.ir import Program, Tensor, rebuild
from anefast.mil.rules import MAX_CHANNELS, ROW
from anefast.models.lora import is_gradient, is_pair
from anefast.models.trained import trains

Shape = tuple[int, ...]

HALF = 2  # bytes of an fp16 number


@dataclass(frozen=True)
class Region:
    """A block of a surface: the elements of one value in order, then zeros."""

    value: Tensor  # an activation, or a parameter
    begin: Shape
    size: Shape


@dataclass(frozen=True)
class Port:
    """One surface of a program. `shared` is the activation that it is, if nothing else is in it."""

    name: str
    shape: Shape
    regions: tuple[Region, ...]
    shared: Tensor | None = None


@dataclass(frozen=True)
class Lowered:
    """A program ready to be written as MIL, and what its ports hold. changes: whether it bakes a
    weight that training changes, so that an update means another program."""

    program: Program
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    changes: bool = False


def lower(program: Program, plan: Plan) -> Lowered:
    """`program` with the ports and weights of `plan`.

    Raises ValueError where the plan cannot be had for this program.
    """
    max_axis = plan.max_axis
    parameters = [t for t in program.nodes if t.op == "parameter"]
    by_place: dict[str, list[Tensor]] = {"const": [], "packed": [], "params": []}
    for t in parameters:
        by_place[plan.place(t)].append(t)
    held_in = activation_ports([t for _, t in program.inputs], plan, max_axis)
    if by_place["packed"]:
        held_in = with_weights(held_in, by_place["packed"], max_axis)
    low = [t for t in by_place["params"] if is_pair(str(t.name)) or (plan.norms and is_vector(t))]
    alone = [parameter_port(t) for t in by_place["params"] if t not in set(low)]
    held_in = [*alone, *stacked([(t, (1, *matrix(t))) for t in low]), *held_in]
    inputs = named(sorted(held_in, key=nbytes), "a")
    results = [t for _, t in program.outputs if not is_gradient(t)]
    made = [(t, (t.shape[0], *t.shape[2:])) for _, t in program.outputs if is_gradient(t)]
    held_out = stacked(made) + (activation_ports(results, plan, max_axis) if results else [])
    outputs = named(sorted(held_out, key=nbytes, reverse=True), "z")

    feeds = [ir.input(port.name, port.shape) for port in inputs]
    held = {
        region.value: taken(feed, port, region)
        for port, feed in zip(inputs, feeds, strict=True)
        for region in port.regions
    }
    done = rebuilt(program, held)
    join = padded if plan.ports == "padded" else concatenated
    filled = [joined([done[r.value] for r in port.regions], port, join) for port in outputs]
    lowered = Program.cut(
        program.name,
        [(port.name, feed) for port, feed in zip(inputs, feeds, strict=True)],
        [(port.name, t) for port, t in zip(outputs, filled, strict=True)],
    )
    changes = any(trains(plan.trained, str(t.name)) for t in by_place["const"])
    return Lowered(lowered, tuple(inputs), tuple(outputs), changes)


def lower_all(schedule: Schedule, plan: Plan) -> list[Lowered]:
    """Every program of a schedule, lowered, in order."""
    return [lower(program, plan) for program in schedule.programs]


# Ports


def activation_ports(values: Sequence[Tensor], plan: Plan, max_axis: int) -> list[Port]:
    """One port per value, or as few as the channel axis allows, values side by side on it."""
    if plan.ports == "several" or len(values) == 1:
        return [Port("", t.shape, (Region(t, (0,) * t.rank, t.shape),), t) for t in values]
    packs: list[list[Region]] = [[]]
    channels = 0
    batch = min(t.shape[0] for t in values)  # some have a row of the batch for each head
    for t in values:
        seq = t.shape[-1]
        size = (batch, t.size // (batch * seq), 1, seq)
        if channels and channels + size[1] > max_axis:
            packs.append([])
            channels = 0
        packs[-1].append(Region(t, (0, channels, 0, 0), size))
        channels += size[1]
    return [packed(regions) for regions in packs]


def packed(regions: list[Region]) -> Port:
    """A port of regions side by side on the channel axis; one region alone is shared as it is."""
    last = regions[-1]
    if len(regions) == 1:
        whole = Region(last.value, (0,) * last.value.rank, last.value.shape)
        return Port("", last.value.shape, (whole,), last.value)
    batch, _, _, seq = last.size
    return Port("", (batch, last.begin[1] + last.size[1], 1, seq), tuple(regions))


def nbytes(port: Port) -> int:
    """Bytes of a port. Its last axis is a multiple of ROW, so rows have no gaps between them."""
    return HALF * math.prod(port.shape)


def named(ports: list[Port], letter: str) -> list[Port]:
    """Names that sort in this order: the ANE binds surfaces by sorted name.

    The order itself is by size, because imperatormk/ane-train saw an M1 return zeros without an
    error where inputs did not rise in bytes, or outputs did not fall. Of inputs of one size,
    weights come first, as its products want them. No report needs another order.
    """
    digits = len(str(len(ports) - 1))
    return [
        Port(f"{letter}{i:0{digits}}_{label(p)}", p.shape, p.regions, p.shared)
        for i, p in enumerate(ports)
    ]


def label(port: Port) -> str:
    """The part of a port's name behind its number."""
    if len(port.regions) > 1:
        return "packed"
    value = port.regions[0].value
    name = (value.name or value.op).split(".")
    return "_".join(name[2:] if name[0] == "layers" else name)  # equal layers, equal texts


def parameter_port(parameter: Tensor) -> Port:
    """An input of its own: [1, 1, Co, Ci] of a weight, [1, 1, 1, C] of a gain; rows padded."""
    rows, columns = matrix(parameter)
    shape = (1, 1, rows, rounded(columns, ROW))
    return Port("", shape, (Region(parameter, (0, 0, 0, 0), (1, 1, rows, columns)),))


def stacked(matrices: list[tuple[Tensor, Shape]]) -> list[Port]:
    """As few ports as there are lengths of rows: matrices (B, rows, columns) over one another on
    the channel axis, [B, R, 1, columns]. For what is many, and low: an adapter's pairs, gains."""
    ports: list[Port] = []
    open_ports: dict[int, int] = {}  # by length of rows: which port is being filled
    for t, (batch, rows, columns) in matrices:
        at = open_ports.get(columns)
        held = ports[at].regions if at is not None else ()
        begin = ports[at].shape[1] if at is not None else 0
        if at is None or begin + rows > MAX_CHANNELS:
            at, held, begin = len(ports), (), 0
            open_ports[columns] = at
            ports.append(Port("", (), ()))
        region = Region(t, (0, begin, 0, 0), (batch, rows, 1, columns))
        shape = (batch, begin + rows, 1, rounded(columns, ROW))
        ports[at] = Port("", shape, (*held, region))
    return ports


class DoNotFit(ValueError):
    """Weights that a port cannot carry. width: the last axis that they need; 0 where no port is
    of one sequence."""

    def __init__(self, message: str, width: int = 0) -> None:
        super().__init__(message)
        self.width = width


def with_weights(ports: list[Port], parameters: list[Tensor], max_axis: int) -> list[Port]:
    """The port with most channels, weights behind its activations on the last axis.

    A weight's elements fill a block of all R channels row by row. The block is as wide as lets it
    be reshaped to whole rows of the weight.
    """
    flat = [p for p in ports if len(p.shape) == 4 and p.shape[0] == 1 and p.shape[2] == 1]
    if not flat:
        raise DoNotFit(
            "[plan] weights=packed needs a batch of one sequence, got a program without an input "
            "of [1, C, 1, S]. Hint: --batch 1, or a plan with weights=params."
        )
    host = max(flat, key=lambda p: p.shape[1])
    channels, width = host.shape[1], host.shape[3]
    regions = list(host.regions)
    for parameter in parameters:
        rows, columns = matrix(parameter)
        step = math.lcm(ROW, columns // math.gcd(columns, channels))
        block = rounded(-(-rows * columns // channels), step)
        regions.append(Region(parameter, (0, 0, 0, width), (1, channels, 1, block)))
        width += block
    if width > max_axis:
        raise DoNotFit(
            f"[plan] expected a last axis of at most {max_axis}, got {width} with the weights "
            "packed in. Hint: fewer layers per program, or weights as params.",
            width,
        )
    riding = Port(host.name, (1, channels, 1, width), tuple(regions))
    return [riding if p is host else p for p in ports]


def matrix(parameter: Tensor) -> tuple[int, int]:
    """(Co, Ci) of a weight; (1, C) of a gain."""
    first, second = parameter.shape[:2]
    return first, second


def rounded(n: int, multiple: int) -> int:
    """n, rounded up to a multiple."""
    return -(-n // multiple) * multiple


# Inside the program


def taken(feed: Tensor, port: Port, region: Region) -> Tensor:
    """The value that lies in a region of an input port, in its own shape."""
    block = feed
    if region.size != port.shape:
        block = ir.slice_by_size(feed, region.begin, region.size)
    value = region.value
    if value.op != "parameter":
        return ir.reshape(block, value.shape)
    rows, columns = matrix(value)
    whole = ir.reshape(block, (1, 1, math.prod(region.size) // columns, columns))
    if whole.shape[2] > rows:
        whole = ir.slice_by_size(whole, (0, 0, 0, 0), (1, 1, rows, columns))
    return whole


Join = Callable[[list[Tensor]], Tensor]


def joined(values: list[Tensor], port: Port, join: Join) -> Tensor:
    """The result that fills an output port."""
    if port.shared is not None:
        return values[0]
    blocks = [ir.reshape(t, r.size) for t, r in zip(values, port.regions, strict=True)]
    if (more := port.shape[-1] - blocks[0].shape[-1]) > 0:
        blocks = [ir.pad(t, (0, 0, 0, 0, 0, 0, 0, more), 0.0) for t in blocks]
    return join(blocks) if len(blocks) > 1 else blocks[0]


def concatenated(blocks: list[Tensor]) -> Tensor:
    """Blocks side by side on the channel axis."""
    return ir.concat(blocks, axis=1)


def padded(blocks: list[Tensor]) -> Tensor:
    """The same without concat: each of two neighbours padded to the size of both, then added.

    The padding is -0, for x + -0 is x for every x, +0 and -0 among them: not a bit changes.
    """
    while len(blocks) > 1:
        pairs = zip(blocks[::2], blocks[1::2], strict=False)
        rest = blocks[len(blocks) // 2 * 2 :]
        blocks = [
            ir.pad(a, (0, 0, 0, b.shape[1], 0, 0, 0, 0), -0.0)
            + ir.pad(b, (0, 0, a.shape[1], 0, 0, 0, 0, 0), -0.0)
            for a, b in pairs
        ] + rest
    return blocks[0]


def rebuilt(program: Program, held: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Every value of the program over the new inputs; weights that are data become matmuls."""
    done = dict(held)
    for node in program.nodes:
        if node in done:
            continue
        with ir.place(node.scope, node.direction):
            done[node] = with_data(node, done) or rebuild(node, tuple(done[x] for x in node.inputs))
    return done


def with_data(node: Tensor, done: Mapping[Tensor, Tensor]) -> Tensor | None:
    """`node` with its weight as data; None where its weight is baked or it has none."""
    if not node.inputs:
        return None
    x, w = node.inputs[0], node.inputs[-1]
    parameter = w.inputs[0] if w.op == "transpose" else w
    if parameter.op != "parameter" or done[parameter] is parameter or node.op == "transpose":
        return None
    weight = done[parameter]  # [1, 1, Co, Ci], or [1, 1, 1, C]
    if node.op != "conv":
        gain = ir.reshape(weight, parameter.shape)
        return rebuild(node, tuple(gain if t is parameter else done[t] for t in node.inputs))
    batch, channels, _, seq = x.shape
    columns = ir.reshape(done[x], (batch, 1, channels, seq))
    y = ir.matmul(weight, columns, transpose_x=w is not parameter)
    return ir.reshape(y, node.shape)

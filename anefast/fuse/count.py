"""Counts a plan's costs (evaluations, bytes, operations) from the programs that it gives.

Nothing here is a guess or a time. The programs are those that `TrainingStep` runs, made by the same
`recompute`, `cut` and `lower`; this file only adds up what is in them. Read `cost.py` for times and
memory, `legal.py` for what a device refuses.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse.cut import Schedule, cut
from anefast.fuse.level import level
from anefast.fuse.lower import Lowered, Port, lower
from anefast.fuse.plan import Plan
from anefast.fuse.recompute import recompute
from anefast.fuse.timing import Product
from anefast.ir import Graph, Program, Tensor, baked
from anefast.mil import emit
from anefast.models import Trained, count_params, shapes, training_graph, trains
from anefast.models.adapter import A, B
from anefast.models.lora import NO_PAIRS, Ranks, is_gradient

Shapes = Mapping[str, tuple[int, ...]]
States = Callable[[Shapes], int]


def two_each(weights: Shapes) -> int:
    """The states of AdamW: two numbers for each weight."""
    return 2 * sum(map(math.prod, weights.values()))


HALF = 2  # bytes of an fp16 number
VIEWS = ("reshape", "expand_dims", "squeeze")  # results that are their operand's bytes
PRODUCTS = ("conv", "matmul")


@dataclass(frozen=True)
class ProgramCount:
    """One program. Bytes are of packed fp16; `lowered` has the ports themselves."""

    name: str
    lowered: Lowered = field(repr=False)
    operations: int  # statements of the MIL function that are no constants
    parameters: int  # baked
    changes: bool  # whether some of them change; else it is compiled once and for all
    weight_bytes: int  # its weight file, constants included
    products: tuple[Product, ...]  # convolutions and matmuls; a multiply-add is two flops
    pair_flops: int  # of them gradients of an adapter's pairs
    value_bytes: int  # results of all operations, views left out
    port_bytes: int  # read and written through ports in one evaluation
    copied_bytes: int  # moved by the CPU between a value's own surface and a packed port
    known: dict[str, int] = field(repr=False)  # scratch by structure

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of all products."""
        return sum(p.flops for p in self.products)

    @property
    def direction(self) -> str:
        """`forward` or `backward`."""
        return self.name.partition(".")[0]

    @cached_property
    def structure(self) -> str:
        """Equal for programs of equal text but for names."""
        return structure(self.lowered.program)

    @property
    def identity(self) -> str:
        """Equal for programs that a device holds once; empty where weights are baked."""
        return "" if self.parameters else self.structure

    @property
    def scratch_bytes(self) -> int:
        """Bytes of values inside, as the host executor places them for its current threads."""
        if self.structure not in self.known:
            self.known[self.structure] = _C.scratch_bytes(emit(self.lowered.program).text)
        return self.known[self.structure]


@dataclass(frozen=True)
class StepCount:
    """A training step under a plan: its programs, and what lies around them."""

    plan: Plan
    config: ModelConfig
    batch: int
    seq: int
    ranks: Ranks
    programs: tuple[ProgramCount, ...]
    states: States = field(repr=False)  # of the optimiser that changes the weights
    tap_bytes: int  # surfaces of single values: what crosses programs or feeds weight gradients
    probs_bytes: int  # of them attention probabilities, which grow with the square of the sequence
    packed_bytes: int  # surfaces of packed ports
    weight_surface_bytes: int  # surfaces of weights that are inputs of their own
    room_bytes: int  # what surfaces hold more, where those of a side are made equally large
    staged_bytes: int  # weights as data, written once per update
    grad_flops: tuple[int, ...]  # per program: weight gradients ready after it, on the CPU

    @property
    def weight_grad_flops(self) -> int:
        """Floating-point operations of all weight gradients, per micro-step."""
        return sum(self.grad_flops)

    @property
    def evaluations(self) -> int:
        """Evaluations of programs per micro-step."""
        return len(self.programs)

    @cached_property
    def distinct(self) -> tuple[ProgramCount, ...]:
        """Programs a device holds: without weights, equal ones are one (runtime/cache.py)."""
        return tuple({p.identity or p.name: p for p in self.programs}.values())

    @property
    def compiles_per_update(self) -> int:
        """Programs with baked weights; the others are compiled once, at the start."""
        return sum(p.changes for p in self.programs)

    @cached_property
    def weight_bytes(self) -> int:
        """Weight files of all programs that a device holds."""
        return sum(p.weight_bytes for p in self.distinct)

    @cached_property
    def repeated_bytes(self) -> int:
        """Bytes of baked weights that another program also holds, perhaps as the transpose."""
        found = [matrix for p in self.distinct for matrix in matrices(p.lowered.program).items()]
        once = {name: size for (name, _), size in found}
        return sum(size for _, size in found) - sum(once.values())

    @cached_property
    def most_weight_bytes(self) -> int:
        """The largest weight file."""
        return max(p.weight_bytes for p in self.programs)

    @cached_property
    def moved_bytes(self) -> int:
        """Through ports and by copies, per micro-step."""
        return sum(p.port_bytes + p.copied_bytes for p in self.programs)

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of the device programs, per micro-step."""
        return sum(p.flops for p in self.programs)

    @property
    def surface_bytes(self) -> int:
        return self.tap_bytes + self.packed_bytes + self.weight_surface_bytes + self.room_bytes

    @property
    def parameter_count(self) -> int:
        """Numbers in the model, embedding included."""
        return count_params(self.config)

    @cached_property
    def trained_shapes(self) -> Shapes:
        """Shapes of the parameters that have a gradient."""
        every = shapes(self.config)
        own = {name: shape for name, shape in every.items() if trains(self.plan.trained, name)}
        for name, rank in self.ranks.items():
            rows, columns = every[name]
            own |= {name + A: (rank, columns), name + B: (rank, rows)}
        return own

    @property
    def trained_count(self) -> int:
        """Numbers that have a gradient."""
        return sum(map(math.prod, self.trained_shapes.values()))

    @cached_property
    def singles_count(self) -> int:
        """Numbers that are kept in fp32: those that change, and those that the CPU computes with.
        The others are baked, and a model that was loaded has them in its file."""
        frozen = {n: s for n, s in shapes(self.config).items() if not trains(self.plan.trained, n)}
        own = (math.prod(s) for n, s in frozen.items() if not n.startswith("layers."))
        return self.trained_count + sum(own)

    @property
    def head_flops(self) -> int:
        """Classifier on the CPU: logits and their derivatives, one of them if it is frozen."""
        table = "tok_embeddings" if self.config.tied else "output"
        products = 2 + trains(self.plan.trained, table)
        return products * 2 * self.config.vocab_size * self.config.dim * self.batch * self.seq


class Counter:
    """Counts plans of one model, batch and length; graphs and cuts are made once.

    trained: names of the parameters that change, None for all. ranks: of an adapter's pairs, which
    are what changes then. states: how many numbers an optimiser of weights keeps. Raises
    ValueError from `count` where `lower` refuses the plan.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        seq: int,
        trained: Trained = None,
        ranks: Ranks = NO_PAIRS,
        states: States = two_each,
    ) -> None:
        self.config, self.batch, self.seq, self.states = config, batch, seq, states
        self.trained = frozenset(n + end for n in ranks for end in (A, B)) if ranks else trained
        self.ranks = ranks
        self._graphs: dict[tuple[object, str], Graph] = {}
        self._cuts: dict[tuple[object, ...], Schedule] = {}
        self._scratch: dict[str, int] = {}

    def count(self, plan: Plan) -> StepCount:
        plan = replace(plan, trained=self.trained)
        schedule = self.schedule(plan)
        lowered = [lower(p, plan) for p in schedule.programs]
        held = surfaces(lowered)
        return StepCount(
            plan,
            self.config,
            self.batch,
            self.seq,
            self.ranks,
            tuple(count_program(low, self._scratch) for low in lowered),
            self.states,
            **held,
            room_bytes=room(lowered) if plan.surfaces == "equal" else 0,
            grad_flops=tuple(
                sum(
                    2 * math.prod(node.shape) * self.batch * self.seq
                    for node in nodes
                    if node.op == "weight_grad"
                )
                for nodes in schedule.cpu_nodes
            ),
        )

    def schedule(self, plan: Plan) -> Schedule:
        """The cut of this plan, before ports and weights are laid out."""
        form = (plan.spelling, plan.gradients)
        key = (plan.forward, plan.backward, plan.reads, form)
        if key not in self._cuts:
            if form not in self._graphs:
                self._graphs[form] = training_graph(
                    self.config, self.batch, self.seq, plan.spelling, self.trained, self.ranks,
                    plan.gradients,
                )  # fmt: skip
            self._cuts[key] = cut(recompute(self._graphs[form], plan), plan.key)
        return self._cuts[key]


def count_program(lowered: Lowered, known: dict[str, int]) -> ProgramCount:
    """Adds up one lowered program. `known` keeps the scratch of structures met before."""
    program = lowered.program
    ops = [t for t in program.nodes if not t.is_leaf and not baked(t)]
    parameters, file = weight_file(ops)
    return ProgramCount(
        program.name,
        lowered,
        operations=len(ops),
        parameters=parameters,
        changes=lowered.changes,
        weight_bytes=file,
        products=tuple(product(t) for t in ops if t.op in PRODUCTS),
        pair_flops=sum(
            product(r.value).flops
            for port in lowered.outputs
            for r in port.regions
            if is_gradient(r.value)
        ),
        value_bytes=sum(nbytes(t) for t in ops if t.op not in VIEWS),
        port_bytes=sum(HALF * math.prod(p.shape) for p in (*lowered.inputs, *lowered.outputs)),
        copied_bytes=sum(
            nbytes(r.value)
            for port in (*lowered.inputs, *lowered.outputs)
            if port.shared is None
            for r in port.regions
            if r.value.op != "parameter" and not is_gradient(r.value)
        ),
        known=known,
    )


def weight_file(ops: Iterable[Tensor]) -> tuple[int, int]:
    """(parameters baked, bytes of the weight file) of a program; each tensor is there once."""
    sizes: dict[object, int] = {}
    names: set[str] = set()
    for node in ops:
        for x in node.inputs:
            if found := baked(x):
                parameter, transposed = found
                names.add(str(parameter.name))
                sizes["parameter", parameter.name, transposed] = nbytes(parameter)
            elif x.op == "constant" and x.shape:
                sizes[x] = nbytes(x)
    if not sizes:
        return 0, 0
    return len(names), _C.blob_layout(list(sizes.values()))[2]


def matrices(program: Program) -> dict[tuple[str, bool], int]:
    """Bytes of the parameters that a program bakes, by name and whether transposed."""
    ops = (node for node in program.nodes if not baked(node))
    found = filter(None, (baked(x) for node in ops for x in node.inputs))
    return {(str(parameter.name), turned): nbytes(parameter) for parameter, turned in found}


def structure(program: Program) -> str:
    """A key for programs whose texts are equal but for names."""
    place: dict[Tensor, object] = {t: name for name, t in program.inputs}
    lines: list[object] = [(name, t.shape) for name, t in program.inputs]
    for t in program.nodes:
        place.setdefault(t, t.order if t.op == "constant" else len(place))
        attrs = sorted(t.attrs.items()) if t.op != "constant" else []
        lines.append((t.op, t.shape, attrs, [place[x] for x in t.inputs]))
    lines.append([(name, place[t]) for name, t in program.outputs])
    return hashlib.sha256(repr(lines).encode()).hexdigest()


def product(t: Tensor) -> Product:
    """A conv or matmul as the time model sees it."""
    if t.op == "conv":
        weight = t.inputs[1]
        held = nbytes(weight) if baked(weight) or weight.op == "constant" else 0
        return Product(2 * t.size * weight.shape[1], held, 0)
    inner = t.inputs[0].shape[-2 if t.attrs["transpose_x"] else -1]
    return Product(2 * t.size * inner, 0, t.shape[-3] if len(t.shape) > 2 else 1)


def work(program: Program) -> tuple[int, int]:
    """(flops, bytes through ports) of one evaluation."""
    ports = (*program.inputs, *program.outputs)
    products = (product(t) for t in program.nodes if t.op in PRODUCTS)
    return sum(p.flops for p in products), sum(nbytes(t) for _, t in ports)


def surfaces(lowered: Iterable[Lowered]) -> dict[str, int]:
    """Bytes by kind, shared as `runtime/compiled_graph.py` shares them."""
    values: set[Tensor] = set()
    weights: dict[str, int] = {}
    packed = staged = 0
    for port in (p for low in lowered for p in (*low.inputs, *low.outputs)):
        if port.shared is not None:
            values.add(port.shared)
            continue
        held = [r.value for r in port.regions]
        if name := names_of(port):
            if name in weights:
                continue
            weights[name] = HALF * math.prod(port.shape)
        else:
            packed += HALF * math.prod(port.shape)
        staged += sum(nbytes(t) for t in held if t.op == "parameter")
        values |= {t for t in held if t.op != "parameter" and not is_gradient(t)}
    return {
        "tap_bytes": sum(nbytes(t) for t in values),
        "probs_bytes": sum(nbytes(t) for t in values if t.op == "softmax"),
        "packed_bytes": packed,
        "weight_surface_bytes": sum(weights.values()),
        "staged_bytes": staged,
    }


def room(lowered: Iterable[Lowered]) -> int:
    """Bytes that surfaces need besides their own, to be equal on each side of each program."""
    sizes: dict[Hashable, int] = {}
    sides: list[list[Hashable]] = []
    for side in (side for low in lowered for side in (low.inputs, low.outputs)):
        keys: list[Hashable] = [port.shared or names_of(port) or id(port) for port in side]
        sizes |= {key: HALF * math.prod(port.shape) for key, port in zip(keys, side, strict=True)}
        sides.append(keys)
    return sum(level(sides, sizes).values()) - sum(sizes.values())


def names_of(port: Port) -> str:
    """The names of the parameters that a port is and nothing else; empty where there is more."""
    values = [r.value for r in port.regions]
    return " ".join(str(t.name) for t in values if all(v.op == "parameter" for v in values))


def nbytes(t: Tensor) -> int:
    """Bytes of a value on the device, packed fp16."""
    return HALF * t.size

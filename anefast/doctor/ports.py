"""Ports, tried as training has them: many, of several sizes, side by side in one surface.

What public reports say of these contradicts itself (fuse/legal.py quotes it), so plans keep to few
ports until these checks have passed on this device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from anefast import ir, mil
from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject, error_of
from anefast.fuse.legal import MANY
from anefast.fuse.level import level
from anefast.fuse.lower import concatenated, padded

NEAR = 1e-2  # of the largest value
# Of a layer of stories110m: the root of a norm, a residual stream, the probabilities of attention.
REAL = ((1, 1, 1, 256), (1, 768, 1, 256), (1, 12, 256, 256))
SIDE_BY_SIDE = 62  # values in the fullest packed port of stories110m

Shape = tuple[int, ...]


def several(subject: Subject) -> Found:
    """Two inputs and two outputs, each in its own surface."""
    bind(subject, [(1, 32, 1, 64)] * 2, [(1, 32, 1, 64)] * 2)
    return Found("taken, and the values are right", facts={"ports": ("several",)})


def mixed(surfaces: str) -> Callable[[Subject], Found]:
    """A probe with the ports of a layer, in surfaces of one size or each of its own size."""

    def run(subject: Subject) -> Found:
        (inputs, outputs), _ = MANY["mixed"]
        bind(subject, sides(REAL, inputs), sides(REAL, outputs)[::-1], equal=surfaces == "equal")
        said = f"{inputs} inputs and {outputs} outputs of {len(REAL)} sizes are bound rightly"
        return Found(said, facts={"seen": ("exact" if surfaces == "exact" else "mixed",)})

    return run


def many(subject: Subject) -> Found:
    """A probe with very many ports."""
    (inputs, outputs), _ = MANY["many"]
    bind(subject, [(1, 32, 1, 32)] * inputs, [(1, 32, 1, 32)] * outputs)
    said = f"{inputs} inputs and {outputs} outputs of one size are bound rightly"
    return Found(said, facts={"seen": ("many",)})


def falling(subject: Subject) -> Found:
    """Inputs that fall in bytes and outputs that rise, against the order that a report demands."""
    try:
        bind(subject, sides(REAL, 3)[::-1], sides(REAL, 3))
    except Wrong as wrong:
        return Found(f"the order of sizes matters here: {wrong}")
    return Found("the order of sizes does not matter here")


def beside(way: str) -> Callable[[Subject], Found]:
    """Values side by side in one surface: sliced apart, and joined by concat or by pad and add."""

    def run(subject: Subject) -> Found:
        shape, join = (1, 32, 1, 64), padded if way == "padded" else concatenated
        whole = ir.input("a0_x", (1, 32 * SIDE_BY_SIDE, 1, 64))
        parts = [
            ir.slice_by_size(whole, (0, 32 * i, 0, 0), shape) * factor(i)
            for i in range(SIDE_BY_SIDE)
        ]
        kernel = subject.kernel({"a0_x": whole}, {"b0_y": join(parts)})
        x = np.random.default_rng(1).uniform(-1, 1, whole.shape).astype(np.float16)
        got = kernel.run(a0_x=x)["b0_y"]
        kernel.unload()
        factors = np.repeat([factor(i) for i in range(SIDE_BY_SIDE)], 32)
        if error_of(got, x * factors.reshape(1, -1, 1, 1)) > NEAR:
            raise Wrong("the values are wrong: they are laid out differently")
        said = f"{SIDE_BY_SIDE} values side by side: taken, and the values are right"
        return Found(said, facts={"seen" if way == "padded" else "ports": (way,)})

    return run


def sides(shapes: Sequence[Shape], count: int) -> list[Shape]:
    """`count` shapes from `shapes`, in their order, each about equally often."""
    return sorted((shapes[i % len(shapes)] for i in range(count)), key=shapes.index)


def factor(i: int) -> float:
    """A factor that differs from those of neighbouring ports."""
    return 1 + (i % 64) / 32


def bind(
    subject: Subject, inputs: Sequence[Shape], outputs: Sequence[Shape], equal: bool = True
) -> None:
    """Runs a program whose every output is an input of its shape times a factor of its own.

    Inputs hold a different number each. Raises Wrong if an output has a wrong value.
    """
    digits = len(str(max(len(inputs), len(outputs))))
    xs = [ir.input(f"a{i:0{digits}}_x", shape) for i, shape in enumerate(inputs)]
    ys, want = [], []
    for i, shape in enumerate(outputs):
        same = [j for j, x in enumerate(xs) if x.shape == shape]
        source = same[i % len(same)]
        ys.append((f"z{i:0{digits}}_y", xs[source] * (factor(i) / 4)))
        want.append((1 + source) * factor(i) / 4)
    unread = [x for j, x in enumerate(xs) if not any(x is y.inputs[0] for _, y in ys)]
    for x in unread:  # a compiler may drop an unread input
        name, y = next((n, y) for n, y in ys if y.shape == x.shape)
        at = [n for n, _ in ys].index(name)
        ys[at] = (name, y + x)
        want[at] += 1 + xs.index(x)
    program = ir.Program.cut("doctor", [(str(x.name), x) for x in xs], ys)
    native = subject.raw.compile(mil.emit(program, subject.dialect).text, {})
    try:
        into, out = ([subject.raw.surface(p.nbytes) for p in side]
                     for side in (native.inputs, native.outputs))  # fmt: skip
        if equal:
            for surface, nbytes in level([into, out], {s: s.nbytes for s in (*into, *out)}).items():
                surface.make_room(nbytes)
        for i, surface in enumerate(into):
            surface.lock().view(np.float16)[...] = 1 + i
            surface.unlock()
        native.evaluate(into, out)
        for (name, _), expected, surface in zip(ys, want, out, strict=True):
            got = surface.lock(True).view(np.float16).astype(np.float64)
            surface.unlock(True)
            if not np.abs(got - expected).max() <= NEAR * abs(expected):
                raise Wrong(f"{name} holds {got.min():g} to {got.max():g} instead of {expected:g}")
    finally:
        native.unload()


def rope(form: ir.RopeForm) -> Callable[[Subject], Found]:
    """A probe of one form of rotary embedding, at a layer's width."""

    def run(subject: Subject) -> Found:
        channels, seq = 768, 256
        x = ir.input("a0_x", (1, channels, 1, seq))
        rng = np.random.default_rng(3)
        cos, sin = rng.uniform(-1, 1, (2, 1, channels // 2, 1, seq)).astype(np.float16)
        y = ir.rope(x, ir.constant(cos, name="cos"), ir.constant(sin, name="sin"), form)
        graph = ir.simplify(ir.Graph([x], {"y": y}))
        kernel = subject.kernel({"a0_x": x}, {"b0_y": graph.outputs["y"]})
        half = rng.uniform(-2, 2, x.shape).astype(np.float16)
        got = kernel.run(a0_x=half)["b0_y"]
        kernel.unload()
        even, odd = half[:, 0::2].astype(np.float64), half[:, 1::2].astype(np.float64)
        want = np.stack([even * cos - odd * sin, even * sin + odd * cos], 2).reshape(x.shape)
        if error_of(got, want) > NEAR:
            raise Wrong("the values are wrong")
        return Found("taken, and the values are right", facts={"seen": (f"rope={form}",)})

    return run


def checks() -> list[Check]:
    forms: tuple[ir.RopeForm, ...] = ("slices", "conv", "axis3")  # as they are preferred
    return [
        *(Check(f"rope {form}", "ports", rope(form)) for form in forms),
        Check("ports several", "ports", several),
        Check("ports packed", "ports", beside("packed")),
        Check("ports padded", "ports", beside("padded")),
        Check("ports of several sizes", "ports", mixed("equal")),
        Check("surfaces of several sizes", "ports", mixed("exact")),
        Check("many ports", "ports", many),
    ]


def probes() -> list[Check]:
    return [Check("probe port order", "probes", falling, 3, alone=True)]

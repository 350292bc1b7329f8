"""The limits of a device: the longest axis, the longest sum, the deepest program, the most ports.

Each limit is found by halving what is left between a size that was taken and one that was not. What
the answers speak for is said in the switches of `--chip` (chips/behaviour.py), so that a file of
doctor's makes a chip. Depths are checks of their own: a depth that crashes a compiler costs its own
result and leaves the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from anefast import _C, ir, mil
from anefast.chips.behaviour import DEEPEST
from anefast.doctor import ports
from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import REFUSALS, Subject
from anefast.mil.pack import PATH, BlobLayout, Entry
from anefast.mil.spelling import DIALECTS, Dialect
from anefast.runtime.cache import Blobs

DEPTHS = (64, 128, 256, 384, DEEPEST)
ELEMENTWISE = (64, 128, 256)  # operations in a program whose compile is timed
MOST_PORTS = 240  # on one side; stories110m in one program has 181
SHAPE = (1, 32, 1, 32)

Takes = Callable[[Subject, int], bool]


def most(subject: Subject, takes: Takes, low: int, high: int, step: int = 1) -> int:
    """The largest of low, low + step, ... high that is taken, if all below it are; 0: not even low.
    Comes to an end when the time is over, with what was taken until then."""
    if not takes(subject, low):
        return 0
    if takes(subject, high):
        return high
    good, bad = 0, (high - low) // step
    while bad - good > 1 and not subject.late:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if takes(subject, low + middle * step) else (good, middle)
    return low + good * step


def compiles(subject: Subject, text: str, blobs: Blobs | None = None) -> bool:
    """True if the device takes this text."""
    try:
        subject.raw.compile(text, blobs or {}).unload()
    except REFUSALS:
        return False
    return True


def doubled(subject: Subject, shape: tuple[int, ...]) -> bool:
    """True if the device takes a program that adds a value of this shape to itself."""

    def lines(of: Dialect) -> list[str]:
        return [f"{of.type('fp16', shape)} z = add(x = a0, y = a0)[name = {of.string('z')}];"]

    return compiles(subject, subject.text({"a0": shape}, lines, ["z"]))


def summed(subject: Subject, terms: int) -> bool:
    """True if the device takes a convolution whose sums have this many terms."""
    x = ir.input("a0_x", (1, terms, 1, 32))
    y = ir.conv(x, ir.parameter("w", (32, terms, 1, 1)))
    program = ir.Program.cut("doctor", [("a0_x", x)], [("z0_y", y)])
    text, layout = mil.emit(program, subject.dialect)
    return compiles(subject, text, layout.fill({"w": np.zeros((32, terms), np.float32)}))


SIZES: dict[str, tuple[Takes, int, int, int]] = {  # switch: how it is tried, from, to, step
    "axis": (lambda s, n: doubled(s, (1, 1, 1, n)), 1024, 1 << 17, 1),
    "channels": (lambda s, n: doubled(s, (1, n, 1, 32)), 1024, 1 << 17, 1),
    "terms": (summed, 1024, 1 << 16, 32),
    "rank": (lambda s, n: doubled(s, (1,) * (n - 1) + (32,)), 3, 8, 1),
}


def sizes(subject: Subject) -> Found:
    """The longest axes and sums, and the highest rank."""
    found = {name: most(subject, *way) for name, way in SIZES.items()}
    if nothing := [name for name, n in found.items() if not n]:
        raise Wrong(f"not even the smallest size is taken: {', '.join(nothing)}")
    said = ", ".join(
        f"{name} to {n}" + " and perhaps more" * (n == SIZES[name][2]) for name, n in found.items()
    )
    words = tuple(f"{name}={n}" for name, n in found.items())
    return Found(
        said, tuple(subject.number(k, n, "") for k, n in found.items()), {"numbers": words}
    )


# What is taken at all.

DTYPES = ("fp16", "fp32", "int8", "uint8", "bool")


def typed(subject: Subject, dtype: str, inputs: int = 1) -> str:
    """MIL text that sums `count` inputs of a dtype in fp16."""
    of = DIALECTS[subject.dialect]
    half = of.type("fp16", SHAPE)
    names = [f"a{i}" for i in range(inputs)]
    halves = names
    body = []
    if dtype != "fp16":
        halves = [f"h{i}" for i in range(inputs)]
        body = [
            f"{half} {h} = cast(dtype = {of.string('fp16')}, x = {a})[name = {of.string(h)}];"
            for h, a in zip(halves, names, strict=True)
        ]
    body.append(f"{half} z = add(x = {halves[0]}, y = {halves[-1]})[name = {of.string('z')}];")
    return subject.text(dict.fromkeys(names, SHAPE), lambda _: body, ["z"], dtype)


def behind_a_sum(call: str) -> Callable[[Dialect], list[str]]:
    """A sum over channels, and `call` of it."""

    def lines(of: Dialect) -> list[str]:
        row = of.type("fp16", (1, 1, 1, 32))
        axes, yes = of.constant("ints", [1])[1], of.constant("bool", True)[1]
        values = {"nothing": 0.0, "little": 0.5}
        call_of = call.format(**{k: of.constant("float", v)[1] for k, v in values.items()})
        return [
            f"{row} s = reduce_sum(axes = {axes}, keep_dims = {yes}, x = a0)"
            f"[name = {of.string('s')}];",
            f"{row} z = {call_of}[name = {of.string('z')}];",
        ]

    return lines


def root(of: Dialect) -> list[str]:
    """MIL text of a root without an epsilon."""
    return [f"{of.type('fp16', SHAPE)} z = rsqrt(x = a0)[name = {of.string('z')}];"]


TAKEN: dict[str, tuple[str, Callable[[Dialect], list[str]], str, str]] = {
    "a root without epsilon": ("epsilon", root, "optional", "required"),
    "a root behind a sum": (
        "after_reduce", behind_a_sum("rsqrt(epsilon = {little}, x = s)"), "take", "refuse",
    ),
    "a sum times 0": ("zero_gain", behind_a_sum("mul(x = s, y = {nothing})"), "take", "refuse"),
}  # fmt: skip


def ways(subject: Subject) -> Found:
    """Tries inputs, dtypes and small programs that reports say are refused."""
    dtypes = [d for d in DTYPES if compiles(subject, typed(subject, d))]
    if "fp16" not in dtypes:
        raise Wrong("a program of one fp16 input is refused")
    two = {d: compiles(subject, typed(subject, d, 2)) for d in dtypes}
    inputs = "one" if not two["fp16"] else "fp16" if not two.get("fp32", True) else "any"
    words = [f"inputs={inputs}", f"dtypes={'+'.join(dtypes)}"]
    for switch, lines, yes, no in TAKEN.values():
        taken = compiles(subject, subject.text({"a0": SHAPE}, lines, ["z"]))
        words.append(f"{switch}={yes if taken else no}")
    said = f"{', '.join(words)}; layer_norm with gain and bias {affine(subject)}"
    return Found(said, facts={"numbers": tuple(words)})


def affine(subject: Subject) -> str:
    """Tests if layer_norm over channels takes a gain and a bias from the weight file."""
    gain = np.full((32,), 2, np.float16)
    layout = BlobLayout([Entry(None, (32,), data=gain), Entry(None, (32,), data=gain)])

    def lines(of: Dialect) -> list[str]:
        row = of.type("fp16", (32,))
        blobs = [of.blob(row, PATH, offset) for offset in layout.offsets]
        axes, little = of.constant("ints", [1])[1], of.constant("float", 2.0**-14)[1]
        return [
            f"{row} g = const()[name = {of.string('g')}, val = {blobs[0]}];",
            f"{row} b = const()[name = {of.string('b')}, val = {blobs[1]}];",
            f"{of.type('fp16', SHAPE)} z = layer_norm(axes = {axes}, beta = b, epsilon = {little}, "
            f"gamma = g, x = a0)[name = {of.string('z')}];",
        ]

    text = subject.text({"a0": SHAPE}, lines, ["z"])
    return "is taken" if compiles(subject, text, layout.fill({})) else "is refused"


# Depth, and the time that elementwise programs take to compile.


def deep(products: int) -> Callable[[Subject], Found]:
    """A probe of one program with this many convolutions, one after the other."""

    def run(subject: Subject) -> Found:
        x = ir.input("a0_x", SHAPE)
        w, y = ir.parameter("w", (32, 32, 1, 1)), x
        for _ in range(products):
            y = ir.conv(y, w)
        with_one = {"w": np.eye(32, dtype=np.float32)}
        kernel = subject.kernel({"a0_x": x}, {"b0_y": y}, params=with_one)
        values = np.random.default_rng(0).integers(1, 64, SHAPE).astype(np.float16)
        got = kernel.run(a0_x=values)["b0_y"]
        kernel.unload()
        if (got != values).any():
            raise Wrong(f"{products} products by one in a row change what they multiply")
        said = f"{products} products in a row are taken"
        return Found(said, facts={"numbers": (f"depth={products}",)})

    return run


def growth(subject: Subject) -> Found:
    """Measures the compile times of programs with more and more elementwise operations."""
    numbers = []
    for count in ELEMENTWISE[:2] if subject.quick else ELEMENTWISE:
        if subject.late:
            break
        x = ir.input("a0_x", SHAPE)
        y = x
        for i in range(count):
            y = y * 0.5 + x if i % 2 else ir.maximum(y, x)
        program = ir.Program.cut("doctor", [("a0_x", x)], [("b0_y", y)])
        text = mil.emit(program, subject.dialect).text
        ms = subject.typical_us(partial(compiles, subject, text), 0.0) / 1e3
        numbers.append(subject.number(f"compile of {count} elementwise layers", ms, "ms"))
    said = "on targets of two engines this was seen to grow with about the 3.5th power"
    return Found(said, tuple(numbers))


# Ports.


def port_count(side: str) -> Callable[[Subject], Found]:
    """The most inputs, or outputs, of a program that computes the right values."""

    def takes(subject: Subject, n: int) -> bool:
        shapes = [SHAPE] * n, [SHAPE]
        try:
            ports.bind(subject, *(shapes if side == "inputs" else shapes[::-1]))
        except (*REFUSALS, _C.EvaluationError, Wrong):
            return False
        return True

    def run(subject: Subject) -> Found:
        n = most(subject, takes, 1, MOST_PORTS)
        if not n:
            raise Wrong(f"not even one of {side} is bound rightly")
        number = subject.number(f"{side} of one program", n, "")
        more = " and perhaps more" * (n == MOST_PORTS)
        return Found(
            f"up to {n}{more} are bound rightly", (number,), {"numbers": (f"most_{side}={n}",)}
        )

    return run


def checks() -> list[Check]:
    return [
        Check("sizes", "probes", sizes, 60, alone=True),
        Check("ways taken", "probes", ways, 30, alone=True),
        *(Check(f"depth {n}", "probes", deep(n), 60, alone=True) for n in DEPTHS),
        Check("elementwise depth", "probes", growth, 300, alone=True),
        *(
            Check(f"number of {side}", "probes", port_count(side), 60, alone=True)
            for side in ("inputs", "outputs")
        ),
    ]

"""Small tries of everything that training needs: dialects, dispatch, surfaces, weights,
compiles."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping

import numpy as np

from anefast import _C, ir, mil
from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import REFUSALS, Subject, error_of, rows
from anefast.mil.spelling import DIALECTS
from anefast.models import ffn_graph, init_ffn
from anefast.runtime import Fused

COMPILES = 130  # a limit of about 119 per process was seen by several projects
NEAR = 1e-2  # of the largest value, for chains of a few operations


def dialects(subject: Subject) -> Found:
    refused = {name: subject.refusal(name) for name in DIALECTS}
    taken = tuple(name for name, why in refused.items() if not why)
    if not taken:
        raise Wrong("; ".join(f"{name}: {why}" for name, why in refused.items()))
    said = f"takes {' and '.join(taken)}"
    said += "".join(f"; {name} refused: {why}" for name, why in refused.items() if why)
    return Found(said, facts={"dialects": taken})


def dispatch(subject: Subject) -> Found:
    """Times a program that does next to nothing."""
    x = ir.input("a0_x", (1, 32, 1, 32))
    kernel = subject.kernel({"a0_x": x}, {"b0_y": x * 0.5})
    inputs, outputs = [subject.device.surface(x.shape)], [subject.device.surface(x.shape)]
    taken = 1e6 * np.array(subject.times(lambda: kernel.evaluate(inputs, outputs), 0.5, 1000))
    kernel.unload()
    middle, high = np.percentile(taken, [50, 99])
    numbers = (
        subject.number("dispatch, median", middle, "us", 160),
        subject.number("dispatch, 99th percentile", high, "us"),
    )
    return Found("what an evaluation costs besides its work", numbers)


# Surfaces.


def row_stride(subject: Subject) -> Found:
    """Rows of 8 bytes begin 64 bytes apart."""
    shape = (1, 4, 1, 4)
    text = subject.text(
        {"a0": shape},
        lambda of: [f"{of.type('fp16', shape)} z0 = add(x = a0, y = a0)[name = {of.string('z')}];"],
        ["z0"],
    )
    program = subject.raw.compile(text, {})
    (port,) = program.inputs
    program.unload()
    stride = port.strides[-2]
    x = np.arange(16, dtype=np.float16).reshape(shape)
    if error_of(subject.run_text(text, {"a0": x})["z0"], x + x):
        raise Wrong(f"rows written every {stride} bytes do not come back: the layout is another")
    if stride != 64:
        raise Wrong(f"rows of 8 bytes begin every {stride} bytes, not every 64")
    return Found("rows begin every 64 bytes", facts={"rows": ("64",)})


def short_surface(subject: Subject) -> Found:
    """A surface one row too small must be refused, not written past."""
    x = ir.input("a0_x", (1, 512, 1, 32))
    kernel = subject.kernel({"a0_x": x}, {"b0_y": x * 0.5})
    whole = subject.device.surface(x.shape)
    short = subject.device.surface((1, 511, 1, 32))
    try:
        kernel.evaluate([short], [whole])
    except _C.EvaluationError as error:
        return Found(f"refused, as it must be: {error}")
    finally:
        kernel.unload()
    raise Wrong("a surface one row short was taken")


def sorted_ports(side: str) -> Callable[[Subject], Found]:
    """Ports declared as b, a are bound as a, b."""

    def run(subject: Subject) -> Found:
        shape = (1, 32, 1, 32)
        of = DIALECTS[subject.dialect]
        kind, say = of.type("fp16", shape), of.string
        if side == "inputs":
            inputs = {"b0": shape, "a0": shape}
            lines = [f"{kind} z = sub(x = b0, y = a0)[name = {say('z')}];"]
            outputs = ["z"]
        else:
            inputs = {"a0": shape}
            lines = [
                f"{kind} z1 = add(x = a0, y = a0)[name = {say('z1')}];",
                f"{kind} z0 = mul(x = a0, y = a0)[name = {say('z0')}];",
            ]
            outputs = ["z1", "z0"]
        rng = np.random.default_rng(0)
        feeds = {name: rng.uniform(1, 2, shape).astype(np.float16) for name in inputs}
        got = subject.run_text(subject.text(inputs, lambda _: lines, outputs), feeds)
        a, b = feeds["a0"], feeds.get("b0", feeds["a0"])
        want = {"z": b - a} if side == "inputs" else {"z1": a + a, "z0": a * a}
        if max(error_of(got[name], want[name]) for name in want) > NEAR:
            raise Wrong(f"{side} declared out of order are not bound in the order of their names")
        return Found(f"{side} are bound in the order of their names, not of their declaration")

    return run


# Weights.


def weights(strategy: str) -> Callable[[Subject], Found]:
    """An FFN with its weights baked, packed beside the input or as inputs; then with others."""

    def run(subject: Subject) -> Found:
        dim, hidden, layers, seq = 64, 128, 2, 64
        x = np.random.default_rng(2).standard_normal((1, dim, 1, seq)).astype(np.float16)
        graph = ffn_graph(dim, hidden, layers, 1, seq)
        first, second = (init_ffn(dim, hidden, layers, seed) for seed in (0, 1))
        plan = subject.plan(f"all,weights={strategy}")
        with Fused(graph, first, subject.device, plan) as fused:
            errors = [error_of(fused(x), ffn(x, first, layers))]
            start = time.perf_counter()
            fused.compiled.load(second)
            update = time.perf_counter() - start
            errors.append(error_of(fused(x), ffn(x, second, layers)))
        numbers = (
            subject.number("first program ready", 1e3 * fused.compile_seconds, "ms"),
            subject.number("weights changed", 1e3 * update, "ms"),
        )
        for when, error in zip(("first", "changed"), errors, strict=True):
            if error > NEAR:
                raise Wrong(f"with the {when} weights {100 * error:.2g}% off NumPy", numbers)
        return Found(
            "taken and right, before and after they change", numbers, facts={"weights": (strategy,)}
        )

    return run


def ffn(x: np.ndarray, params: Mapping[str, np.ndarray], layers: int) -> np.ndarray:
    """The FFN proxy in float64 on fp16 weights; x: [1, C, 1, S]."""
    h = x[0, :, 0].astype(np.float64)
    for i in range(layers):
        w1, w2, w3 = (
            params[f"layers.{i}.ffn.{w}"].astype(np.float16).astype(np.float64)
            for w in ("w1", "w2", "w3")
        )
        gate = w1 @ h
        h = h + w2 @ (gate / (1 + np.exp(-gate)) * (w3 @ h))
    return h[None, :, None]


def compiles(subject: Subject, most: int = COMPILES) -> Found:
    """Different programs, one after another, each evaluated once, in one process."""
    done, start = 0, time.perf_counter()
    why = "that is all that was tried"
    while done < most and not subject.late:
        try:
            compile_number(subject, done)
        except (*REFUSALS, _C.EvaluationError, Wrong) as error:
            why = f"number {done + 1}: {error}"
            break
        done += 1
    else:
        why = why if done == most else "there was no time for more"
    took = time.perf_counter() - start
    numbers = (
        subject.number("compiles in one process", done, "programs", 312),
        subject.number("a compile, with load and unload", 1e3 * took / max(1, done), "ms"),
    )
    if done < most and not subject.late:
        raise Wrong(f"{done} compiles in one process, then {why}", numbers)
    return Found(f"without a failure; {why}", numbers)


def compile_number(subject: Subject, i: int) -> None:
    """Compiles, runs and unloads the i-th of many programs that differ. Raises what goes wrong."""
    shape = (1, 32, 1, 32)
    x = ir.input("a0_x", shape)
    factor = np.float16(1 + i / 1024)
    program = ir.Program.cut("doctor", [("a0_x", x)], [("b0_y", x * float(factor))])
    native = subject.raw.compile(mil.emit(program, subject.dialect).text, {})
    try:
        inputs, outputs = [subject.raw.surface(2 * x.size)], [subject.raw.surface(2 * x.size)]
        rows(inputs[0].lock(), native.inputs[0])[...] = 1
        inputs[0].unlock()
        native.evaluate(inputs, outputs)
        got = float(rows(outputs[0].lock(True), native.outputs[0]).flat[0])
        outputs[0].unlock(True)
    finally:
        native.unload()
    if abs(got - float(factor)) > 2e-3:
        raise Wrong(f"the program computes {got} instead of {factor}")


def kept(subject: Subject) -> Found:
    """A program that is compiled, kept as files, and loaded from them without compiling."""
    if not subject.raw.keeps:
        return Found("nothing is kept on disk: compiling costs next to nothing here")
    x = ir.input("a0_x", (1, 32, 1, 32))
    weight = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    y = ir.conv(x, ir.parameter("w", (32, 32, 1, 1)))
    program = ir.Program.cut("doctor", [("a0_x", x)], [("b0_y", y)])
    text, layout = mil.emit(program, subject.dialect)
    blobs = {path: bytes(data) for path, data in layout.fill({"w": weight}).items()}
    feeds = {"a0_x": np.random.default_rng(4).standard_normal(x.shape).astype(np.float16)}
    with tempfile.TemporaryDirectory() as folder:
        native = subject.raw.compile(text, blobs)
        want = subject.results(native, feeds)
        try:
            native.keep(folder)
        finally:
            native.unload()
        try:
            start = time.perf_counter()
            native = subject.raw.load_kept(text, blobs, folder)
            took = time.perf_counter() - start
        except REFUSALS as error:
            raise Wrong(f"a program that was kept is not loaded: {error}") from None
        try:
            got = subject.results(native, feeds)
        finally:
            native.unload()
    if any(got[name].tobytes() != want[name].tobytes() for name in want):
        raise Wrong("a program that was kept computes something else than when it was compiled")
    return Found(
        "loaded from its files without compiling, and the same results",
        (subject.number("a load of a kept program", 1e3 * took, "ms"),),
    )


def checks() -> list[Check]:
    return [
        Check("dialects", "programs", dialects),
        Check("dispatch", "programs", dispatch),
        Check("row stride", "surfaces", row_stride),
        Check("short surface", "surfaces", short_surface),
        Check("sorted outputs", "surfaces", sorted_ports("outputs")),
        Check("sorted inputs", "surfaces", sorted_ports("inputs")),
        *(Check(f"weights {w}", "weights", weights(w)) for w in ("const", "packed", "params")),
        Check("compile count", "programs", compiles, alone=True),
        Check("kept programs", "programs", kept),
    ]

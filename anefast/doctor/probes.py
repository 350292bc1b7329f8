"""The measurements of maderix/ANE issue 24 (M1 Pro, macOS 26.2), made again on this device.

Each probe is one of that discussion's: operations one by one, fusion at toy, real and whole-model
sizes, three ways around baked weights, compiling behind evaluations, how many compiles a process
may make, and what the CPU spends. Published figures stand beside ours and say nothing about this
machine. A probe that runs out of its time leaves out its largest sizes and prints which.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np

from anefast import _C, ir, mil
from anefast.bench.published import FFNS, MEGAS, Ffn
from anefast.config import ModelConfig
from anefast.doctor import checks as usual
from anefast.doctor.result import Check, Found, Number, Wrong
from anefast.doctor.subject import REFUSALS, Subject, error_of
from anefast.files import FileError, open_new, read_text
from anefast.mil.spelling import Dialect
from anefast.models import init_ffn, init_params
from anefast.presets import preset_settings
from anefast.runtime import Fused, fused_ffn, fused_transformer

TOYS, REAL = FFNS[:2], FFNS[2:]  # the probe of toy sizes and that of real ones
LEFT_OUT = "; larger sizes left out for want of time"


def time_call(subject: Subject, fused: Fused, x: np.ndarray) -> float:
    """Microseconds of a call, measured for about half a second."""
    return subject.typical_us(partial(fused, x), 0.3 if subject.quick else 0.6)


# Operations one by one: what reports about chips contradict each other in.


def one(kind: str, arguments: str) -> Callable[[Subject], str]:
    """Text of one operation on a0 and a1, each fp16 [1, 32, 1, 32]."""

    def text(subject: Subject) -> str:
        shape = (1, 32, 1, 32)

        def lines(of: Dialect) -> list[str]:
            start = (
                f"{of.type('fp16', shape)} z = {kind}({arguments.format(fp16=of.scalar('fp16'))})"
            )
            return [f"{start}[name = {of.string('z')}];"]

        return subject.text({"a0": shape, "a1": shape}, lines, ["z"])

    return text


Values = np.ndarray
SINGLE: dict[str, tuple[Callable[[Subject], str], Callable[[Values, Values], Values]]] = {
    "two inputs, add": (one("add", "x = a0, y = a1"), np.add),
    "maximum": (one("maximum", "x = a0, y = a1"), np.maximum),
    "floor": (one("floor", "x = a0"), lambda a, _: np.floor(a)),
    "sin": (one("sin", "x = a0"), lambda a, _: np.sin(a)),
    "silu": (one("silu", "x = a0"), lambda a, _: a / (1 + np.exp(-a))),
    "rsqrt without epsilon": (one("rsqrt", "x = a0"), lambda a, _: a**-0.5),
    "rsqrt with inline epsilon": (
        one("rsqrt", "x = a0, epsilon = {fp16}(0x1p-14)"),
        lambda a, _: (a + 2**-14) ** -0.5,
    ),
    "log with inline epsilon": (
        one("log", "x = a0, epsilon = {fp16}(0x1p-14)"),
        lambda a, _: np.log(a + 2**-14),
    ),
    "identity": (one("identity", "x = a0"), lambda a, _: a),
}


def operations(subject: Subject) -> Found:
    """Tries all operations and records which are refused or wrong. Training needs only some."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 3, (1, 32, 1, 32)).astype(np.float16) for _ in range(2))
    said: dict[str, list[str]] = {"right": [], "wrong": [], "refused": []}
    for name, (text, meaning) in SINGLE.items():
        try:
            got = subject.run_text(text(subject), {"a0": a, "a1": b})["z"]
        except (*REFUSALS, _C.EvaluationError) as error:
            said["refused"].append(f"{name} ({str(error)[:80]})")
            continue
        want = meaning(a.astype(np.float64), b.astype(np.float64))
        said["right" if error_of(got, want) < 2e-2 else "wrong"].append(name)
    line = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in said.items())
    numbers = [subject.number(f"single operations {kind}", len(said[kind]), "") for kind in said]
    return Found(line, tuple(numbers))


# Fusion.


def fusion(rows: Sequence[Ffn], quick: int) -> Callable[[Subject], Found]:
    """FFN-only: one layer, twelve in one evaluation, twelve in twelve; `quick` of the rows."""

    def run(subject: Subject) -> Found:
        numbers: list[Number] = []
        make, device = subject.number, subject.device
        for row in rows[:quick] if subject.quick else rows:
            if subject.late:
                return Found(f"FFN of {len(numbers) // 4} sizes{LEFT_OUT}", tuple(numbers))
            params, x = init_ffn(row.dim, row.hidden, 12, 0), signal(row.dim, row.seq)
            build = partial(fused_ffn, row.dim, row.hidden)
            with (
                build(1, row.seq, params, device, subject.plan("all")) as single,
                build(12, row.seq, params, device, subject.plan("all")) as fused,
                build(12, row.seq, params, device, subject.plan("layer")) as apart,
            ):
                if error_of(fused(x), apart(x)) > usual.NEAR:
                    raise Wrong(f"{row.name}: fused and separate differ", tuple(numbers))
                for part, which, published in (
                    ("1 layer", single, row.one),
                    ("12 fused", fused, row.fused),
                    ("12 separate", apart, row.separate),
                ):
                    us = time_call(subject, which, x)
                    numbers.append(make(f"{row.name}: {part}", us, "us", published))
                ms = 1e3 * fused.compile_seconds
            numbers.append(make(f"{row.name}: 12 fused, ready", ms, "ms", row.compile_ms))
        return Found(f"FFN of {len(numbers) // 4} sizes", tuple(numbers))

    return run


def whole(subject: Subject) -> Found:
    """Complete transformers, forward: every layer in one evaluation, against halves of layers."""
    numbers: list[Number] = []
    make = subject.number
    for row in MEGAS[:2] if subject.quick else MEGAS:
        if subject.late:
            return Found(f"{len(numbers) // 3} transformers{LEFT_OUT}", tuple(numbers))
        config = ModelConfig(**preset_settings(row.preset)["model"]).replace(n_layers=row.layers)
        params, x = init_params(config, 0), signal(config.dim, row.shape.seq)
        build = partial(fused_transformer, config, params, row.shape.seq, subject.device)
        with build(subject.plan("all")) as fused, build(subject.plan("unfused")) as apart:
            if error_of(fused(x), apart(x)) > usual.NEAR:
                raise Wrong(f"{row.name}: fused and separate differ", tuple(numbers))
            us = time_call(subject, fused, x)
            numbers.append(make(f"{row.name}: fused", us, "us", row.fused))
            us = time_call(subject, apart, x)
            numbers.append(make(f"{row.name}: {2 * row.layers} halves", us, "us", row.separate))
            ms = 1e3 * fused.compile_seconds
        numbers.append(make(f"{row.name}: fused, ready", ms, "ms", row.compile_ms))
    return Found(
        f"{len(numbers) // 3} transformers of {MEGAS[0].shape.seq} positions", tuple(numbers)
    )


def signal(dim: int, seq: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, dim, 1, seq)).astype(np.float16)


# Weights that are not baked.


def reload_files(subject: Subject) -> Found:
    """Overwrites a loaded program's weight files; with baked weights nothing may change."""
    x = ir.input("a0_x", (1, 64, 1, 64))
    program = ir.Program.cut(
        "doctor", [("a0_x", x)], [("b0_y", ir.conv(x, ir.parameter("w", (64, 64, 1, 1))))]
    )
    text, layout = mil.emit(program, subject.dialect)
    old, new = (np.full((64, 64), v, np.float32) for v in (0.25, 0.5))
    blobs = {path: bytes(data) for path, data in layout.fill({"w": old}).items()}
    others = {path: bytes(data) for path, data in layout.fill({"w": new}).items()}
    native = subject.raw.compile(text, blobs)
    inputs = [subject.raw.surface(p.nbytes) for p in native.inputs]
    outputs = [subject.raw.surface(p.nbytes) for p in native.outputs]
    inputs[0].lock().view(np.float16)[:] = 1
    inputs[0].unlock()

    def value() -> float:
        native.evaluate(inputs, outputs)
        first = float(outputs[0].lock(True).view(np.float16)[0])
        outputs[0].unlock(True)
        return first

    before = value()
    written = overwrite(text, others)
    after = value()
    native.unload()
    said = f"{written} file(s) on disk overwritten; " if written else "no files on disk; "
    if before != 16.0 or after not in (16.0, 32.0):
        raise Wrong(f"{said}expected 16 or 32 from the program, got {before}, then {after}")
    return Found(said + ("weights stay baked" if after == before else "the new weights are used"))


def overwrite(text: str, blobs: dict[str, bytes]) -> int:
    """Replaces the weight files of the program with this text in the temporary folder."""
    done = 0
    for found in Path(tempfile.gettempdir()).glob("*/model.mil"):
        try:
            if found.stat().st_uid != os.getuid() or read_text(found, len(text)) != text:
                continue
            for path, data in blobs.items():
                name = found.parent / path.removeprefix("@model_path/")
                if name.is_file() and name.stat().st_size == len(data):
                    with open_new(name, "doctor") as file:  # in place: it may be mapped
                        file.write(data)
                    done += 1
        except (OSError, FileError):
            continue
    return done


def ways(subject: Subject) -> Found:
    """Weights as function inputs, packed beside the activations, and files changed on disk."""
    said, numbers = [], []
    for name, run in (
        ("inputs", usual.weights("params")),
        ("packing", usual.weights("packed")),
        ("file reload", reload_files),
    ):
        try:
            found = run(subject)
            said.append(f"{name}: {found.said}")
            numbers += [
                Number(f"{name}: {n.name}", n.value, n.unit, n.label) for n in found.numbers
            ]
        except (*REFUSALS, _C.EvaluationError, Wrong) as error:
            said.append(f"{name}: refused or wrong, {error}")
    return Found("; ".join(said) + " (published: the first two refused, the third without effect)",
                 tuple(numbers))  # fmt: skip


# Compiling.


def conv_program(subject: Subject, dim: int) -> tuple[str, mil.BlobLayout]:
    x = ir.input("a0_x", (1, dim, 1, 64))
    y = ir.conv(x, ir.parameter("w", (dim, dim, 1, 1)))
    return mil.emit(ir.Program.cut("doctor", [("a0_x", x)], [("b0_y", y)]), subject.dialect)


def behind(subject: Subject) -> Found:
    """Evaluations while another thread compiles twenty programs of the same size."""
    dim, count = (256, 8) if subject.quick else (768, 20)
    text, layout = conv_program(subject, dim)
    rng = np.random.default_rng(0)

    def blobs() -> dict[str, bytes]:
        weights = rng.standard_normal((dim, dim), np.float32) / dim
        return {path: bytes(data) for path, data in layout.fill({"w": weights}).items()}

    native = subject.raw.compile(text, blobs())
    inputs = [subject.raw.surface(p.nbytes) for p in native.inputs]
    outputs = [subject.raw.surface(p.nbytes) for p in native.outputs]
    evaluate = partial(native.evaluate, inputs, outputs)
    quiet = subject.times(evaluate, 0.5)
    jobs = [blobs() for _ in range(count)]
    errors: list[Exception] = []

    def compile_all() -> None:
        try:
            for job in jobs:
                subject.raw.compile(text, job).unload()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=compile_all)
    busy: list[float] = []
    start = time.perf_counter()
    thread.start()
    while thread.is_alive() or not busy:
        began = time.perf_counter()
        evaluate()
        busy.append(time.perf_counter() - began)
    took = time.perf_counter() - start
    thread.join()
    native.unload()
    if errors:
        raise Wrong(f"compiling beside an evaluation failed: {errors[0]}")
    given = (0.0,) * 5 if subject.quick else (0.337, 0.514, 0.381, 1.419, 1.13)
    make = subject.number
    numbers = (
        make("evaluation, mean", 1e3 * mean(quiet), "ms", given[0]),
        make("evaluation, longest", 1e3 * max(quiet), "ms", given[1]),
        make("while compiling, mean", 1e3 * mean(busy), "ms", given[2]),
        make("while compiling, longest", 1e3 * max(busy), "ms", given[3]),
        make("slower by", mean(busy) / mean(quiet), "x", given[4]),
        make(f"{count} compiles beside it", 1e3 * took, "ms"),
    )
    return Found(f"both at once work; conv of {dim} channels", numbers)


def budget(subject: Subject) -> Found:
    """Counts compiles in one process, and programs that are loaded at once."""
    found = usual.compiles(subject, 150 if subject.quick else 312)
    text, layout = conv_program(subject, 64 if subject.quick else 768)
    dim = layout.entries[0].shape[0]
    held: list[_C.Program] = []
    why = ""
    while len(held) < 150 and not why and not subject.late:
        weights = np.full((dim, dim), len(held) / 1024, np.float32)
        blobs = {path: bytes(data) for path, data in layout.fill({"w": weights}).items()}
        try:
            held.append(subject.raw.compile(text, blobs))
        except REFUSALS as error:
            why = f"; loading number {len(held) + 1}: {error}"
    loaded = subject.number("programs loaded at once", len(held), "programs", 150)
    for program in held:
        program.unload()
    return Found(f"{found.said}{why}", (*found.numbers, loaded))


# The CPU.


def cpu_overhead(subject: Subject) -> Found:
    """Times the CPU's part of a backward pass of stories110m, without products, on this CPU."""
    buffers, total = 133, 144 * 10**6
    room = np.ones(total // buffers, np.uint8)
    kept = np.empty(total // buffers, np.uint8)
    adds = [np.ones((2, 768 * 256), np.float32) for _ in range(24)]
    surface = subject.raw.surface(2 * 768 * 256)

    def allocate() -> None:
        for _ in range(buffers):
            np.empty(total // buffers, np.uint8)

    def copy() -> None:
        for _ in range(buffers):
            np.copyto(kept, room)

    def residuals() -> None:
        for x, y in adds:
            np.add(x, y, out=x)

    def locks() -> None:
        for _ in range(228):
            surface.lock()
            surface.unlock()

    rows: tuple[tuple[str, Callable[[], None], float], ...] = (
        ("133 buffers allocated and freed", allocate, 0.1),
        ("144 MB copied", copy, 3.4),
        ("24 residual additions", residuals, 0.53),
        ("228 surface locks", locks, 0.14),
    )
    numbers = []
    for name, run, published in rows:
        ms = subject.typical_us(run, 0.3) / 1e3
        numbers.append(Number(name, float(f"{ms:.4g}"), "ms", "measured", published))
    return Found("per step of stories110m, from Python", tuple(numbers))


def checks() -> list[Check]:
    return [
        Check("probe operations", "probes", operations, 8, alone=True),
        Check("probe mega scale", "probes", fusion(TOYS, 2), 8, alone=True),
        Check("probe mega real size", "probes", fusion(REAL, 1), 15, alone=True),
        Check("probe full mega", "probes", whole, 25, alone=True),
        Check("probe weight ways", "probes", ways, 6, alone=True),
        Check("probe async compile", "probes", behind, 10, alone=True),
        Check("probe compile budget", "probes", budget, 12, alone=True),
        Check("probe CPU overhead", "probes", cpu_overhead, 5, alone=True),
    ]

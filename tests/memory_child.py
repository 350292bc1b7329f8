"""Memory that runs out below Python, everywhere once: either MemoryError is raised, or it is right.

Run by test_memory_errors.py with tests/native/failing_new.cpp preloaded, whose path is the
argument. Prints, of each computation, how many of its allocations failed and were told.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from anefast import _C
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import Device, TrainingStep

from .host_programs import Name, Text, read_port, write_port

library = ctypes.PyDLL(sys.argv[1])
fail_after, has_failed = library.fail_after, library.has_failed
fail_after.argtypes = [ctypes.c_long]

host = Device("host", "threads=3")
native = host._native
rng = np.random.default_rng(0)
messages: set[str] = set()


def surface(of: np.ndarray) -> _C.Surface:  # type: ignore[type-arg]
    made = native.surface(of.nbytes)
    made.lock()[:] = of.reshape(-1).view(np.uint8)
    made.unlock()
    return made


def unlocked(*surfaces: _C.Surface) -> bool:
    """Whether no lock was left behind."""
    for one in surfaces:
        for read_only in (True, False):
            try:
                one.unlock(read_only)
            except ValueError:
                continue
            return False
    return True


def queued() -> tuple[Callable[[], bytes], Callable[[], bool]]:
    dy, x = (surface(rng.standard_normal((2, c, 1, 256)).astype(np.float16)) for c in (192, 160))
    acc, scale = np.zeros((192, 160), np.float32), np.zeros(160, np.float32)
    queue, label = _C.Queue(), _C.spans_label("layers.0.wq")

    def compute() -> bytes:
        try:
            queue.weight_grad(dy, x, acc, 2, 256, label, True)
            queue.wait()  # else other allocations come between those of this sum, or do not
            queue.scale_grad(x, x, scale, 2, 256, label, True)
            queue.wait()
        finally:
            fail_after(-1)
            with contextlib.suppress(MemoryError):  # of a sum that was queued before
                queue.wait()
        return acc.tobytes() + scale.tobytes()

    return compute, lambda: unlocked(dy, x)


def products() -> Text:
    x = np.zeros((1, 256, 1, 320), np.float16)
    t = Text(a=x)
    w = rng.standard_normal((192, 256, 1, 1)).astype(np.float16)
    wide = np.empty((1, 192, 1, 320), np.float16)
    y = t.op(
        "conv", wide, x=Name("a"), weight=w, strides=[1, 1], pad_type="valid",
        pad=[0, 0, 0, 0], dilations=[1, 1], groups=1,
    )  # fmt: skip
    t.outputs = [t.op("softmax", wide, x=y, axis=1)]
    return t


def evaluated() -> tuple[Callable[[], bytes], Callable[[], bool]]:
    t = products()
    program = native.compile(t.program(t.outputs), t.blobs)
    i, o = (native.surface(p.nbytes) for p in (*program.inputs, *program.outputs))
    write_port(i, program.inputs[0], rng.standard_normal((1, 256, 1, 320)).astype(np.float16))
    label = _C.spans_label("forward.all")

    def compute() -> bytes:
        program.evaluate([i], [o], label)
        fail_after(-1)
        return read_port(o, program.outputs[0]).tobytes()

    return compute, lambda: unlocked(i, o)


def compiled() -> tuple[Callable[[], bytes], Callable[[], bool]]:
    t = products()
    text = t.program(t.outputs)

    def compute() -> bytes:
        program = native.compile(text, t.blobs)
        fail_after(-1)
        return str([p.shape for p in (*program.inputs, *program.outputs)]).encode()

    return compute, lambda: True


def opened() -> tuple[Callable[[], bytes], Callable[[], bool]]:
    """One object of each class that is made from Python."""

    def compute() -> bytes:
        device = _C.Device("host", "threads=3")
        surface, queue, flow = device.surface(4096), _C.Queue(), _C.UnstoredGradients(2, 16)
        with _C.Span(_C.Component.LOCK):
            rule = _C.UpdateRule.sgd(1.0, 0.9, False)
        fail_after(-1)
        told = [device.name, surface.nbytes, queue.submitted, flow.finite(), type(rule)]
        return str(told).encode()

    return compute, lambda: True


def stepped() -> tuple[Callable[[], bytes], Callable[[], bool]]:
    config = ModelConfig(dim=64, n_layers=1, n_heads=2, vocab_size=500, max_seq_len=64)
    step = TrainingStep(config, init_params(config, 0), host, 1, 64, find_plan("layer"))
    x, y = rng.integers(0, 500, (2, 1, 64), dtype=np.int32)

    def compute() -> bytes:
        step.begin_update()
        try:
            loss, _ = step.micro_step(x, y, 16.0)
            step.wait()
        finally:
            fail_after(-1)
            with contextlib.suppress(MemoryError):  # of a sum that was queued before
                step.wait()
        return np.float64(loss).tobytes() + b"".join(g.tobytes() for g in step.grads.values())

    return compute, lambda: unlocked(*(s.native for s in step.compiled.surfaces.values()))


told: dict[str, int] = {}
for make in (queued, evaluated, compiled, opened, stepped):
    compute, sound = make()
    want = compute()
    count = whole = 0
    nth = 0
    while whole < 3:  # how many there are depends on which thread is first
        _C.set_threads(1)  # the next ones have no scratch memory yet
        _C.set_threads(3)
        caller = ThreadPoolExecutor(1)  # nor has the thread that calls, which may do all the work
        gc.collect()
        _C.spans_record(nth % 2 == 0)
        fail_after(nth)
        try:
            got = caller.submit(compute).result()
            failed = bool(has_failed())
            assert got == want, f"{make.__name__}, {nth}: wrong, and nothing said"
            whole += not failed
        except (MemoryError, _C.MILError) as error:  # MILError: of a text not read to its end
            fail_after(-1)
            assert "expected memory" in str(error), repr(error)
            count += 1
            messages.add(str(error))
        caller.shutdown()
        assert sound(), f"{make.__name__}, {nth}: a surface stays locked"
        nth += 1
    assert compute() == want, make.__name__
    told[make.__name__] = count
print(json.dumps({"told": told, "messages": sorted(messages)}))

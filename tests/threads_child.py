"""Threads on everything native at once, in a process of its own: for a sanitizer to look at.

python -m tests.threads_child [SECONDS]. Run by test_threads.py, as it is and in builds that are
checked by ThreadSanitizer and AddressSanitizer. What one thread computes is held to what it gives
alone, so a plain run finds wrong bytes, too.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anefast import _C
from anefast.bench.context import nudge
from anefast.config import ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.models import init_params
from anefast.runtime import Device, TrainingStep
from anefast.train import fit

from .host_programs import Name, Text, read_port, write_port

Work = Callable[[], None]
SHAPE = (1, 96, 1, 512)


def doubler(device: _C.Device) -> _C.Program:
    x = np.zeros(SHAPE, np.float16)
    t = Text(a=x)
    return device.compile(t.program([t.op("add", x, x=Name("a"), y=Name("a"))]), {})


def evaluates(program: _C.Program, device: _C.Device, seed: int) -> Work:
    """Its own surfaces, a program that others evaluate, too."""
    port = program.inputs[0]
    i, o = device.surface(port.nbytes), device.surface(port.nbytes)
    x = np.full(SHAPE, seed, np.float16)
    write_port(i, port, x)

    def work() -> None:
        program.evaluate([i], [o], _C.spans_label("doubler"))
        assert (read_port(o, port) == x + x).all()

    work.surfaces = [i], [o]  # type: ignore[attr-defined]
    return work


def compiles() -> None:
    """A device of its own, dropped with its program while that is evaluated by another thread."""
    device = _C.Device("host")
    program = doubler(device)
    work = evaluates(program, device, 5)
    told: list[BaseException] = []

    def go() -> None:
        try:
            for _ in range(4):
                work()
        except _C.EvaluationError as error:
            told.append(error)

    other = threading.Thread(target=go)
    other.start()
    del device
    program.unload()
    other.join()
    assert all("unloaded" in str(error) for error in told)


def multiplies() -> None:
    a = np.ones((96, 96), np.float32)
    out = np.empty_like(a)
    _C.gemm(a, a, out)
    assert (out == 96).all()


def sums() -> None:
    """A queue that is dropped with sums under way, and one that is waited for."""
    device = _C.Device("host")
    dy = device.surface(96 * 64 * 2)
    dy.lock()[:] = np.ones(96 * 64, np.float16).view(np.uint8)
    dy.unlock()
    acc, bias = np.zeros((96, 96), np.float32), np.zeros(96, np.float32)
    dropped, queue = _C.Queue(), _C.Queue()
    for _ in range(4):
        dropped.weight_grad(dy, dy, np.zeros((96, 96), np.float32), 1, 64)
        queue.weight_grad(dy, dy, acc, 1, 64)
        queue.bias_grad(dy, bias, 1, 64)
    del dropped
    queue.wait()
    assert (acc == 256).all() and (bias == 256).all()


def trains(device: Device) -> Work:
    """Steps that compile in the background, beside everybody else."""
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=64, max_seq_len=32)
    step = TrainingStep(
        config, init_params(config, 0), device, 1, 32, find_plan("unfused,async"), swap_at=1
    )
    x, y = np.random.default_rng(0).integers(0, 64, (2, 1, 32), dtype=np.int32)

    def work() -> None:
        nudge(step)
        step.update_weights()
        for _ in range(3):
            step.begin_update()
            step.micro_step(x, y, 16.0)
        step.settle()
        step.wait()

    return work


def resizes() -> None:
    for n in (3, 1, 2):
        _C.set_threads(n)


def together(works: list[Work], seconds: float) -> None:
    """Every one of them again and again, each on a thread of its own."""
    end = time.monotonic() + seconds
    failed: list[BaseException] = []

    def again(work: Work) -> None:
        try:
            while time.monotonic() < end and not failed:
                work()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def main(seconds: float) -> None:
    device = Device("host", "threads=3")
    program = doubler(device._native)
    _C.spans_record(True)
    works = [evaluates(program, device._native, seed) for seed in (1, 2)]
    works += [compiles, multiplies, sums, trains(device), resizes, lambda: len(_C.spans_drain())]
    together(works, seconds)
    _C.spans_record(False)
    with tempfile.TemporaryDirectory() as folder:  # the writer of rows, and a trace
        fit(
            TrainConfig.from_preset(
                "bytes", out=str(Path(folder, "run")), trace=str(Path(folder, "trace.json")),
                steps=3, eval_every=2, eval_batches=1, sample_tokens=0, plan="unfused,async",
                model={"dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "hidden_dim": 32},
                data={"source": "stories:30", "seq_len": 32, "batch": 1},
                optim={"accumulation": 2, "warmup_steps": 1},
            )
        )  # fmt: skip
    gc.collect()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
    print("done")

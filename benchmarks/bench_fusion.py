"""Fused against separate evaluations: forward passes, training steps, and how soon they are ready.

    python -m pytest benchmarks/bench_fusion.py -s

The forward passes are those of the published tables (`anefast/bench/tables`), whose times are an
ANE's; ours are the host executor's, measured on the host, and say nothing about its speed.
What carries over are the counts of evaluations; what does not is the reason fusion pays there:
about 160 us of dispatch per evaluation. Judged is the ratio in CPU time of passes taken in turns.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

import numpy as np
import pytest

import anefast
from anefast import _C, mil
from anefast.bench import clock, published
from anefast.bench.clock import FLOOR, seconds
from anefast.bench.context import signal
from anefast.bench.tables import ffn, transformer
from anefast.fuse import cut, find_plan
from anefast.models import forward_graph, init_ffn, training_graph
from anefast.runtime import TrainingStep, fused_ffn
from anefast.runtime.cache import key_of

READY = 0.15  # least evaluation / ready; a processor with wider products evaluates in less
STEPS = {  # evaluations of a training step by plan, and turns to take
    "stories15m": ({"unfused": 36, "layer": 12, "all": 2}, 9),
    "stories110m": ({"unfused": 72, "layer": 24, "all": 2}, 5),
}


def test_dispatch(device):
    """What an evaluation costs the host besides arithmetic: 24 tiny layers, apart and fused."""
    layers = 24
    params, x = init_ffn(32, 32, layers, 0), signal(32, 32)
    with (
        fused_ffn(32, 32, layers, 32, params, device, "all") as fused,
        fused_ffn(32, 32, layers, 32, params, device, "layer") as apart,
    ):
        gaps = [seconds(partial(apart, x)) - seconds(partial(fused, x)) for _ in range(300)]
    us = 1e6 * median(gaps) / (layers - 1)
    print(f"\ndispatch of one evaluation: {us:.1f} us ({device.label}); published 160 us")


@pytest.mark.parametrize("f", published.FFNS, ids=lambda f: f.name)
def test_ffn(bench, ratios, f):
    if bench.quick and f not in published.FFNS[: ffn.QUICK]:
        pytest.skip("the largest is left out of --quick")
    ratios.judge(f"12 FFN layers, {f.name}: apart / fused", bench.ffn(f).cpu_ratio, FLOOR)


@pytest.mark.parametrize("t", published.MEGAS, ids=lambda t: t.name)
def test_transformer(bench, ratios, t):
    if bench.quick and t not in published.MEGAS[: transformer.QUICK]:
        pytest.skip("the largest are left out of --quick")
    ratios.judge(f"{t.name}: apart / fused", bench.transformer(t).cpu_ratio, FLOOR)


@pytest.mark.parametrize("preset", STEPS)
def test_mega_kernels_are_ready_in_time(bench, device, ratios, preset):
    """What loading each program takes after its graph, first time, in evaluations of that program.

    CPU time of one thread on either side.
    """
    config = bench.config(preset)
    params = anefast.init_params(config, 0)
    plan = find_plan("all")
    columns = ("graph", "text", "blobs", "key", "compile", "evaluate")
    print(f"\n{'ready, ms of CPU time, S 256':44}" + " ".join(f"{c:>8}" for c in columns))
    found = {}
    for kind, build in (("inference", forward_graph), ("training", training_graph)):
        start = time.thread_time()
        programs = cut(build(config, 1, 256), plan.key).programs
        graph = time.thread_time() - start
        for program in programs:
            with clock.one_thread():
                turns = [stages_of(device, program, params) for _ in range(3)]
            stages, evaluation = (min(kind, key=sum) for kind in zip(*turns, strict=True))
            name = f"{preset} {kind} {program.name}"
            times = " ".join(f"{1e3 * t:8.1f}" for t in (graph, *stages, *evaluation))
            print(f"{name:44}{times}")
            found[name] = evaluation[0] / sum(stages)
    for name, ratio in found.items():
        ratios.judge(f"{name}: evaluation / ready", ratio, READY)


def stages_of(device, program, params):
    """Seconds for checks and text, the weight file, its cache key, parsing and compiling; and, as
    a tuple of its own, for an evaluation of zeros."""
    clock = time.thread_time
    start = clock()
    mil.rules.check(program)
    text, layout = mil.emit(program, "ios18")
    written = clock()
    blobs = layout.fill(params)
    filled = clock()
    key_of(text, "", blobs)
    named = clock()
    native = device.compile(text, blobs)
    done = clock()
    ports = [
        [device.native_surface(p.nbytes) for p in of] for of in (native.inputs, native.outputs)
    ]
    native.evaluate(*ports)
    evaluation = min(seconds(partial(native.evaluate, *ports), clock) for _ in range(2))
    native.unload()
    return (written - start, filled - written, named - filled, done - named), (evaluation,)


@pytest.mark.parametrize("preset", STEPS)
def test_training_step(bench, device, ratios, preset):
    """A whole micro-step, weight gradients included, B 1, S 256, under three plans."""
    config, (evaluations, turns) = bench.config(preset), STEPS[preset]
    params = anefast.init_params(config, 0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (1, 257), dtype=np.int32)
    x, y = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    steps = {
        plan: TrainingStep(config, params, device, 1, 256, find_plan(plan)) for plan in evaluations
    }

    def micro_step(plan):
        loss, _ = steps[plan].micro_step(x, y, 64.0)
        steps[plan].wait()
        return loss

    losses = {micro_step(plan) for plan in steps}
    assert len(losses) == 1
    assert {plan: s.compiled.evaluations for plan, s in steps.items()} == evaluations
    runs = {plan: partial(micro_step, plan) for plan in steps}
    times, found = clock.race(runs, "all", turns=turns)
    cpu = clock.cpu_ratios(runs, "all", turns=3)
    print(f"\n{'training step':34} evals       ms  against all   where it goes, ms")
    for plan, step in steps.items():
        print(
            f"{preset + ', S 256, ' + plan:34} {evaluations[plan]:5} {1e3 * times[plan]:8.1f}"
            f"  {found.get(plan, 1.0):10.2f}x   {parts(step, x, y)}"
        )
        step.close()
    if evaluations["unfused"] == 72:
        print("published, same sizes: 72 evals, 168.7 ms; its fused backward is a projection")
    for plan, ratio in cpu.items():
        ratios.judge(f"{preset} step, {plan} / all", ratio, FLOOR)


def parts(step, x, y):
    """Where the quickest of five more micro-steps went: evaluations, head, the rest, the queue.

    On the host the queued weight gradients share the cores with everything before the wait.
    """
    run, head = step.compiled.run, _C.head_loss_grad
    spent: dict = {}

    def timed(name, function):
        def wrapper(*args):
            start = time.perf_counter()
            result = function(*args)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return wrapper

    def split():
        spent.clear()
        returned = seconds(lambda: step.micro_step(x, y, 64.0))
        rest = returned - sum(spent.values())
        return spent["device"], spent["head"], rest, seconds(step.wait)

    step.compiled.run, _C.head_loss_grad = timed("device", run), timed("head", head)
    try:
        times = min((split() for _ in range(5)), key=sum)
    finally:
        step.compiled.run, _C.head_loss_grad = run, head
    names = ("device", "head", "other", "waiting for dW")
    return ", ".join(f"{n} {1e3 * t:.1f}" for n, t in zip(names, times, strict=True))

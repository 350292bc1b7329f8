"""Products, conversions, copies and the head at a model's shapes: rates, roofline, NumPy, PyTorch.

    python -m pytest benchmarks/bench_kernels.py -s

Ratios are of CPU time on one thread, in turns; NumPy's own threads are not counted, so where its
library uses several the ratio says less than the truth. More shapes: bench_gemm.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from anefast import _C
from anefast.bench import clock

TOKENS = 256
SHAPES = [(288, 288), (768, 288), (768, 2048)]  # output, input channels


def operands(co, ci):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((co, ci)).astype(np.float32)
    x = rng.standard_normal((ci, TOKENS)).astype(np.float32)
    return w, x, np.zeros((co, TOKENS), np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_product(timed, shape):
    w, x, out = operands(*shape)
    timed(partial(_C.gemm, w, x, out), flops=2 * w.size * TOKENS)


@pytest.mark.parametrize("shape", SHAPES)
def test_product_against_numpy(ratios, shape):
    w, x, out = operands(*shape)
    with limited_numpy():
        found = clock.cpu_ratios(
            {"ours": partial(_C.gemm, w, x, out), "numpy": partial(np.matmul, w, x, out=out)},
            "ours",
        )
    ratios.judge(f"product {shape[0]} x {shape[1]}, numpy / ours", found["numpy"], 0.6)


@pytest.mark.parametrize("shape", SHAPES)
def test_product_against_pytorch(ratios, shape):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")
    w, x, out = operands(*shape)
    tw, tx, to = (torch.from_numpy(v) for v in (w, x, out.copy()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = clock.cpu_ratios(
            {"ours": partial(_C.gemm, w, x, out), "torch": partial(torch.mm, tw, tx, out=to)},
            "ours",
        )
    finally:
        torch.set_num_threads(threads)
    ratios.judge(f"product {shape[0]} x {shape[1]}, torch / ours", found["torch"], 0.6)


def limited_numpy():
    """NumPy's library on one thread, where threadpoolctl can say so."""
    limits = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    return limits.threadpool_limits(1)


def test_halves(timed):
    x = np.ones(1 << 22, np.float32)
    h = np.zeros(x.shape, np.float16)
    timed(partial(_C.half_from_floats, x, h), nbytes=6 * x.size)


def test_halves_against_numpy(ratios):
    x = np.ones(1 << 20, np.float32)
    h = np.zeros(x.shape, np.float16)
    found = clock.cpu_ratios(
        {"ours": partial(_C.half_from_floats, x, h), "numpy": partial(np.copyto, h, x, "unsafe")},
        "ours",
    )
    ratios.judge("fp32 to fp16, numpy / ours", found["numpy"], 0.8)


def test_surface_copy(timed, device):
    a, b = device.surface((1, 4096, 1, 1024)), device.surface((1, 4096, 1, 1024))

    def copy():
        with a.read() as source, b.write() as to:
            to[...] = source

    timed(copy, nbytes=2 * 2 * 4096 * 1024)


def test_head(timed):
    c, v = 288, 32000
    rng = np.random.default_rng(0)
    h = rng.standard_normal((1, c, 1, TOKENS)).astype(np.float16)
    norm, weight = np.ones(c, np.float32), rng.standard_normal((v, c)).astype(np.float32) * 0.05
    targets = rng.integers(0, v, (1, TOKENS)).astype(np.int32)
    nll, dh = np.zeros((1, TOKENS), np.float32), np.zeros_like(h)
    more = np.zeros_like(norm), np.zeros_like(weight)
    call = partial(_C.head_loss_grad, h, norm, weight, targets, 1e-5, 1.0, nll, dh, *more)
    timed(call, flops=6 * v * c * TOKENS, rounds=3)


def test_forward_pass(timed, bench):
    """stories15m, one mega-kernel, 64 positions."""
    from anefast.bench.context import signal
    from anefast.models import init_params
    from anefast.runtime import fused_transformer

    config = bench.config("stories15m")
    with fused_transformer(config, init_params(config, 0), 64, bench.device, "all") as fused:
        linear = 4 * config.dim**2 + 3 * config.dim * config.hidden_dim
        flops = config.n_layers * (2 * 64 * linear + 4 * 64 * 64 * config.dim)
        timed(partial(fused, signal(config.dim, 64)), flops=flops)

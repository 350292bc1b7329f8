"""RMSNorm and LayerNorm, forward and backward, of every kind of finite half, on every chip.

Pretrained models put a thousand times the usual size into a few channels and on one position, which
random ones never show. The judge is float64 NumPy, of the very halves that the program read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from anefast import ir
from anefast.chips.behaviour import CHIPS
from anefast.runtime import Device
from anefast.runtime.kernel import Kernel

COLUMNS, TOLERANCE = 32, 5e-3  # of a column's L2 norm; the worst that was seen is 3.1e-3
QUANTUM = 2.0**-25  # what rounding to the halves around 0 may take from each element
RMS = (1, 64, 1000, 10000)
Values = np.ndarray


class Norm(NamedTuple):
    build: Callable[..., ir.Tensor]
    centred: bool


NORMS = {"rms_norm": Norm(ir.rms_norm, False), "layer_norm": Norm(ir.layer_norm, True)}


def judge(x: Values, dy: Values, epsilon: float, centred: bool) -> tuple[Values, Values]:
    """y and dx in float64, over axis 1."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    if centred:
        x = x - x.mean(1, keepdims=True)
    rstd = ((x * x).mean(1, keepdims=True) + epsilon) ** -0.5
    y = x * rstd
    dx = rstd * (dy - y * (dy * y).mean(1, keepdims=True))
    return y, dx - dx.mean(1, keepdims=True) if centred else dx


@cache
def kernel(norm: str, channels: int, epsilon: float, chip: str, options: str) -> Kernel:
    """Inputs a0 (x) and a1 (dy), outputs z0 (y) and z1 (dx)."""
    x, dy = (ir.input(name, (1, channels, 1, COLUMNS)) for name in ("a0", "a1"))
    y = NORMS[norm].build(x, epsilon)
    (dx,) = ir.gradients([y], [dy], [x])
    graph = ir.simplify(ir.Graph([x, dy], {"z0": y, "z1": dx}))
    program = ir.Program.cut(
        norm, [(str(t.name), t) for t in graph.inputs], list(graph.outputs.items())
    )
    dialect = CHIPS[chip].dialect if chip else "ios18"
    made = Kernel(Device("host", options, chip=chip), program, dialect)
    made.load({})
    return made


def in_channels(normal: Values, rms: float) -> Values:
    """The rms comes from three channels, at all positions."""
    normal[:, 1:4] += rms * np.sqrt(normal.shape[1] / 3)
    return normal


def at_position(normal: Values, rms: float) -> Values:
    """The rms comes from two channels of the first position, of opposite signs."""
    size = rms * np.sqrt(normal.shape[1] / 2)
    normal[:, 5, :, 0], normal[:, 9, :, 0] = size, -size
    return normal


def alternating(normal: Values, rms: float) -> Values:
    """All channels are as large, so that the sum of squares is the largest there is."""
    return np.sign(normal) * rms


def everywhere(normal: Values, rms: float) -> Values:
    return normal * rms


def offset(normal: Values, rms: float) -> Values:
    """Far from 0, and varying little: what is left of x behind its mean counts."""
    return normal * max(1, rms / 100) + rms


SHAPES = (everywhere, in_channels, at_position, alternating, offset)


def extremes(channels: int) -> Values:
    """(1, C, 1, COLUMNS): a column of zeros, one number among zeros, the largest and the smallest
    halves there are, alone, together and of one sign."""
    x = np.zeros((1, channels, 1, COLUMNS))
    x[:, 3, :, 1] = 65504
    x[..., 2], x[..., 3] = 65504, -65504
    x[:, ::2, :, 4], x[:, 1::2, :, 4] = 65504, -65504
    x[:, 0, :, 5], x[:, 1:, :, 5] = -65504, 65504
    x[:, 0, :, 6], x[:, 1, :, 6] = 65504, 2.0**-24
    x[:, ::2, :, 7], x[:, 1::2, :, 7] = 2.0**-24, -(2.0**-23)
    x[:, 3, :, 8] = 2.0**-24
    rng = np.random.default_rng(1)
    for column, size in enumerate((1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 20, 300, 4e3, 2e4)):
        x[..., 9 + column] = rng.standard_normal((1, channels, 1)) * size
    return x


def check(norm: str, x: Values, scale: float, epsilon: float, chip: str, options: str = "") -> None:
    limit = np.float64(65504)
    x = np.clip(x, -limit, limit).astype(np.float16)
    rng = np.random.default_rng(2)
    dy = np.clip(rng.standard_normal(x.shape) * scale, -limit, limit).astype(np.float16)
    dy[..., -1] = 0
    got = kernel(norm, x.shape[1], epsilon, chip, options).run(a0=x, a1=dy)
    wanted = judge(x, dy, epsilon, NORMS[norm].centred)
    for name, g, w in zip(("y", "dx"), (got["z0"], got["z1"]), wanted, strict=True):
        here = (np.abs(w) < 65504).all(1)  # columns whose true values are halves
        error = np.linalg.norm(np.where(np.isfinite(g), g, np.inf) - w, axis=1)
        allowed = TOLERANCE * np.linalg.norm(w, axis=1) + QUANTUM * np.sqrt(x.shape[1])
        bad = here & ~(error <= allowed)
        assert not bad.any(), (
            name,
            np.flatnonzero(bad),
            error[bad],
            np.linalg.norm(w, axis=1)[bad],
        )
        # Where the truth leaves fp16, infinity says so.
        over = (np.abs(w) > 1.01 * 65520).any(1)
        assert not np.isfinite(g).all(1)[over].any(), (name, "overflow was hidden")


@pytest.mark.parametrize("chip", ["", *CHIPS])
@pytest.mark.parametrize("norm", NORMS)
def test_massive_activations(norm, chip):
    for channels in (64, 576):
        for rms in RMS:
            for make in SHAPES:
                normal = np.random.default_rng(rms).standard_normal((1, channels, 1, COLUMNS))
                check(norm, make(normal, rms), 1.0, 1e-5, chip)


@pytest.mark.parametrize("chip", ["", *CHIPS])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 1e-12])
@pytest.mark.parametrize("norm", NORMS)
def test_every_finite_half(norm, epsilon, chip):
    """Gradients, too, from denormals to the largest half, as a loss scale may make them."""
    for channels in (64, 768):
        for scale in (1e-6, 1e-3, 1.0, 1e4, 1e5):
            check(norm, extremes(channels), scale, epsilon, chip)


@pytest.mark.parametrize("norm", NORMS)
def test_the_widest_sum_and_its_groups(norm):
    """16,384 channels, the most a chip sums: sums stay within fp16, grouped or not."""
    rng = np.random.default_rng(3)
    x = in_channels(rng.standard_normal((1, 16384, 1, COLUMNS)), 400.0)
    for options in ("", "groups=off"):
        check(norm, x, 1.0, 1e-5, "", options)
        check(norm, extremes(16384), 1.0, 1e-5, "", options)

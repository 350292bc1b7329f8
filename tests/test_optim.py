"""Schedule, loss scale and clipping against arithmetic; the optimisers are test_optimisers.py's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from anefast import _C
from anefast.config import LossScaleConfig, OptimConfig, ScheduleConfig
from anefast.optim import LossScale, Optimizer, learning_rate, settled
from anefast.optim.optimizer import squared_norm


def arrays(rng, scale=1.0):
    shapes = {"w": (7, 13), "norm": (13,), "big": (33, 65)}
    return {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in shapes.items()}


def reference(params, grads, moments, step, lr, c):
    """The textbook update in float64: clip, moments, bias correction, decoupled decay."""
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    factor = min(1.0, c.clip / norm) if c.clip else 1.0
    for name, p in params.items():
        m, v = moments[name]
        g = grads[name] * factor
        m[:] = c.beta1 * m + (1 - c.beta1) * g
        v[:] = c.beta2 * v + (1 - c.beta2) * g**2
        m_hat, v_hat = m / (1 - c.beta1**step), v / (1 - c.beta2**step)
        if p.ndim == 2:
            p *= 1 - lr * c.weight_decay
        p -= lr * m_hat / (np.sqrt(v_hat) + c.eps)
    return norm


@pytest.mark.parametrize("scale,clip", [(0.01, 1.0), (10.0, 1.0), (10.0, 0.0)])
def test_adamw_follows_float64(scale, clip):
    rng = np.random.default_rng(1)
    c = settled(OptimConfig(clip=clip, weight_decay=0.3))
    params = arrays(rng)
    exact = {n: p.astype(np.float64) for n, p in params.items()}
    moments = {n: (np.zeros_like(p), np.zeros_like(p)) for n, p in exact.items()}
    optimizer = Optimizer(params, c)
    for step in range(1, 31):
        grads = arrays(rng, scale)
        norm = reference(
            exact, {n: g.astype(float) for n, g in grads.items()}, moments, step, 1e-2, c
        )
        # what the trainer hands over: the sum of 640 tokens under a loss scale of 32
        summed = {n: g * np.float32(640 * 32) for n, g in grads.items()}
        kept = {n: g.copy() for n, g in summed.items()}
        done = optimizer.update(summed, 1 / (640 * 32), 1e-2)
        assert done.grad_norm == pytest.approx(norm, rel=1e-6) and not done.overflow
        assert all(np.array_equal(g, kept[n]) for n, g in summed.items())
    for name, p in params.items():
        np.testing.assert_allclose(p, exact[name], rtol=0, atol=3e-6, err_msg=name)


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_overflow_changes_nothing(poison):
    rng = np.random.default_rng(3)
    params, grads = arrays(rng), arrays(rng)
    optimizer = Optimizer(params, OptimConfig())
    optimizer.update({n: g.copy() for n, g in grads.items()}, 1.0, 1e-3)
    kept = [{n: a.copy() for n, a in d.items()} for d in (params, *optimizer.state.values())]
    grads["big"][32, 64] = poison
    assert optimizer.update(grads, 1.0, 1e-3).overflow
    for was, now in zip(kept, (params, *optimizer.state.values()), strict=True):
        assert all(np.array_equal(was[n], now[n]) for n in was)
    assert optimizer.step == 1


def test_adamw_refuses_arrays_it_cannot_change():
    with pytest.raises(ValueError, match="C-contiguous float32"):
        Optimizer({"w": np.zeros((4, 3), np.float32).T}, OptimConfig())


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000, 100_001])
def test_squared_norm_is_exact_enough_and_repeatable(n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.float32(1e15)
    exact = math.fsum(float(v) ** 2 for v in x)
    assert sum(_C.squares([x])) == pytest.approx(exact, rel=1e-12)
    assert sum(_C.squares([x[:5], x[5:]])) == pytest.approx(exact, rel=1e-12)


def test_arrays_that_do_not_belong_together_are_refused():
    a, b = np.zeros(4, np.float32), np.zeros(5, np.float32)
    rule = _C.UpdateRule.adamw(1.0, 0.9, 0.95, 1e-8, 0.1, 0.05)
    with pytest.raises(ValueError, match=r"weight.*\(5,?\).*\(4,?\)"):
        _C.update(rule, [a], [b], [[a], [a]], [1e-3], [0.0])
    with pytest.raises(ValueError, match="2 states as gradients, which are 1"):
        _C.update(rule, [a], [a], [[a], []], [1e-3], [0.0])
    with pytest.raises(ValueError, match="1 states as gradients"):
        _C.update(_C.UpdateRule.lion(1.0, 0.9, 0.99), [a], [a], [[a], [a]], [1e-3], [0.0])


def test_squared_norm_spans_tensors():
    grads = {"a": np.full((2, 2), 3, np.float32), "b": np.full(4, 4, np.float32)}
    assert squared_norm(grads) == 100.0


def test_schedule_golden_values():
    c = OptimConfig(lr=2e-3, warmup_steps=50, min_lr_ratio=0.1)
    golden = {1: 4e-5, 25: 1e-3, 50: 2e-3, 225: 1.1e-3, 400: 2e-4, 1000: 2e-4}
    for step, lr in golden.items():
        assert learning_rate(c, step, 400) == pytest.approx(lr, rel=1e-12), step
    assert learning_rate(c, 137, 400) == pytest.approx(1.7392458e-3, rel=1e-6)


def test_schedule_never_jumps():
    c = OptimConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(c, s, 100) for s in range(1, 101)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= 0.1 + 1e-9
    assert rates[9] == 1.0 and all(a > b for a, b in itertools.pairwise(rates[9:]))
    # warm-up longer than the run, and none at all
    assert learning_rate(OptimConfig(lr=1.0, warmup_steps=100), 10, 10) == 0.1
    assert learning_rate(OptimConfig(lr=1.0, warmup_steps=0), 1, 10) < 1.0


FORMS = {  # rates of updates 4, 10, 12, 20 and 25 of 20, by hand: peak 1 at 4, a tenth at the end
    ("cosine", ""): [1.0, 0.7222075, 0.55, 0.1, 0.1],
    ("linear", ""): [1.0, 0.6625, 0.55, 0.1, 0.1],
    ("constant", ""): [1.0, 1.0, 1.0, 1.0, 1.0],
    ("inverse-sqrt", ""): [1.0, 0.6324555, 0.5773503, 0.4472136, 0.4],
    ("wsd", ""): [1.0, 1.0, 0.5975078, 0.1, 0.1],  # it cools down from 10 on
    ("wsd", "16"): [1.0, 1.0, 1.0, 0.1, 0.1],
    ("linear", "10"): [1.0, 0.6625, 0.4109424, 0.1, 0.1],
}


@pytest.mark.parametrize("name,decay_from", FORMS)
def test_every_schedule_has_its_rates(name, decay_from):
    c, schedule = OptimConfig(lr=1.0, warmup_steps=4), ScheduleConfig(name, 0.5, decay_from)
    rates = [learning_rate(c, s, 20, schedule) for s in (4, 10, 12, 20, 25)]
    assert rates == pytest.approx(FORMS[name, decay_from], rel=1e-6)
    assert [learning_rate(c, s, 20, schedule) for s in (1, 2)] == [0.25, 0.5]


def test_a_cool_down_inside_the_warm_up_never_rises():
    c, schedule = OptimConfig(lr=1.0, warmup_steps=10), ScheduleConfig("constant", decay_from="1")
    rates = [learning_rate(c, s, 10, schedule) for s in range(1, 11)]
    assert rates == sorted(rates, reverse=True)


def test_loss_scale_halves_and_grows():
    scale = LossScale(LossScaleConfig(initial=8.0, growth_interval=3, maximum=16.0))
    seen = []
    for overflow in (
        False,
        False,
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
    ):
        scale.update(overflow)
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
    other = LossScale(LossScaleConfig())
    other.restore(scale.state())
    assert other.state() == scale.state()


def test_fixed_loss_scale_stays():
    scale = LossScale(LossScaleConfig(initial=8.0, dynamic=False))
    scale.update(True)
    assert scale.value == 8.0 and scale.exhausted

"""The CPU's side of a step against plain float64 NumPy, and against itself on other threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import anefast
from anefast.config import ModelConfig
from anefast.models import init_params

_C = pytest.importorskip("anefast._C", reason="the native module is not built")

Array = npt.NDArray[Any]
EPSILON = 1e-5
# B, S, C, V: several sequences in one block of tokens, blocks cut inside a sequence, odd sizes,
# and a vocabulary long enough for several chunks to share a sum.
SHAPES = [
    (1, 32, 8, 17),
    (2, 128, 64, 512),
    (3, 96, 70, 1000),
    (1, 512, 48, 4100),
    (1, 64, 24, 6500),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = _C.threads()
    yield
    _C.set_threads(before)


def distance(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def rows(x: Array) -> Array:
    """(B, C, 1, S) to (B * S, C) float64."""
    return x[:, :, 0].astype(np.float64).transpose(0, 2, 1).reshape(-1, x.shape[1])


def problem(shape: tuple[int, int, int, int]) -> dict[str, Array]:
    b, s, c, v = shape
    rng = np.random.default_rng(b + s + c + v)
    targets = rng.integers(0, v, (b, s)).astype(np.int32)
    targets[rng.random((b, s)) < 0.2] = -1
    targets[0, 0] = -100
    return {
        "h": rng.standard_normal((b, c, 1, s)).astype(np.float16),
        "norm": rng.standard_normal(c).astype(np.float32),
        "weight": (rng.standard_normal((v, c)) * 0.3).astype(np.float32),
        "targets": targets,
    }


def head_reference(p: dict[str, Array], scale: float) -> dict[str, Array]:
    h, norm, w = rows(p["h"]), p["norm"].astype(np.float64), p["weight"].astype(np.float64)
    target = p["targets"].reshape(-1)
    counts, at = target >= 0, (np.arange(target.size), np.maximum(target, 0))
    rstd = 1 / np.sqrt((h * h).mean(1, keepdims=True) + EPSILON)
    xn = h * rstd * norm
    logits = xn @ w.T
    shifted = logits - logits.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True)
    nll = np.where(counts, np.log(total[:, 0]) - shifted[at], 0)
    dlogits = np.exp(shifted) / total
    dlogits[at] -= 1
    dlogits *= scale * counts[:, None]
    dxn = dlogits @ w
    g = dxn * norm
    return {
        "nll": nll,
        "logits": logits,
        "dweight": dlogits.T @ xn,
        "dnorm": (dxn * h * rstd).sum(0),
        "dh": rstd * (g - h * rstd**2 * (g * h).mean(1, keepdims=True)),
    }


def head(p: dict[str, Array], scale: float) -> dict[str, Array]:
    """Gradients on top of ones, so that adding is told from writing."""
    out = {
        "nll": np.full(p["targets"].shape, np.nan, np.float32),
        "dh": np.full(p["h"].shape, np.nan, np.float16),
        "dnorm": np.ones_like(p["norm"]),
        "dweight": np.ones_like(p["weight"]),
    }
    out["total"] = np.array(
        _C.head_loss_grad(
            p["h"], p["norm"], p["weight"], p["targets"], EPSILON, scale,
            out["nll"], out["dh"], out["dnorm"], out["dweight"],
        )
    )  # fmt: skip
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_head_against_float64(shape: tuple[int, int, int, int]) -> None:
    p, scale = problem(shape), 7.5
    got, want = head(p, scale), head_reference(p, scale)
    assert got["total"][1] == (p["targets"] >= 0).sum()
    assert got["total"][0] == pytest.approx(want["nll"].sum(), rel=1e-6)
    assert distance(got["nll"].reshape(-1), want["nll"]) < 2e-6
    assert (got["nll"][p["targets"] < 0] == 0).all()
    assert distance(got["dweight"] - 1, want["dweight"]) < 2e-5
    assert distance(got["dnorm"] - 1, want["dnorm"]) < 2e-5
    assert distance(rows(got["dh"]), want["dh"]) < 6e-4  # half a unit of fp16
    assert (rows(got["dh"])[p["targets"].reshape(-1) < 0] == 0).all()


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_head_is_the_same_on_any_number_of_threads(shape: tuple[int, int, int, int]) -> None:
    p, seen = problem(shape), []
    for count in (1, 2, 3):
        _C.set_threads(count)
        seen.append({k: v.tobytes() for k, v in head(p, 1.0).items()})
    assert seen[0] == seen[1] == seen[2]


def test_loss_alone_is_the_loss_with_gradients() -> None:
    p = problem(SHAPES[1])
    nll = np.empty(p["targets"].shape, np.float32)
    total = _C.head_loss(p["h"], p["norm"], p["weight"], p["targets"], EPSILON, nll)
    both = head(p, 3.0)
    assert tuple(both["total"]) == total and both["nll"].tobytes() == nll.tobytes()


def test_gradients_of_two_sequences_are_the_sum_of_each() -> None:
    p = problem((2, 256, 16, 300))
    whole = head(p, 1.0)
    for key in ("dweight", "dnorm"):
        parts = [
            head(
                {k: (v[i : i + 1].copy() if k in ("h", "targets") else v) for k, v in p.items()},
                1.0,
            )
            for i in range(2)
        ]
        assert distance(whole[key] - 1, parts[0][key] + parts[1][key] - 2) < 1e-5


def test_large_logits_stay_finite_and_large_gradients_overflow_to_infinity() -> None:
    p = problem(SHAPES[1])
    p["weight"] = p["weight"] * np.float32(1000)
    got = head(p, 1.0)
    assert np.isfinite(got["nll"]).all() and np.isfinite(got["dweight"]).all()
    assert np.isinf(head(p, 1e6)["dh"]).any()


def test_logits_at_one_position() -> None:
    p = problem(SHAPES[2])
    b, s = p["targets"].shape
    at = np.array([0, s - 1, 40], np.int32)
    out = np.empty((b, p["weight"].shape[0]), np.float32)
    halves = p["weight"].astype(np.float16)
    _C.head_logits(p["h"], p["norm"], halves, EPSILON, at, out)
    p["weight"] = halves.astype(np.float32)
    want = head_reference(p, 1.0)["logits"].reshape(b, s, -1)[np.arange(b), at]
    assert distance(out, want) < 2e-6


@pytest.mark.parametrize("channels", [576, 40, 7])
def test_logits_do_not_depend_on_how_many_positions_there_are(channels: int) -> None:
    p = problem((1, 64, channels, 300))
    halves, at = p["weight"].astype(np.float16), np.arange(13, dtype=np.int32)
    alone = np.empty((1, 300), np.float32)
    for count in range(1, len(at) + 1):
        out = np.empty((count, 300), np.float32)
        _C.head_logits(p["h"], p["norm"], halves, EPSILON, at[:count], out)
        _C.head_logits(p["h"], p["norm"], halves, EPSILON, at[count - 1 : count], alone)
        assert out[-1].tobytes() == alone.tobytes(), count


def test_a_weight_in_fp16_gives_what_its_values_give_in_fp32() -> None:
    p = problem((1, 600, 48, 700))
    halves = p["weight"].astype(np.float16)
    nll = [np.empty(p["targets"].shape, np.float32) for _ in range(2)]
    rest = (p["targets"], EPSILON)
    wide = _C.head_loss(p["h"], p["norm"], halves.astype(np.float32), *rest, nll[0])
    assert _C.head_loss(p["h"], p["norm"], halves, *rest, nll[1]) == wide
    assert nll[0].tobytes() == nll[1].tobytes()
    table, tokens = halves.astype(np.float32), p["targets"][:, :64].clip(0)
    x = [np.empty((1, 48, 1, 64), np.float16) for _ in range(2)]
    _C.embed(tokens, table, x[0])
    _C.embed(tokens, halves, x[1])
    assert x[0].tobytes() == x[1].tobytes()
    with pytest.raises(ValueError, match="to add positions to"):
        _C.embed(tokens, halves, x[1], np.zeros((64, 48), np.float32))


def test_targets_past_the_vocabulary_are_refused_and_nothing_is_written() -> None:
    p = problem(SHAPES[0])
    p["targets"][0, 9] = p["weight"].shape[0]
    before = p["weight"].copy()
    with pytest.raises(ValueError, match="9"):
        head(p, 1.0)
    assert (p["weight"] == before).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_embedding_and_its_gradient(shape: tuple[int, int, int, int]) -> None:
    b, s, c, v = shape
    p = problem(shape)
    tokens = np.random.default_rng(3).integers(0, min(v, 20), (b, s)).astype(np.int32)  # repeats
    out = np.empty((b, c, 1, s), np.float16)
    _C.embed(tokens, p["weight"], out)
    want = p["weight"][tokens].astype(np.float16).transpose(0, 2, 1)[:, :, None]
    assert out.tobytes() == np.ascontiguousarray(want).tobytes()

    dweight = np.ones((v, c), np.float32)
    expected = dweight.copy()
    _C.embed_grad(tokens, p["h"], dweight)
    for i in range(b):
        for j in range(s):  # in order, in fp32: the bytes are the promise
            expected[tokens[i, j]] += p["h"][i, :, 0, j]
    assert dweight.tobytes() == expected.tobytes()


@pytest.mark.parametrize("token", [-1, 17, 2**31 - 1])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, 30] = token
    out = np.full((1, 8, 1, 32), 5, np.float16)
    with pytest.raises(ValueError, match="30"):
        _C.embed(tokens, np.zeros((17, 8), np.float32), out)
    with pytest.raises(ValueError, match="30"):
        _C.embed_grad(tokens, out, np.zeros((17, 8), np.float32))
    assert (out == 5).all()


def test_weight_gradients_against_float64() -> None:
    b, s, co, ci = 3, 96, 37, 50
    rng = np.random.default_rng(4)
    device = _C.Device("host")

    def surface(x: Array) -> Any:
        held = device.surface(x.nbytes)
        held.lock()[: x.nbytes] = x.reshape(-1).view(np.uint8)
        held.unlock()
        return held

    dy, x = (rng.standard_normal((b, c, 1, s)).astype(np.float16) for c in (co, ci))
    acc, scale, bias = (np.ones(shape, np.float32) for shape in ((co, ci), (co,), (co,)))
    queue, dy_held = _C.Queue(), surface(dy)
    queue.weight_grad(dy_held, surface(x), acc, b, s)
    queue.scale_grad(dy_held, dy_held, scale, b, s)
    queue.bias_grad(dy_held, bias, b, s)
    queue.wait()
    assert distance(acc - 1, rows(dy).T @ rows(x)) < 2e-6
    assert distance(scale - 1, (rows(dy) ** 2).sum(0)) < 1e-6
    assert distance(bias - 1, rows(dy).sum(0)) < 1e-6
    added = [a.copy() for a in (acc, scale, bias)]
    for a in (acc, scale, bias):
        a.fill(np.nan)
    queue.weight_grad(dy_held, surface(x), acc, b, s, fresh=True)
    queue.scale_grad(dy_held, dy_held, scale, b, s, fresh=True)
    queue.bias_grad(dy_held, bias, b, s, fresh=True)
    queue.wait()
    for was, a in zip(added, (acc, scale, bias), strict=True):
        assert distance(a, was - 1) < 2e-6


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_begun_anew_are_those_of_a_new_step(tied: bool) -> None:
    """Whatever the arrays hold, and added to by the micro-steps after: byte for byte."""
    config = ModelConfig(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=70, max_seq_len=64, tied=tied
    )
    model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
    tokens = np.random.default_rng(0).integers(0, 70, (3, 2, 65), np.int32)
    x, y = np.ascontiguousarray(tokens[..., :-1]), np.ascontiguousarray(tokens[..., 1:])
    device = anefast.Device("host")
    new, used = (model.training_step(device, 2, 64, "layer") for _ in range(2))
    for g in used.grads.values():
        g.fill(np.nan)
    used.begin_update()
    for i in (1, 2):
        for step in (new, used):
            step.micro_step(x[i], y[i], 64.0)
            step.wait()
        for name, g in new.grads.items():
            assert g.any() and g.tobytes() == used.grads[name].tobytes(), (name, i)
    new.close()
    used.close()


def test_a_refused_micro_step_leaves_gradients_to_be_begun_anew() -> None:
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=70, max_seq_len=32)
    model = anefast.Model(config, init_params(config, 0), anefast.open_tokenizer("bytes"))
    x = np.zeros((1, 32), np.int32)
    device = anefast.Device("host")
    new, used = (model.training_step(device, 1, 32, "layer") for _ in range(2))
    for g in used.grads.values():
        g.fill(np.nan)
    used.begin_update()
    with pytest.raises(ValueError, match="targets"):
        used.micro_step(x, x + 70, 64.0)
    for step in (new, used):
        step.micro_step(x, x + 1, 64.0)
        step.wait()
    assert {n: g.tobytes() for n, g in new.grads.items()} == {
        n: g.tobytes() for n, g in used.grads.items()
    }
    new.close()
    used.close()


def test_a_large_vocabulary_keeps_no_matrix_of_logits() -> None:
    """Exponentials are made again: the gradients are right, and memory is that of the weights."""
    vocab, seq, channels = 70_000, 256, 8
    assert vocab * seq > _C.HEAD_KEPT
    rng = np.random.default_rng(0)
    p = {
        "h": rng.standard_normal((1, channels, 1, seq)).astype(np.float16),
        "norm": rng.standard_normal(channels).astype(np.float32),
        "weight": rng.standard_normal((vocab, channels)).astype(np.float32),
        "targets": rng.integers(0, vocab, (1, seq)).astype(np.int32),
    }
    p["targets"][0, ::7] = -1
    got = head(p, 7.5)
    want = head_reference(p, 7.5)
    assert distance(got["nll"].reshape(-1), want["nll"]) < 2e-6
    for name in ("dweight", "dnorm"):
        assert distance(got[name] - 1, want[name]) < 2e-5, name
    # kept where they are few: the first rows of the vocabulary alone
    few = p | {"weight": p["weight"][:60_000], "targets": p["targets"] % 60_000}
    assert len(few["weight"]) * seq <= _C.HEAD_KEPT
    assert distance(head(few, 7.5)["dweight"] - 1, head_reference(few, 7.5)["dweight"]) < 2e-5

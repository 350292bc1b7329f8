"""Sampling: what may be drawn, how often, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from anefast.sampling import sample


def draws(logits: np.ndarray, count: int = 400, **how: float) -> np.ndarray:
    rng = np.random.default_rng(5)
    top_k = int(how.pop("top_k", 0))
    return np.array([sample(logits, top_k=top_k, rng=rng, **how) for _ in range(count)])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def allowed(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> set[int]:
    """The rule, said plainly: rank, keep k, keep the fewest that reach the share."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[:top_k] if top_k else order
    share = softmax(logits[order] / temperature)
    if top_p == 1:
        return set(order)
    keep = next((n for n in range(1, len(order)) if share[:n].sum() >= top_p), len(order))
    return set(order[:keep])


def test_only_allowed_tokens_and_always_in_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        v = int(rng.integers(1, 30))
        logits = rng.normal(0, 3, v).astype(np.float32)
        logits[rng.random(v) < 0.3] = logits[0]  # ties
        temperature = float(rng.uniform(0.1, 2))
        top_k, top_p = (
            int(rng.integers(0, v + 2)),
            float(rng.choice([1.0, rng.uniform(0.05, 0.99)])),
        )
        seen = draws(logits, 20, temperature=temperature, top_k=top_k, top_p=top_p)
        assert set(seen.tolist()) <= allowed(logits, temperature, top_k, top_p)


@pytest.mark.parametrize(
    "temperature,top_k,top_p", [(1, 0, 1), (0.5, 0, 1), (2, 4, 1), (1, 0, 0.8)]
)
def test_frequencies(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.array([1.0, 3.0, 0.0, 2.0, 2.0, -np.inf], np.float32)
    expected = softmax(logits / temperature)
    kept = allowed(logits, temperature, top_k, top_p)
    expected[[i for i in range(6) if i not in kept]] = 0
    expected /= expected.sum()
    n = 4000
    counts = np.bincount(
        draws(logits, n, temperature=temperature, top_k=top_k, top_p=top_p), None, 6
    )
    assert (counts[expected == 0] == 0).all()
    assert np.abs(counts / n - expected).max() < 5 * np.sqrt(0.25 / n)


def test_greedy_takes_the_lowest_of_equals_and_needs_no_generator() -> None:
    logits = np.array([0, 7, 7, -np.inf], np.float32)
    assert sample(logits, temperature=0) == 1
    assert set(draws(logits, top_k=1)) == {1} == set(draws(logits, top_p=1e-9))
    assert set(draws(np.array([0, 7, 6], np.float32), temperature=1e-310)) == {1}


def test_masked_tokens_never_come_even_at_the_edges() -> None:
    class Edge:
        def __init__(self, u: float) -> None:
            self.u = u

        def random(self) -> float:
            return self.u

    logits = np.array([-np.inf, 0, -np.inf, 0, -1000], np.float32)
    for u in (0.0, 0.5, np.nextafter(1, 0)):
        assert sample(logits, rng=Edge(u)) in (1, 3)  # type: ignore[arg-type]


def test_same_seed_same_tokens() -> None:
    logits = np.random.default_rng(1).normal(size=50).astype(np.float32)
    assert (draws(logits) == draws(logits)).all() and len(set(draws(logits))) > 5


def test_refused() -> None:
    fine = np.zeros(3, np.float32)
    rng = np.random.default_rng()
    bad = [np.array([0, np.nan]), np.array([np.inf, 0]), np.full(3, -np.inf), fine[None], fine[:0]]
    for logits in bad:
        for temperature in (0.0, 1.0):
            with pytest.raises(ValueError, match=r"^\[sampling\] .* Hint: "):
                sample(logits, temperature, rng=rng)
    for how in ((-1.0, 0, 1.0), (np.nan, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)):
        with pytest.raises(ValueError, match="Hint"):
            sample(fine, *how, rng=rng)
    with pytest.raises(ValueError, match="default_rng"):
        sample(fine)

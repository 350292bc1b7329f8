"""Times the products and the head at a model's shapes, in turns with PyTorch's fp32 if installed.

    python benchmarks/bench_gemm.py --threads 2 --rounds 7

Variants alternate inside one process, with a pause between so that one library's waiting threads do
not slow the other; medians and their ratio are printed. On a shared machine only the ratio counts.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from anefast import _C

TOKENS = 256
WEIGHTS = [(288, 288), (768, 288), (288, 768), (32000, 288), (768, 768), (2048, 768), (768, 2048)]


def alternate(
    variants: dict[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, float]:
    """Median seconds of one call of each, after one unmeasured call a turn."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            time.sleep(0.01)
            start = time.perf_counter()
            run()
            repeats = max(1, int(seconds / (time.perf_counter() - start)))
            for _ in range(repeats):
                start = time.perf_counter()
                run()
                samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


def report(name: str, flops: float, medians: dict[str, float]) -> None:
    line = f"{name:26s}"
    for variant, seconds in medians.items():
        line += f"  {variant} {seconds * 1e3:8.2f} ms {flops / seconds / 1e9:6.1f} GFLOP/s"
    if "torch" in medians:
        line += f"  torch / ours {medians['torch'] / medians['ours']:.2f}"
    print(line, flush=True)


def products(torch: Any, rounds: int) -> None:
    rng = np.random.default_rng(0)
    for co, ci in WEIGHTS:
        w = rng.standard_normal((co, ci)).astype(np.float32)
        x = rng.standard_normal((ci, TOKENS)).astype(np.float32)
        dy = rng.standard_normal((co, TOKENS)).astype(np.float32)
        for name, a, b, adds in [
            (f"W[{co},{ci}] X", w, x, False),
            (f"W[{co},{ci}]^T dY", w.T, dy, False),
            (f"dW[{co},{ci}] += dY X^T", dy, x.T, True),
        ]:
            out = np.zeros((a.shape[0], b.shape[1]), np.float32)
            ha, hb = (np.asarray(v, np.float16, order="K") for v in (a, b))
            variants: dict[str, Callable[[], object]] = {
                "ours": lambda a=a, b=b, out=out, adds=adds: _C.gemm(a, b, out, adds),
                "fp16 in": lambda a=ha, b=hb, out=out, adds=adds: _C.gemm(a, b, out, adds),
            }
            if torch is not None:
                ta, tb, tc = (torch.from_numpy(v) for v in (a, b, out.copy()))
                variants["torch"] = (
                    (lambda ta=ta, tb=tb, tc=tc: tc.addmm_(ta, tb))
                    if adds
                    else (lambda ta=ta, tb=tb, tc=tc: torch.mm(ta, tb, out=tc))
                )
            report(name, 2.0 * a.size * b.shape[1], alternate(variants, rounds, 0.02))


def head(torch: Any, rounds: int, c: int = 288, v: int = 32000) -> None:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((1, c, 1, TOKENS)).astype(np.float16)
    norm, weight = np.ones(c, np.float32), rng.standard_normal((v, c)).astype(np.float32) * 0.05
    targets = rng.integers(0, v, (1, TOKENS)).astype(np.int32)
    nll, dh = np.zeros((1, TOKENS), np.float32), np.zeros_like(h)
    dnorm, dweight = np.zeros_like(norm), np.zeros_like(weight)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: _C.head_loss_grad(
            h, norm, weight, targets, 1e-5, 1.0, nll, dh, dnorm, dweight
        )
    }
    if torch is not None:
        th = torch.from_numpy(h[0, :, 0].T.astype(np.float32)).requires_grad_()
        tn, tw = (torch.from_numpy(p.copy()).requires_grad_() for p in (norm, weight))
        tt = torch.from_numpy(targets[0].astype(np.int64))

        def step() -> float:
            th.grad = None
            x = torch.nn.functional.rms_norm(th, (c,), tn, 1e-5)
            loss = torch.nn.functional.cross_entropy(x @ tw.T, tt, reduction="sum")
            loss.backward()  # adds into the parameters' gradients, as ours does
            return float(loss.detach())

        variants["torch"] = step
    report(f"head V={v} C={c} and grad", 6.0 * v * c * TOKENS, alternate(variants, rounds, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=_C.threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["products", "head"])
    args = parser.parse_args()
    _C.set_threads(args.threads)
    try:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(args.threads)
    except ImportError:
        torch = None
        print("PyTorch is not installed: no ratios.")
    print(f"{_C.gemm_isa()}, {args.threads} threads, {TOKENS} tokens")
    if args.only != "head":
        products(torch, args.rounds)
    if args.only != "products":
        head(torch, args.rounds)


if __name__ == "__main__":
    main()

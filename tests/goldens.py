"""The goldens in tests/data: a tiny model, and what it computes in float64.

`python -m tests.goldens` writes them anew. Losses and gradients are reference.py's, which shares no
code with the package; AdamW is written out here (Loshchilov and Hutter 2019, algorithm 2). The
model was drawn by seed and trained by the same float64 code on the built-in stories, byte by byte.
Files: model.bin (llama2.c's legacy format) and golden.npz with x, y (int32 [B, S]), loss (mean),
nll [B, S], logits_last [B, V], grad/NAME (of the mean loss), the losses, gradient norms and
settings of STEPS updates from there (steps/...), and a greedy text with the gap between the two
best logits of each choice (greedy/ids, greedy/gaps).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anefast.config import ModelConfig
from anefast.formats import llama2c
from anefast.stories import stories
from anefast.tokenizer import ByteTokenizer
from tests.reference import loss_and_grads

FOLDER = Path(__file__).with_name("data")
MODEL, GOLDEN = FOLDER / "model.bin", FOLDER / "golden.npz"
CONFIG = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=259, max_seq_len=96
)
B, S, TRAINED, STEPS = 2, 64, 150, 10
OPTIM = {"lr": 2e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
PROMPT = "Once upon a time there was a "

Arrays = dict[str, np.ndarray[Any, Any]]


def windows() -> Iterator[tuple[Any, Any]]:
    """x and y, int32 [B, S], from the stories one after the other."""
    tokenizer = ByteTokenizer()
    ids = [i for story in stories(5, 40) for i in tokenizer.encode(story.text)]
    for at in range(0, len(ids) - B * S - 1, B * S):
        piece = np.array(ids[at : at + B * S + 1], np.int32)
        yield piece[:-1].reshape(B, S), piece[1:].reshape(B, S)


def drawn() -> Arrays:
    """The first weights: normal, in float64."""
    rng = np.random.Generator(np.random.Philox(7))
    c, kv = CONFIG.dim, CONFIG.n_kv_heads * CONFIG.head_dim
    h = CONFIG.hidden_dim
    params: Arrays = {"tok_embeddings": 0.3 * rng.standard_normal((CONFIG.vocab_size, c))}
    for i in range(CONFIG.n_layers):
        for name, shape in {
            "attn.wq": (c, c), "attn.wk": (kv, c), "attn.wv": (kv, c), "attn.wo": (c, c),
            "ffn.w1": (h, c), "ffn.w2": (c, h), "ffn.w3": (h, c),
        }.items():  # fmt: skip
            params[f"layers.{i}.{name}"] = rng.standard_normal(shape) / np.sqrt(shape[1])
        for norm in ("attn.norm", "ffn.norm"):
            params[f"layers.{i}.{norm}"] = np.ones(c)
    return params | {"norm": np.ones(c)}


class AdamW:
    """Decoupled decay of matrices, moments with bias correction, gradients clipped by norm."""

    def __init__(self, params: Arrays) -> None:
        self.params, self.t = params, 0
        self.mean = {n: np.zeros_like(p) for n, p in params.items()}
        self.square = {n: np.zeros_like(p) for n, p in params.items()}

    def update(self, grads: Arrays) -> float:
        """One update in place. Returns the norm of the gradients before they were clipped."""
        self.t += 1
        o = OPTIM
        norm = float(np.sqrt(sum((g**2).sum() for g in grads.values())))
        shrink = min(1.0, o["clip"] / norm)
        for name, p in self.params.items():
            g, m, v = shrink * grads[name], self.mean[name], self.square[name]
            m[...] = o["beta1"] * m + (1 - o["beta1"]) * g
            v[...] = o["beta2"] * v + (1 - o["beta2"]) * g**2
            step = m / (1 - o["beta1"] ** self.t)
            step /= np.sqrt(v / (1 - o["beta2"] ** self.t)) + o["eps"]
            decay = o["weight_decay"] if p.ndim == 2 else 0.0
            p -= o["lr"] * (step + decay * p)
        return norm


def mean_loss(params: Arrays, x: Any, y: Any) -> tuple[float, Arrays, Any]:
    """The mean loss, its gradients, and the logits."""
    total, grads, logits = loss_and_grads(params, CONFIG, x, y)
    return total / y.size, {n: g / y.size for n, g in grads.items()}, logits


def trained() -> Arrays:
    """The model, rounded to what its file holds."""
    params = drawn()
    optim = AdamW(params)
    for _, (x, y) in zip(range(TRAINED), windows(), strict=False):
        optim.update(mean_loss(params, x, y)[1])
    return {n: p.astype(np.float32) for n, p in params.items()}


def golden(params: Arrays) -> Arrays:
    """What `params` compute, and what ten updates make of them."""
    exact = {n: p.astype(np.float64) for n, p in params.items()}
    batches = list(windows())[-STEPS:]
    x, y = batches[0]
    loss, grads, logits = mean_loss(exact, x, y)
    b, s = np.indices(y.shape)
    top = logits.max(-1, keepdims=True)
    log_sums = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    found: Arrays = {
        "x": x, "y": y, "loss": np.array(loss), "nll": log_sums - logits[b, s, y],
        "logits_last": logits[:, -1],
        **{f"grad/{n}": g.astype(np.float32) for n, g in grads.items()},
    }  # fmt: skip
    ids = ByteTokenizer().encode(PROMPT)
    gaps = []
    while len(ids) < CONFIG.max_seq_len:
        row = np.array([ids], np.int32)
        last = mean_loss(exact, row, row)[2][0, -1]
        second, first = np.sort(last)[-2:]
        gaps.append(first - second)
        ids.append(int(last.argmax()))
    found |= {"greedy/ids": np.array(ids, np.int32), "greedy/gaps": np.array(gaps)}
    optim, losses, norms = AdamW(exact), [], []
    for x, y in batches:
        loss, grads, _ = mean_loss(exact, x, y)
        losses.append(loss)
        norms.append(optim.update(grads))
    x, y = batches[0]
    after = mean_loss(exact, x, y)[0]
    return found | {
        "steps/x": np.stack([x for x, _ in batches]), "steps/y": np.stack([y for _, y in batches]),
        "steps/losses": np.array(losses), "steps/norms": np.array(norms),
        "steps/after": np.array(after),
    }  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    params = trained()
    llama2c.save(MODEL, CONFIG, params)
    np.savez_compressed(GOLDEN, **golden(params))


if __name__ == "__main__":
    main()

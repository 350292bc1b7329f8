"""A model small enough to train in milliseconds, behind the same interface as the real one.

It predicts a token from the one before by a table of logits, in NumPy. So the trainer, its files
and its signals can be tested without a device. Not a test: no assertion is made here.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np

from anefast.config import ModelConfig, TrainConfig
from anefast.data import open_data
from anefast.runtime.inspect.health import Counts, Report
from anefast.tokenizer import ByteTokenizer

DEVICE = SimpleNamespace(
    description="a table in NumPy", label="emulated", foreign=False, found="", surfaces="exact"
)


class NoCompiler:
    """Nothing to compile: never stale, never out of budget."""

    stale, per_update = False, 0
    budget = SimpleNamespace(guard=lambda limit, warn: nullcontext())

    def affords(self, updates=1):
        return True


class BigramHealth:
    """One tensor of one element, inf where the last micro-step was poisoned."""

    def __init__(self, step):
        self.step = step

    def overflows(self):
        return self.step.made - 1 in self.step.poison

    def look(self, params):
        return Report({"p": Counts(1, int(self.overflows()), 0, 0, 0, 0, 0.0)})


class BigramStep:
    def __init__(self, params, poison=()):
        self.params = self.trained = params
        self.grads = {n: np.zeros_like(p) for n, p in params.items()}
        self.unstored = None
        self.device, self.vocabulary = DEVICE, None
        self.poison = set(poison)  # micro-steps whose gradient overflows
        self.made = 0
        self.closed = False
        self.compiler = NoCompiler()
        self.health = BigramHealth(self)
        self._waiting = []

    def _losses(self, x, y):
        logits = self.params["tok_embeddings"][x.reshape(-1)] * self.params["norm"]
        logits = logits - logits.max(-1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        used = y.reshape(-1) >= 0
        nll = -logp[np.arange(len(logp)), np.maximum(y.reshape(-1), 0)]
        self.nll = nll.reshape(y.shape).astype(np.float32)
        return np.exp(logp), used, float(nll[used].sum(dtype=np.float64)), int(used.sum())

    def micro_step(self, x, y, loss_scale):
        p, used, loss, count = self._losses(x, y)
        p[np.arange(len(p)), np.maximum(y.reshape(-1), 0)] -= 1
        p[~used] = 0
        if self.made in self.poison:
            p[0, 0] = np.inf
        self.made += 1
        self._waiting.append((x.reshape(-1), (p * loss_scale).astype(np.float32)))
        return loss, count

    def starved(self):
        return False

    def largest(self):
        return 0.0

    def end_update(self):
        self.wait()

    def wait(self):
        for rows, d in self._waiting:
            np.add.at(self.grads["tok_embeddings"], rows, d)
        self._waiting.clear()

    def evaluate(self, x, y):
        return self._losses(x, y)[2:]

    def report(self):
        return {}

    def slowness(self):
        return ""

    def begin_update(self):
        for g in self.grads.values():
            g.fill(0)

    def update_weights(self, every=False):
        pass

    def settle(self):
        pass

    def close(self):
        self.closed = True


class BigramModel:
    lora = None

    def __init__(self, seed=0, poison=()):
        self.tokenizer = ByteTokenizer()
        v = self.tokenizer.vocab_size
        self.config = ModelConfig(
            dim=v + 1, n_layers=1, n_heads=1, vocab_size=v, max_seq_len=64, hidden_dim=32
        )
        rng = np.random.default_rng(seed)
        self.params = {
            "tok_embeddings": (rng.standard_normal((v, v)) * 0.02).astype(np.float32),
            "norm": np.ones(v, np.float32),
        }
        self.poison = poison

    def training_step(self, **options):
        return BigramStep(self.params, self.poison)

    def prompt_ids(self, prompt):
        return self.tokenizer.encode(prompt)

    def stream(self, prompt="", tokens=8, temperature=0.8, seed=0, device=None, ends=()):
        return iter(self.tokenizer.encode(".", bos=False) * tokens)


def settings(out, **changes) -> TrainConfig:
    """Twenty updates of three micro-batches each."""
    nested = {
        "data": {"source": "stories:30", "seq_len": 32, "batch": 2, "seed": 0},
        "optim": {"lr": 0.1, "warmup_steps": 3, "accumulation": 3},
        "loss_scale": {"growth_interval": 4},
    }
    for name in nested:
        nested[name] |= changes.pop(name, {})
    plain = {"steps": 20, "eval_every": 5, "eval_batches": 2, "out": str(out), **changes}
    plain = {"plan": "unfused", **plain}  # a table has no programs to plan
    return TrainConfig.from_preset("bytes", **nested, **plain)


def data():
    return open_data("stories:30", "bytes")

"""PyTorch training what a config says: the same weights, batches, schedule, AdamW and clipping.

The model is peer.py's Llama, with an adapter of LoRA beside it where the config has one. It is the
judge of learning curves, not of speed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from anefast.config import TrainConfig
from anefast.model import Model
from anefast.models.adapter import A, B
from anefast.opening import batches_of, with_lora, with_optimiser
from anefast.optim import learning_rate
from anefast.origins import model_and_data
from anefast.wishes import wishes_of
from benchmarks.peer import logits_of, rope_tables

# By how much of itself: a last bit of fp32, and about what a rounding to fp16 changes.
MOVED = {"nudged": 1e-6, "moved": 3e-4}
SCALE = 64.0  # of the sum of a micro-batch's losses, where values are fp16


def move(model: Model, by: float, seed: int) -> None:
    """Moves each weight by a normal number times `by` of itself."""
    rng = np.random.default_rng(seed)
    for array in {id(a): a for a in model.params.values()}.values():  # a tied one has two names
        array *= 1 + by * rng.standard_normal(array.shape)


class Twin:
    """One run. way: `torch fp32`, `torch bf16` (autocast), `emulated fp16`, or one of `MOVED`: fp32
    from weights that are moved. model: what to begin from, in place of the config's."""

    def __init__(
        self, config: TrainConfig, way: str, threads: int = 1, model: Model | None = None
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.way = torch, way
        wishes, say = wishes_of(config, {"optim.lr"}), lambda line: None
        config = config.replace(optim=with_optimiser(config, wishes, say, None))
        config, model, self.data = model_and_data(config, model, None, None, wishes)
        config = config.replace(optim=with_lora(config, model, None, wishes, say))
        self.config, self.shape, lora = config, model.config, model.lora
        if way in MOVED:
            move(model, MOVED[way], config.seed)

        def taken(arrays: Any, trains: bool) -> dict[str, Any]:
            return {n: torch.tensor(a.copy(), requires_grad=trains) for n, a in arrays.items()}

        self.weights = taken(model.params, lora is None)
        if self.shape.tied:
            self.weights.pop("output", None)
        self.pairs = taken(lora.plain(lora.params), True) if lora is not None else {}
        self.scale = lora.scale if lora is not None else 0.0
        self.trained = self.pairs or self.weights
        self.tables = rope_tables(torch, self.shape, config.data.seq_len)
        if config.optim.name != "adamw":
            raise SystemExit(f"expected a config with adamw, got {config.optim.name}")
        o, matrices = config.optim, [w for w in self.trained.values() if w.ndim >= 2]
        groups = [
            {"params": matrices, "weight_decay": o.weight_decay},
            {"params": [w for w in self.trained.values() if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps)

    def run(self) -> tuple[list[float], dict[int, float]]:
        """The losses of all updates, and the validation losses by update; nats per token."""
        c, torch = self.config, self.torch
        batches, n = batches_of(c, self.data), c.optim.accumulation
        rounds = self.way == "emulated fp16"
        losses, val = [], {0: self.validate()}
        for step in range(1, c.steps + 1):
            self.adamw.zero_grad(set_to_none=True)
            total, tokens = 0.0, 0
            for micro in range(n):
                loss, count = self.loss(*batches.batch((step - 1) * n + micro))
                with self.cast() if rounds else nullcontext():
                    (loss * SCALE).backward()
                total, tokens = total + float(loss.detach()), tokens + count
            for w in self.trained.values():
                w.grad /= SCALE * tokens
            torch.nn.utils.clip_grad_norm_(list(self.trained.values()), c.optim.clip)
            for group in self.adamw.param_groups:
                group["lr"] = learning_rate(c.optim, step, c.steps, c.schedule)
            self.adamw.step()
            losses.append(total / tokens)
            if step == c.steps or (c.eval_every and step % c.eval_every == 0):
                val[step] = self.validate()
        return losses, val

    def loss(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, int]:
        """The sum of the losses of a batch, and of how many tokens it is."""
        torch = self.torch
        tx, ty = (torch.tensor(t, dtype=torch.int64) for t in (x, y))
        weights = self.weights | self.tables
        for name in {n.removesuffix(A) for n in self.pairs if n.endswith(A)}:
            product = self.pairs[name + B] @ self.pairs[name + A]
            weights[name] = weights[name] + self.scale * product
        with self.cast():
            logits = logits_of(torch, weights, self.shape, tx)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), ty.flatten(), ignore_index=-1, reduction="sum"
        ), int((y >= 0).sum())

    def validate(self) -> float:
        c = self.config
        pairs = self.data.validation_batches(c.data.batch, c.data.seq_len, c.eval_batches)
        with self.torch.no_grad():
            sums = [self.loss(x, y) for x, y in pairs]
        return sum(float(loss) for loss, _ in sums) / sum(n for _, n in sums)

    def cast(self) -> AbstractContextManager[Any]:
        if self.way == "emulated fp16":
            return rounding(self.torch)
        bf16 = self.way == "torch bf16"
        return self.torch.autocast("cpu", self.torch.bfloat16) if bf16 else nullcontext()


def rounding(torch: Any) -> Any:
    """A mode in which each operation gives fp16 values, kept in fp32: fp16 with fp32 sums.

    Weights' gradients stay fp32, as ours do, and so do the norms' statistics, one of a position.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Rounding(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, call: Any, kinds: Any, args: Any = (), named: Any = None):
            out = call(*args, **(named or {}))
            schema = call._schema
            if schema.is_mutable or any(r.alias_info is not None for r in schema.returns):
                return out  # a view, or an accumulator
            return tuple(map(rounded, out)) if isinstance(out, tuple) else rounded(out)

    def rounded(value: Any) -> Any:
        is_one = torch.is_tensor(value) and value.dtype is torch.float32 and value.ndim > 2
        return value.half().float() if is_one and value.shape[-1] > 1 else value

    return Rounding()

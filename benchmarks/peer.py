"""The peer: the same Llama in PyTorch, as its users would write it for speed.

Tied embedding, RMSNorm and attention from torch.nn.functional, AdamW fused. Modes are eager fp32,
torch.compile in fp32 and torch.compile under bf16 autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anefast.config import ModelConfig

MODES = {"eager fp32": (False, False), "compile fp32": (True, False), "compile bf16": (True, True)}


def logits_of(torch: Any, p: dict[str, Any], config: ModelConfig, x: Any) -> Any:
    """Logits [B, S, V] of int64 tokens [B, S]."""
    F = torch.nn.functional
    batch, seq = x.shape
    size = config.head_dim

    def heads(t: Any, w: Any, n: int) -> Any:
        return F.linear(t, w).view(batch, seq, n, size)

    def rotate(t: Any) -> Any:
        even, odd = t.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = p["cos"][:seq, None], p["sin"][:seq, None]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
        return turned.flatten(-2).type_as(t).transpose(1, 2)

    h = p["tok_embeddings"][x]
    for i in range(config.n_layers):
        a, f = f"layers.{i}.attn.", f"layers.{i}.ffn."
        t = F.rms_norm(h, (config.dim,), p[a + "norm"], config.norm_eps)
        q = rotate(heads(t, p[a + "wq"], config.n_heads))
        k = rotate(heads(t, p[a + "wk"], config.n_kv_heads))
        v = heads(t, p[a + "wv"], config.n_kv_heads).transpose(1, 2)
        grouped = config.n_kv_heads < config.n_heads
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        h = h + F.linear(o.transpose(1, 2).reshape(batch, seq, -1), p[a + "wo"])
        t = F.rms_norm(h, (config.dim,), p[f + "norm"], config.norm_eps)
        h = h + F.linear(F.silu(F.linear(t, p[f + "w1"])) * F.linear(t, p[f + "w3"]), p[f + "w2"])
    h = F.rms_norm(h, (config.dim,), p["norm"], config.norm_eps)
    return F.linear(h, p["tok_embeddings"])


def rope_tables(torch: Any, config: ModelConfig, length: int) -> dict[str, Any]:
    """cos and sin of each position [length, head_dim / 2]."""
    every = np.arange(0, config.head_dim, 2) / config.head_dim
    turn = np.outer(np.arange(length), config.rope_theta**-every)
    return {
        name: torch.tensor(f(turn), dtype=torch.float32)
        for name, f in (("cos", np.cos), ("sin", np.sin))
    }


class Peer:
    """One mode. `step` trains on a micro-batch and updates; `forward` gives logits only."""

    def __init__(
        self, torch: Any, mode: str, config: ModelConfig, params: dict[str, Any], threads: int
    ) -> None:
        compiled, self.bf16 = MODES[mode]
        torch.set_num_threads(threads)
        self.torch, self.config = torch, config
        self.params = {
            k: torch.tensor(v, requires_grad=True) for k, v in params.items() if k != "output"
        }
        self.tables = rope_tables(torch, config, config.max_seq_len)
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=1e-4, fused=True)

        def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
            logits = logits_of(torch, p, config, x)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

        def forward(p: dict[str, Any], x: Any) -> Any:
            return logits_of(torch, p, config, x)

        wrap: Callable[[Any], Any] = torch.compile if compiled else lambda f: f
        self._loss, self._forward = wrap(loss), wrap(forward)

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Forward, backward and AdamW on int32 [B, S]. Returns the mean loss."""
        tx, ty = (self.torch.tensor(t, dtype=self.torch.int64) for t in (x, y))
        self.optimizer.zero_grad(set_to_none=True)
        with self._cast():
            loss = self._loss(self.params | self.tables, tx, ty)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def forward(self, x: np.ndarray) -> Any:
        with self.torch.no_grad(), self._cast():
            return self._forward(
                self.params | self.tables, self.torch.tensor(x, dtype=self.torch.int64)
            )

    def _cast(self) -> Any:
        return self.torch.autocast("cpu", dtype=self.torch.bfloat16, enabled=self.bf16)

"""The model's part of the settings: its family, its shape and its constants."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from anefast.checks import Checked, need
from anefast.config.limits import need_size

DERIVED = ("n_kv_heads", "head_dim", "hidden_dim", "vocab_size")  # of a model, where they are 0


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The model's shape."""

    family: str = "llama"  # One of FAMILIES (Mistral is a llama).
    dim: int = 128  # Width C of the residual stream.
    n_layers: int = 3  # Number of layers.
    n_heads: int = 4  # Query heads.
    # Key/value heads, each read by n_heads / n_kv_heads query heads. 0: the same as n_heads.
    n_kv_heads: int = 0
    head_dim: int = 0  # Size of one head, even. 0: dim // n_heads.
    hidden_dim: int = 0  # Width of the feed-forward. 0: 8/3 of dim, up to a multiple of 32.
    vocab_size: int = 0  # Rows of the embedding. 0: as many as the tokenizer has.
    max_seq_len: int = 256  # Longest sequence the model is meant for.
    rope_theta: float = 10000.0  # Base of the rotary frequencies.
    # Slower rotary frequencies for longer contexts: "linear:FACTOR",
    # "llama3:FACTOR,LOW,HIGH,LENGTH" as in Llama 3.1, "divisors:D0,D1,..." with one number per pair
    # of channels; empty: none.
    rope_scaling: str = ""
    sliding_window: int = 0  # Positions a query reads, its own included. 0: its own and all before.
    attention_bias: bool = False  # Biases on wq, wk, wv and wo, in the llama family.
    mlp_bias: bool = False  # Biases on w1, w2 and w3, in the llama family.
    norm_eps: float = 1e-5  # Epsilon inside RMSNorm and LayerNorm.
    tied: bool = True  # Classifier shares the embedding's weights.
    residual_scale: float = 1.0  # Multiplies attention and FFN outputs, e.g. 1/sqrt(2 * layers).
    init_std: float = 0.02  # Standard deviation of the initial weights.
    # The device stores the residual stream times this power of two, so that it stays within fp16.
    stream_scale: float = 1.0

    def _check(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, name)
            need(
                value >= 1, f"model.{name} must be at least 1, got {value}", "give a positive size"
            )
            need_size(f"model.{name}", value)
        for name in (*DERIVED, "sliding_window"):
            value = getattr(self, name)
            need(value >= 0, f"model.{name} must not be negative, got {value}", "0 derives it")
            need_size(f"model.{name}", value)
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.head_dim == 0:
            need(
                self.dim % self.n_heads == 0,
                f"model.dim {self.dim} is not divisible by model.n_heads {self.n_heads}",
                f"use {_divisors(self.dim)} heads, or set model.head_dim",
            )
            object.__setattr__(self, "head_dim", self.dim // self.n_heads)
        if self.hidden_dim == 0:
            object.__setattr__(self, "hidden_dim", _default_hidden(self.dim))
        need(
            self.head_dim % 2 == 0,
            f"model.head_dim {self.head_dim} is odd, and RoPE turns pairs of channels",
            "choose dim and n_heads so that dim / n_heads is even",
        )
        need(
            self.n_heads % self.n_kv_heads == 0,
            f"model.n_heads {self.n_heads} is not divisible by model.n_kv_heads {self.n_kv_heads}",
            f"use {_divisors(self.n_heads)} key/value heads",
        )
        need(
            self.vocab_size != 1,
            "model.vocab_size must be at least 2, got 1",
            "0 asks the tokenizer",
        )
        for name in ("rope_theta", "norm_eps", "residual_scale"):
            value = getattr(self, name)
            need(
                0 < value < float("inf"),
                f"model.{name} must be positive, got {value}",
                "see --help",
            )
        _check_rope_scaling(self.rope_scaling, self.head_dim)
        need(
            0 <= self.init_std < float("inf"),
            f"model.init_std must be finite and not negative, got {self.init_std}",
            "0.02 is usual",
        )
        need(
            0 < self.stream_scale <= 1 and math.frexp(self.stream_scale)[0] == 0.5,
            f"model.stream_scale must be 1 or a half, a quarter..., got {self.stream_scale}",
            "1 suits every model whose activations stay below 16384",
        )

    @property
    def stream_eps(self) -> float:
        """The epsilon of a norm that reads the residual stream as the device keeps it."""
        return self.norm_eps * self.stream_scale**2

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; sizes that were derived are derived again."""
        self._known(changes)
        return ModelConfig(**{**model_settings(self), **changes})


def _check_rope_scaling(scaling: str, head_dim: int) -> None:
    kind, _, rest = scaling.partition(":")
    counts = {"linear": 1, "llama3": 4, "divisors": head_dim // 2}
    try:
        values = [float(v) for v in rest.split(",")] if scaling else []
    except ValueError:
        values = []
    good = len(values) == counts.get(kind) and all(0 < v < float("inf") for v in values)
    if kind == "llama3" and good:
        good = values[1] < values[2]
    need(
        not scaling or good,
        f"model.rope_scaling must be empty, linear:FACTOR, llama3:FACTOR,LOW,HIGH,LENGTH or "
        f"divisors: and {head_dim // 2} numbers, got {scaling!r}",
        "llama3:8,1,4,8192 is Llama 3.1's",
    )


def _default_hidden(dim: int) -> int:
    return (8 * dim // 3 + 31) // 32 * 32


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 64) + 1) if n % d == 0)


def model_settings(model: ModelConfig) -> dict[str, Any]:
    """The fields of a model config, with sizes that equal their derived value given back as 0."""
    values = dataclasses.asdict(model)
    if model.n_kv_heads == model.n_heads:
        values["n_kv_heads"] = 0
    if model.head_dim * model.n_heads == model.dim:
        values["head_dim"] = 0
    if model.hidden_dim == _default_hidden(model.dim):
        values["hidden_dim"] = 0
    return values

"""The record of a model family, which everybody else reads.

A family says which parameters it has, what its layers compute, how the CPU embeds tokens and ends
the model, and where its weights are in files of others. Nothing outside a family's own file asks
for its name. Adding one takes its file and a line in `families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from anefast import ir
from anefast.config import ModelConfig
from anefast.models.foreign import GGUFNames, HuggingFace
from anefast.models.layers import Past

Init = Literal["normal", "residual", "ones", "zeros"]


class Parameter(NamedTuple):
    """init: normal(0, init_std); residual: the same, narrower by sqrt(2 L), for matrices that write
    to the residual stream (Radford et al. 2019, section 2.3)."""

    shape: tuple[int, ...]
    init: Init = "normal"


@dataclass(frozen=True)
class Family:
    """parameters: by name, in the order of all files. trunk: [B, C, 1, S] -> the same shape.

    positions: the table of learned positions [max_seq_len, C] that the CPU adds to the embedding;
    "" where positions are rotations. norm_bias: the bias of the final norm, which is then a
    LayerNorm; "" for an RMSNorm. hugging_face, gguf: None where no such file holds the family.
    """

    name: str
    parameters: Callable[[ModelConfig], Mapping[str, Parameter]]
    trunk: Callable[[ir.Tensor, ModelConfig, Past | None], ir.Tensor]
    positions: str = ""
    norm_bias: str = ""
    hugging_face: HuggingFace | None = None
    gguf: GGUFNames | None = None

    @property
    def rotary(self) -> bool:
        """True if attention rotates queries and keys."""
        return not self.positions

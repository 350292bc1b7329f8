"""Weight gradients that are never stored: made of their taps where the optimiser needs them.

Where an update is one micro-step and no clipping asks for the whole norm first, a gradient's only
reader is the update. It then multiplies a panel of rows, uses it and forgets it: under AdamW a
weight costs 12 bytes of fp32 instead of 16. The price is that these products begin when the device
is done instead of beside it. The classifier's gradient flows where one block of its tokens is all
there are; of more, too many logits would have to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.models import Params
from anefast.runtime.device import Surface

Array = npt.NDArray[np.float32]


class UnstoredGradients:
    """Of the weights (Co, Ci) that `names` lists.

    taps: surfaces of dy (B, Co, 1, S) and x (B, Ci, 1, S) by the name of a weight. head: the name
    of the classifier's weight, if `head_flows`; `native` then goes to head_loss_grad.
    """

    def __init__(
        self,
        params: Params,
        taps: Mapping[str, tuple[Surface, Surface]],
        head: str | None,
        batch: int,
        seq: int,
    ) -> None:
        self.names = [*taps, *([head] if head else [])]
        self.native = _C.UnstoredGradients(batch, seq)
        for name, (dy, x) in taps.items():
            self.native.add(dy.native, x.native, *params[name].shape)

    def finite(self) -> bool:
        """Whether every tap is, and with them the gradients: products of halves fit an fp32 sum."""
        return self.native.finite()

    def update(
        self,
        rule: _C.UpdateRule,
        weights: list[Array],
        states: list[list[Array]],
        rates: list[float],
        decays: list[float],
    ) -> float:
        """One update of all of them, in place; all lists, and each of the states, as `names`.

        Returns the sum of squares of the gradients, as they are: loss scale and all.
        """
        return self.native.update(rule, weights, states, rates, decays)


def head_flows(tokens: int, vocabulary: int) -> bool:
    """Whether a micro-step is one block of the classifier's, whose logits may be kept."""
    return tokens <= _C.HEAD_TOKENS and tokens * vocabulary <= _C.HEAD_KEPT

"""Weight gradients that are never stored: made of their taps where the optimiser needs them.

Where an update is one micro-step and no clipping asks for the whole norm first, a gradient's only
reader is AdamW. It then multiplies a panel of rows, uses it and forgets it: a layer's weights cost
12 bytes of fp32 each instead of 16. The price is that these products begin when the device is done
instead of beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.runtime.device import Surface

Arrays = Sequence[npt.NDArray[np.float32]]


class Flow:
    """taps: surfaces of dy (B, Co, 1, S) and x (B, Ci, 1, S) by the name of a weight (Co, Ci)."""

    def __init__(self, taps: Mapping[str, tuple[Surface, Surface]], batch: int, seq: int) -> None:
        self.names = list(taps)
        self._taps = list(taps.values())
        self._shape = (batch, seq)

    def finite(self) -> bool:
        """Whether every tap is, and with them the gradients: products of halves fit an fp32 sum."""
        for surface in dict.fromkeys(s for pair in self._taps for s in pair):
            with surface.read() as data:
                if _C.half_overflows(data):
                    return False
        return True

    def update(
        self, weights: Arrays, means: Arrays, squares: Arrays, decays: list[float], *rule: float
    ) -> float:
        """AdamW of all of them, `names` in order, in place. rule: as `_C.adamw` takes it.

        Returns the sum of squares of the gradients, as they are: loss scale and all.
        """
        dys, xs = ([pair[i].native for pair in self._taps] for i in (0, 1))
        return _C.adamw_of_taps(weights, means, squares, decays, dys, xs, *self._shape, *rule)

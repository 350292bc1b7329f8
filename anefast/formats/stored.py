"""A tensor in a file: what is known of it without reading it, and how it is read.

Readers list these; a loader asks for the values of one at a time, so that loading
holds one tensor beyond the weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stored:
    """shape: as NumPy has it, [out, in] for matrices. dtype: as the format calls it, such as BF16.

    nbytes: in the file. read: its values in fp32, in memory of their own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    read: Callable[[], Array] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


Tensors = Mapping[str, Stored]


def bf16_to_fp32(raw: npt.NDArray[np.uint16]) -> Array:
    """bf16 bits as fp32, exact.

    >>> bf16_to_fp32(np.array([0x3f80, 0xc000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    bits = raw.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def fp32_to_bf16(values: Array) -> npt.NDArray[np.uint16]:
    """The nearest bf16 of each value, ties to even; a NaN stays one.

    >>> [hex(x) for x in fp32_to_bf16(np.array([1.0, 1 + 2**-8], np.float32))]
    ['0x3f80', '0x3f80']
    """
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)

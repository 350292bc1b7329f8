"""Block-quantised numbers of GGUF files, turned into fp32.

A row of numbers is a row of blocks, each with a scale or two and small integers. Layouts: ggml,
ggml-quants.h and `gguf.quants`, with whose results these agree bit for bit (tests/test_formats.py).
Every function takes blocks, [n, bytes] uint8, and gives [n, numbers] fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anefast.mapped import let_go

from .stored import Array, Bytes, bf16_to_fp32

Ints = npt.NDArray[np.uint8]


class Kind(NamedTuple):
    """The block layout of a type in a file: how many numbers are in how many bytes."""

    name: str
    numbers: int
    nbytes: int
    to_fp32: Callable[[Bytes], Array]


def _half(blocks: Bytes, at: int) -> Array:
    """A column of fp16 scales, [n, 1]."""
    column: Array = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)
    return column


def _nibbles(packed: Bytes) -> Ints:
    """[n, k] bytes -> [n, 2 k]: all low halves, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: Bytes, at: int) -> Ints:
    """32 bits of a block, each as 16 where it is set."""
    bits: Ints = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits * np.uint8(16)


def _q4_0(b: Bytes) -> Array:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Array:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5_0(b: Bytes) -> Array:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Array:
    q = _nibbles(b[:, 8:]) | _fifth_bits(b, 4)
    return _half(b, 0) * q.astype(np.float32) + _half(b, 2)


def _q8_0(b: Bytes) -> Array:
    return _half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _scales(packed: Bytes) -> tuple[Ints, Ints]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes: [n, 12] -> two [n, 8]."""
    d, m, md = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([d & 63, (md & 15) | ((d >> 2) & 48)], axis=1)
    least = np.concatenate([m & 63, (md >> 4) | ((m >> 2) & 48)], axis=1)
    return scale, least


def _eights(b: Bytes, q: Ints) -> Array:
    """Blocks of eight runs of 32, each with its own scale and minimum. q: [n, 8, 32]."""
    scale, least = _scales(b[:, 4:16])
    d = _half(b, 0) * scale.astype(np.float32)
    m = _half(b, 2) * least.astype(np.float32)
    values: Array = d[:, :, None] * q.astype(np.float32) - m[:, :, None]
    return values.reshape(len(b), 256)


def _runs(packed: Bytes) -> Ints:
    """128 bytes -> [n, 8, 32]: each 32 bytes hold two runs, low halves first."""
    four = packed.reshape(len(packed), 4, 32)
    return np.stack([four & 15, four >> 4], axis=2).reshape(len(packed), 8, 32)


def _q4_k(b: Bytes) -> Array:
    return _eights(b, _runs(b[:, 16:]))


def _q5_k(b: Bytes) -> Array:
    run = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (b[:, None, 16:48] >> run & 1).astype(np.uint8)
    return _eights(b, _runs(b[:, 48:]) | fifth * np.uint8(16))


def _q6_k(b: Bytes) -> Array:
    n = len(b)
    low = b[:, :128].reshape(n, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1) & 15
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    high = b[:, 128:192].reshape(n, 2, 1, 32) >> shifts & 3
    q = low.reshape(n, 2, 4, 32) | (high << 4)
    signed = q.reshape(n, 16, 16).astype(np.float32) - 32
    scale = _half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)
    values: Array = scale[:, :, None] * signed
    return values.reshape(n, 256)


def _plain(dtype: str) -> Callable[[Bytes], Array]:
    return lambda b: np.ascontiguousarray(b).view(dtype).astype(np.float32)


KINDS = {
    0: Kind("F32", 1, 4, _plain("<f4")),
    1: Kind("F16", 1, 2, _plain("<f2")),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    30: Kind("BF16", 1, 2, lambda b: bf16_to_fp32(np.ascontiguousarray(b).view("<u2"))),
}
PLAIN = {kind.name: kind for kind in KINDS.values() if kind.numbers == 1}
# Types that exist and are not read, for the message.
OTHERS = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def dequantised(raw: Bytes, kind: Kind, count: int) -> Array:
    """`count` numbers from their bytes, converted in pieces to save memory."""
    blocks = raw.reshape(-1, kind.nbytes)
    values = np.empty(count, np.float32)
    table = values.reshape(-1, kind.numbers)
    step = max(1, (1 << 20) // kind.numbers)
    with np.errstate(invalid="ignore", over="ignore"):  # a scale that is no number stays one
        for at in range(0, len(blocks), step):
            part = blocks[at : at + step]
            table[at : at + step] = kind.to_fp32(part)
            let_go(part)
    return values

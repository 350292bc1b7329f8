"""The weight file of a program: what lies where, and filling it with today's weights.

A layout is made with the text and never changes; training calls `fill` after every update, which
rewrites only the parameters' bytes, in one buffer kept for the purpose. The file format itself is
csrc/blob.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PATH = "@model_path/weights/weight.bin"
ROUNDS_TO_INF = 65520.0  # the smallest float that fp16 rounds to infinity

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """One fp16 tensor of the file: a constant's own bytes, or a parameter by name.

    `shape` is the parameter's own, before `transposed` swaps its first two axes.
    """

    parameter: str | None
    shape: tuple[int, ...]
    transposed: bool = False
    data: npt.NDArray[np.float16] | None = None

    @property
    def nbytes(self) -> int:
        return 2 * int(np.prod(self.shape, dtype=np.int64))


class BlobLayout:
    """Entries in file order. `offsets[i]` is what BLOBFILE names for entry i."""

    def __init__(self, entries: list[Entry]) -> None:
        from anefast import _C

        self.entries = tuple(entries)
        self.path = PATH
        sizes = [e.nbytes for e in entries]
        self.offsets, self.data_offsets, self.nbytes = (
            _C.blob_layout(sizes) if sizes else ([], [], 0)
        )
        self._file: Bytes | None = None

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters baked in, each once, in file order."""
        return list(dict.fromkeys(e.parameter for e in self.entries if e.parameter is not None))

    def fill(self, weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, Bytes]:
        """{path: file} with these weights, rounded to fp16; {} where the program has no file.

        weights: fp32 by name, of the parameter's shape but for axes of size 1. The buffer is
        reused: what the last call returned changes. Raises KeyError for a missing weight,
        ValueError for a wrong shape, OverflowError naming a parameter that fp16 cannot hold.
        """
        if not self.entries:
            return {}
        file = self._file if self._file is not None else self._blank()
        for entry, at in zip(self.entries, self.data_offsets, strict=True):
            if entry.parameter is not None:
                write(file[at : at + entry.nbytes].view(np.float16), entry, weights)
        self._file = file
        return {self.path: file}

    def release(self) -> None:
        """Lets go of the buffer; the next `fill` makes another."""
        self._file = None

    def _blank(self) -> Bytes:
        """Headers, records and constants; zeros where parameters go."""
        from anefast import _C

        file = np.zeros(self.nbytes, np.uint8)
        _C.blob_write_records(file, [e.nbytes for e in self.entries])
        for entry, at in zip(self.entries, self.data_offsets, strict=True):
            if entry.data is not None:
                file[at : at + entry.nbytes].view(np.float16)[:] = entry.data.reshape(-1)
        return file

    def __repr__(self) -> str:
        n = len(self.parameters)
        return f"BlobLayout({len(self.entries)} tensors, {n} parameters, {self.nbytes} bytes)"


def write(
    out: npt.NDArray[np.float16], entry: Entry, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Rounds one weight to fp16 into `out` [elements]; raises as `BlobLayout.fill`."""
    from anefast import _C

    name = entry.parameter or ""
    if name not in weights:
        raise KeyError(f"[fill] expected a weight {name!r}, got {len(weights)} others.")
    w = np.ascontiguousarray(weights[name], dtype=np.float32)
    if [d for d in w.shape if d != 1] != [d for d in entry.shape if d != 1]:
        raise ValueError(f"[fill] expected {name} of {list(entry.shape)}, got {list(w.shape)}.")
    if not (-ROUNDS_TO_INF < w.min() and w.max() < ROUNDS_TO_INF):  # also where there is a nan
        count = int(np.count_nonzero(~(np.abs(w) < ROUNDS_TO_INF)))
        raise OverflowError(
            f"[fill] expected {name} within fp16's 65504, got {count} of {w.size} values that are "
            "not. Hint: the run has diverged; lower the learning rate or clip gradients"
        )
    if entry.transposed:
        rows, columns = entry.shape[:2]
        _C.half_from_floats_transposed(w.reshape(rows, columns), out.reshape(columns, rows))
    else:
        _C.half_from_floats(w.reshape(-1), out)

"""The weight file of a program: what lies where, and filling it with today's weights.

A layout is made with the text and never changes; training calls `fill` after every update, which
rewrites only the parameters' bytes, in one buffer kept for the purpose. The file format itself is
csrc/blob.c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PATH = "@model_path/weights/weight.bin"

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
Singles = npt.NDArray[np.float32]
AT_ONCE = 1 << 23  # numbers in fp32: weights may be read from their file for this alone


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
        write(
            [
                (entry, file[at : at + entry.nbytes].view(np.float16))
                for entry, at in zip(self.entries, self.data_offsets, strict=True)
                if entry.parameter is not None
            ],
            weights,
        )
        self._file = file
        return {self.path: file}

    def release(self) -> None:
        """Frees the buffer; the next `fill` makes another."""
        self._file = None

    def _blank(self) -> Bytes:
        """Headers, records and constants; zeros where parameters go."""
        from anefast import _C

        file = np.zeros(self.nbytes, np.uint8)
        _C.blob_write_records(file, [e.nbytes for e in self.entries])
        for entry, at in zip(self.entries, self.data_offsets, strict=True):
            if entry.data is not None:
                tensor = file[at : at + entry.nbytes].view(np.float16).reshape(entry.data.shape)
                tensor[...] = entry.data
        return file

    def __repr__(self) -> str:
        n = len(self.parameters)
        return f"BlobLayout({len(self.entries)} tensors, {n} parameters, {self.nbytes} bytes)"


def halves(weights: Mapping[str, npt.NDArray[Any]], name: str) -> Halves:
    """One weight rounded to fp16, of its own shape; raises as `BlobLayout.fill`."""
    master = weights[name]
    out = np.empty(master.shape, np.float16)
    write([(Entry(name, master.shape), out.reshape(-1))], {name: master})
    return out


def write(jobs: Sequence[tuple[Entry, Halves]], weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Rounds each entry's weight to fp16 into its array [elements]; raises as `BlobLayout.fill`.

    After an OverflowError some arrays are written, with infinities for what was too large.
    """
    begin = 0
    while begin < len(jobs):
        masters = [_master(jobs[begin][0], weights)]
        while (end := begin + len(masters)) < len(jobs) and sum(m.size for m in masters) < AT_ONCE:
            masters.append(_master(jobs[end][0], weights))
        _round(jobs[begin:end], masters)
        begin = end


def _round(jobs: Sequence[tuple[Entry, Halves]], masters: Sequence[Singles]) -> None:
    from anefast import _C

    outs, transposed = [out for _, out in jobs], [entry.transposed for entry, _ in jobs]
    lost = _C.round_weights(masters, outs, transposed)
    for (entry, _), master, count in zip(jobs, masters, lost, strict=True):
        if count:
            raise OverflowError(
                f"[fill] expected {entry.parameter} within fp16's 65504, got {count} of "
                f"{master.size} values that are not. Hint: the run has diverged (lower the "
                "learning rate or clip gradients), or the model was not made for fp16"
            )


def _master(entry: Entry, weights: Mapping[str, npt.NDArray[Any]]) -> Singles:
    """The weight an entry names, as a matrix where the entry transposes it."""
    name = entry.parameter or ""
    if name not in weights:
        raise KeyError(f"[fill] expected a weight {name!r}, got {len(weights)} others.")
    w = np.ascontiguousarray(weights[name], dtype=np.float32)
    if [d for d in w.shape if d != 1] != [d for d in entry.shape if d != 1]:
        raise ValueError(f"[fill] expected {name} of {list(entry.shape)}, got {list(w.shape)}.")
    return w.reshape(entry.shape[:2]) if entry.transposed else w

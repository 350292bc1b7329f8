"""Token ids in one row, and what tells two such rows apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]
CHECK = 1 << 20  # ids checked at a time


class TokenStream:
    """Token ids in one row, kept in one or more arrays (memory maps of shards, say).

    len(stream) ids; stream.read(start, count) -> (count,) int32, a copy; stream.part(start, stop)
    -> TokenStream, not a copy.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        self._arrays = [a for a in arrays if len(a)]
        self._starts = np.cumsum([0, *(len(a) for a in self._arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, count: int) -> Ids:
        if not 0 <= start <= start + count <= len(self):
            raise IndexError(f"tokens {start}..{start + count} of a stream of {len(self)}")
        parts = [a[:0] for a in self._arrays[:1]]
        i = int(np.searchsorted(self._starts, start, side="right")) - 1
        while count:
            at = start - int(self._starts[i])
            parts.append(self._arrays[i][at : at + count])
            start, count, i = start + len(parts[-1]), count - len(parts[-1]), i + 1
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

    def part(self, start: int, stop: int) -> TokenStream:
        cuts = zip(self._arrays, self._starts.tolist(), strict=False)
        return TokenStream([a[max(0, start - s) : max(0, stop - s)] for a, s in cuts])


def fingerprint(*streams: TokenStream) -> str:
    """sha256 over the lengths and up to 4,096 spots of 16 ids in each stream."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{len(stream)};".encode())
        for at in range(0, len(stream), max(16, len(stream) // 4096)):
            digest.update(stream.read(at, min(16, len(stream) - at)).astype("<i4").tobytes())
    return digest.hexdigest()


def encode(documents: Iterable[str], tokenizer: Tokenizer) -> npt.NDArray[Any]:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    return np.concatenate([np.asarray(tokenizer.encode(d, bos=True), dtype) for d in documents])

"""Token ids in one row: made from documents a piece at a time, with a hash of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anefast.data.shards import Shard
from anefast.data.text import END, Piece
from anefast.tokenizer import Tokenizer
from anefast.tokenizer.base import Cuts

Ids = npt.NDArray[np.int32]
BLOCK = 1 << 20  # ids made, checked or hashed at a time
_IDS_AT_ONCE = 1 << 16  # kept as Python's integers until then
_ENCODED_AT_ONCE = 1 << 16  # characters, where a tokenizer says where it may be cut


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

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """All ids in order, in arrays of at most BLOCK; not copies."""
        for array in self._arrays:
            for start in range(0, len(array), BLOCK):
                yield array[start : start + BLOCK]

    def told(self) -> Iterator[npt.NDArray[Any]]:
        """The arrays that a fingerprint hashes."""
        return self.blocks()


def narrowest(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds every id of a tokenizer."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32


def encode(pieces: Iterable[Piece], tokenizer: Tokenizer) -> TokenStream:
    """The stream of documents: BOS before each, documents end to end.

    Memory is that of the ids and of a piece, where the tokenizer says where it may be cut; a
    document at a time where it does not.
    """
    dtype = narrowest(tokenizer)
    cuts = tokenizer if isinstance(tokenizer, Cuts) else None
    arrays: list[npt.NDArray[Any]] = []
    ids: list[int] = []
    begins = True
    for text in regrouped(pieces, cuts.cut if cuts is not None else None):
        if text is END:
            begins = True
            continue
        ids += (
            tokenizer.encode(text, bos=True) if begins or cuts is None else cuts.encode_rest(text)
        )
        begins = False
        if len(ids) >= _IDS_AT_ONCE:
            arrays.append(np.asarray(ids, dtype))
            ids = []
    return TokenStream([*arrays, np.asarray(ids, dtype)])


def regrouped(pieces: Iterable[Piece], cut: Callable[[str], int] | None) -> Iterator[Piece]:
    """Documents in pieces that end where `cut` allows it (see `Cuts`), whole ones without it."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        if piece is END:
            if held:
                yield "".join(held)
                yield END
            held, size = [], 0
            continue
        held.append(piece)
        size += len(piece)
        if cut is None or size < _ENCODED_AT_ONCE:
            continue
        text, at = "".join(held), 0
        while len(text) - at >= _ENCODED_AT_ONCE:
            length = cut(text[at : at + _ENCODED_AT_ONCE]) or cut(text[at:])
            if not length:
                break
            yield text[at : at + length]
            at += length
        held = [text[at:]]
        size = len(held[0])
        if size >= _ENCODED_AT_ONCE:  # nowhere to cut: ask again when there is twice as much
            size = -size
    if held:
        yield "".join(held)
        yield END


class Fingerprint:
    """sha256 over all ids of a training and a validation stream, however they lie in memory."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, ids: npt.NDArray[Any]) -> None:
        self._digest.update(np.ascontiguousarray(ids, "<u4").data)

    def of(self, training: int, validation: int) -> str:
        """The digest. training, validation: the number of ids of each part."""
        self._digest.update(f";{training};{validation}".encode())
        return self._digest.hexdigest()


def fingerprint(train: TokenStream, validation: TokenStream) -> str:
    found = Fingerprint()
    for stream in (train, validation):
        for block in stream.told():
            found.add(block)
    return found.of(len(train), len(validation))


def sampled_fingerprint(*streams: TokenStream) -> str:
    """The fingerprint of older runs: sha256 over lengths and up to 4,096 spots of 16 ids."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{len(stream)};".encode())
        for at in range(0, len(stream), max(16, len(stream) // 4096)):
            digest.update(stream.read(at, min(16, len(stream) - at)).astype("<i4").tobytes())
    return digest.hexdigest()


def read_shards(shards: Sequence[Shard]) -> tuple[TokenStream, Fingerprint]:
    """The stream of shards, whose ids are checked and hashed in the same pass over them."""
    found = Fingerprint()
    for shard in shards:
        for start in range(0, len(shard.ids), BLOCK):
            part = shard.ids[start : start + BLOCK]
            shard.check(part, start)
            found.add(part)
    return TokenStream([shard.ids for shard in shards]), found

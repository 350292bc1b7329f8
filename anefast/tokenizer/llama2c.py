"""llama2.c's tokenizer.bin: the ids run.c gives, by a heap and a cache in place of rescans.

Not here: SentencePiece .model files; llama2.c's own export turns those into this format. Read
base.py first.

File, little-endian: int32 longest piece in bytes; then per id: float32 score, int32 length, the
piece. The number of ids is not stored, so it is "until the end". Ids 0, 1, 2 are <unk>, <s>, </s>;
ids 3..258 are spelled <0x00>..<0xFF> and stand for bytes. A file cut exactly between two pieces
cannot be told from a smaller vocabulary, unless the caller says how many ids the model has.

Encoding, as run.c defines it: put a space in front of non-empty text; one token per character (its
bytes when it is no piece); then, while any neighbours together spell a piece, merge the pair of
best score, leftmost among equals.
"""

from __future__ import annotations

import heapq
import math
import os
import re
import struct
from functools import cached_property
from pathlib import Path

from anefast.errors import shown
from anefast.files import read_bytes

from .base import FIRST_BYTE, Pieces, TokenizerError, before_space, check_id, utf8, write

MAX_FILE_BYTES = 64 << 20
MAX_CACHED_WORDS = 1 << 18
MAX_CACHED_CHARACTERS = 64
_CUTS_TRIED = 4096
NEVER = -1e10  # run.c starts its search for the best score here: pieces at or below it never merge

_WORD = re.compile(r" *[^ ]+| +")  # cuts only between a non-space and the space after it
_SPACE_INSIDE = re.compile(rb"[^ ] ")


class Llama2cTokenizer(Pieces):
    """A vocabulary of scored pieces.

    pieces: vocab_size byte strings in id order. scores: vocab_size floats, higher merges earlier.
    Raises ValueError when ids 3..258 are not the 256 bytes: nothing could then be encoded for
    certain.
    """

    bos_id = 1
    eos_id = 2

    def __init__(self, pieces: list[bytes], scores: list[float], name: str = "llama2c") -> None:
        self.name = name
        self.vocab_size = len(pieces)
        self.pieces = pieces
        self.scores = scores
        if any(
            pieces[i + FIRST_BYTE : i + FIRST_BYTE + 1] != [b"<0x%02X>" % i] for i in range(256)
        ):
            raise TokenizerError(
                f"[tokenizer] expected the bytes <0x00>..<0xFF> at ids 3..258, {name} has others. "
                "Hint: is this a llama2.c tokenizer.bin?"
            )
        self._ids = {piece: i for i, piece in reversed(list(enumerate(pieces)))}  # lowest id wins
        # A merge across the start of a word would have to spell non-space, space: if no piece
        # does, words are independent and each is merged once. Otherwise the whole text is one word.
        self.by_word = b" " in self._ids and not any(_SPACE_INSIDE.search(p) for p in pieces)
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def _inside(self) -> set[bytes]:
        """Every two bytes that are side by side in a piece."""
        return {piece[i : i + 2] for piece in self.pieces for i in range(len(piece) - 1)}

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        body = self.encode_rest(" " + text) if text else []
        return [self.bos_id] * bos + body + [self.eos_id] * eos

    def cut(self, text: str) -> int:
        """Cuts between two bytes that no piece contains side by side: no merge can join them."""
        if self.by_word:
            return before_space(text)
        for at in range(len(text) - 1, max(0, len(text) - _CUTS_TRIED), -1):
            left = self._spelt(text[at - 1])
            right = self._spelt(text[at])
            if left[-1:] + right[:1] not in self._inside:
                return at
        return 0

    def encode_rest(self, text: str) -> list[int]:
        if not self.by_word:
            return self._merge(text)
        ids: list[int] = []
        cache = self._cache
        for word in _WORD.findall(text):
            merged = cache.get(word)
            if merged is None:
                merged = self._merge(word)
                if len(cache) < MAX_CACHED_WORDS and len(word) <= MAX_CACHED_CHARACTERS:
                    cache[word] = merged
            ids += merged
        return ids

    def _spelt(self, character: str) -> bytes:
        """The piece that a character begins as, or the spelling of a byte's, which is in <>."""
        raw = utf8(character)
        return raw if raw in self._ids else b"<>"

    def _merge(self, text: str) -> list[int]:
        """Ids of `text`, no space added: characters, then merges by best score from a heap."""
        ids: list[int] = []
        for character in text:
            raw = utf8(character)
            known = self._ids.get(raw)
            ids += [known] if known is not None else [FIRST_BYTE + byte for byte in raw]
        # A linked list over positions; dead ones have id -1. A heap entry is stale when either id
        # has changed.
        n = len(ids)
        right = list(range(1, n + 1))
        left = list(range(-1, n - 1))
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(i: int, j: int) -> None:
            merged = self._ids.get(self.pieces[ids[i]] + self.pieces[ids[j]])
            if merged is not None and self.scores[merged] > NEVER:
                heapq.heappush(heap, (-self.scores[merged], i, ids[i], ids[j], merged))

        for i in range(n - 1):
            offer(i, i + 1)
        while heap:
            _, i, a, b, merged = heapq.heappop(heap)
            j = right[i]
            if ids[i] != a or j >= n or ids[j] != b:
                continue
            ids[i], ids[j] = merged, -1
            right[i] = k = right[j]
            if k < n:
                left[k] = i
                offer(i, k)
            if left[i] >= 0:
                offer(left[i], i)
        return [token for token in ids if token >= 0]

    def piece(self, token: int, previous: int | None = None) -> bytes:
        check_id(token, self.vocab_size, self.name)
        if token in (self.bos_id, self.eos_id):
            return b""
        if FIRST_BYTE <= token < FIRST_BYTE + 256:
            return bytes((token - FIRST_BYTE,))
        text = self.pieces[token]
        # the space that encode put in front of the text comes off again, but only at its start
        return text[1:] if previous == self.bos_id and text.startswith(b" ") else text

    def to_bytes(self) -> bytes:
        longest = max(len(piece) for piece in self.pieces)
        parts = [struct.pack("<i", longest)]
        for score, piece in zip(self.scores, self.pieces, strict=True):
            parts += [struct.pack("<fi", score, len(piece)), piece]
        return b"".join(parts)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        return write(Path(folder) / "tokenizer.bin", self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str], vocab_size: int | None = None) -> Llama2cTokenizer:
        """Reads a tokenizer.bin; ValueError if unsound or not of vocab_size pieces (when given)."""
        path = Path(path)
        pieces, scores = parse(read_bytes(path, MAX_FILE_BYTES, "tokenizer"), path)
        if vocab_size is not None and len(pieces) != vocab_size:
            raise TokenizerError(
                f"[tokenizer] expected {vocab_size} pieces, {path} has {len(pieces)}. "
                "Hint: use the tokenizer this model was trained with, or fetch the file again."
            )
        return cls(pieces, scores, f"llama2c:{path.name}")


def parse(content: bytes, path: str | os.PathLike[str]) -> tuple[list[bytes], list[float]]:
    """Pieces and scores of a tokenizer.bin; every length is checked before it is believed."""
    if len(content) < 4:
        raise _unsound(path, "a 4-byte header", f"{len(content)} bytes")
    (longest,) = struct.unpack_from("<i", content)
    (turned,) = struct.unpack_from(">i", content)
    if 0 < turned < 1 << 16 <= longest & 0xFFFFFFFF:
        raise TokenizerError(
            f"[tokenizer] expected a little-endian tokenizer.bin, {shown(path)} is big-endian. "
            "Hint: export it again on a little-endian machine."
        )
    pieces: list[bytes] = []
    scores: list[float] = []
    at, size, head = 4, len(content), struct.Struct("<fi")
    begin = at

    def unsound(expected: str, got: object) -> TokenizerError:
        where = f"piece {len(pieces)} at byte {begin}"
        return _unsound(path, f"{expected} for {where}", str(got))

    while at < size:
        begin = at
        if size - at < head.size:
            raise unsound("8 bytes of score and length", size - at)
        score, length = head.unpack_from(content, at)
        at += head.size
        if not 0 < length <= longest:
            raise unsound(f"a length in 1..{longest}", length)
        if length > size - at:
            raise unsound(f"{length} bytes", size - at)
        if not math.isfinite(score):
            raise unsound("a finite score", score)
        pieces.append(content[at : at + length])
        scores.append(score)
        at += length
    return pieces, scores


def _unsound(path: str | os.PathLike[str], expected: str, got: str) -> TokenizerError:
    return TokenizerError(
        f"[tokenizer] expected {expected}, {shown(path)} has {got}. "
        "Hint: it is truncated, or not a llama2.c tokenizer.bin."
    )

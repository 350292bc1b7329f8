"""The protocol of a tokenizer, and the one that needs no file: bytes.

Not here: llama2.c's tokenizer.bin (llama2c.py), trained BPE (bpe.py), opening by name
(__init__.py).

Every tokenizer numbers ids 0..vocab_size-1 and has a BOS id, because the token stream a model
trains on is BOS before each document. Decoding is defined on bytes, one piece at a time: a piece
may be half a UTF-8 character, so text exists only for whole sequences, or through `Stream` while
they are still growing.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from anefast.errors import BadInput
from anefast.files import make_folder, write_atomic


class TokenizerError(BadInput):
    """A tokenizer cannot be used, or cannot take these ids or this text. One line."""


FIRST_BYTE = 3  # llama2.c numbering: <unk> 0, <s> 1, </s> 2, then the 256 bytes


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Ids are plain ints; unknown ids raise TokenizerError, a ValueError."""

    @property
    def name(self) -> str:
        """Short description for a log line, e.g. "bytes" or "llama2c:tok512.bin"."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        """Ids of `text`, with BOS in front and EOS behind on request."""

    def piece(self, token: int, previous: int | None = None) -> bytes:
        """Bytes `token` adds after `previous` (None: the first). Control ids add nothing."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes: ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a whole sequence; bytes that are not UTF-8 become U+FFFD."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes what `open_tokenizer(folder)` reads into `folder`. Returns the path to open."""


@runtime_checkable
class Cuts(Protocol):
    """The protocol of a tokenizer that can encode a long text in parts."""

    def cut(self, text: str) -> int:
        """How many characters of `text` may be encoded alone, whatever follows; 0: unknown.

        With `n = cut(text)` above 0, encode(text + more) is encode(text[:n]) and then
        encode_rest(text[n:] + more), for every `more`.
        """

    def encode_rest(self, text: str) -> list[int]:
        """Ids of a text that goes on where a cut was made."""


def before_space(text: str) -> int:
    """The last place in `text` where a word ends and a space follows; 0 where there is none."""
    end = len(text)
    while (at := text.rfind(" ", 1, end)) > 0:
        if not text[at - 1].isspace():
            return at
        end = at
    return 0


def drawable(tokenizer: Tokenizer, size: int) -> npt.NDArray[np.int64]:
    """The ids below `size`, a model's table, that stand for something: others are never generated.

    A table may be larger than its vocabulary (50,304 rows for GPT-2's 50,257 ids), and a vocabulary
    may have holes.
    """
    drawn = np.ones(tokenizer.vocab_size, bool)
    drawn[np.fromiter(getattr(tokenizer, "unused", ()), np.int64)] = False
    return np.flatnonzero(drawn[:size])


def adds_bos(tokenizer: Tokenizer) -> bool:
    """True if a prompt begins with BOS, as texts did when the tokenizer's models were trained."""
    return bool(getattr(tokenizer, "adds_bos", True))


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a text to continue; BOS stands for a text without any."""
    return tokenizer.encode(prompt, bos=adds_bos(tokenizer) or not prompt)


class Lengths:
    """Counts the bytes of text that tokens stand for, to compare losses of two tokenizers.

    >>> Lengths(ByteTokenizer()).of(np.array([[1, 75]]), np.array([[75, -1]]))
    1
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bos_id = tokenizer.bos_id
        ids = range(tokenizer.vocab_size)
        self._bytes = np.array([len(tokenizer.piece(i)) for i in ids])
        self._first = np.array([len(tokenizer.piece(i, self.bos_id)) for i in ids])

    def of(self, x: npt.NDArray[np.integer], y: npt.NDArray[np.integer]) -> int:
        """Bytes of the targets `y`, of which each follows its token of `x`; negative ones count
        nothing. Marks such as BOS are no text."""
        seen = y >= 0
        first = x[seen] == self.bos_id
        return int(np.where(first, self._first[y[seen]], self._bytes[y[seen]]).sum())


class Pieces:
    """The decoding half of a tokenizer, for any class that has `piece`."""

    def piece(self, token: int, previous: int | None = None) -> bytes:
        raise NotImplementedError

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        out = bytearray()
        previous = None
        for token in ids:
            token = int(token)
            out += self.piece(token, previous)
            previous = token
        return bytes(out)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


class Stream:
    """Text as it grows: `push` returns only whole characters, when they are complete.

    >>> stream = Stream(ByteTokenizer())
    >>> [stream.push(token) for token in ByteTokenizer().encode("é")]
    ['', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._previous: int | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        piece = self.tokenizer.piece(int(token), self._previous)
        self._previous = int(token)
        return self._utf8.decode(piece)

    def close(self) -> str:
        """The rest: U+FFFD if the last character never came whole, else nothing."""
        return self._utf8.decode(b"", final=True)


class ByteTokenizer(Pieces):
    """One token per UTF-8 byte, in llama2.c's numbering: <unk> 0, <s> 1, </s> 2, byte b at 3 + b.

    >>> ByteTokenizer().encode("Hi")
    [1, 75, 108]
    """

    name = "bytes"
    vocab_size = FIRST_BYTE + 256
    bos_id = 1
    eos_id = 2

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        raw = np.frombuffer(utf8(text), np.uint8)
        body: list[int] = (raw.astype(np.int32) + FIRST_BYTE).tolist()
        return [self.bos_id] * bos + body + [self.eos_id] * eos

    def cut(self, text: str) -> int:
        return len(text)

    def encode_rest(self, text: str) -> list[int]:
        return self.encode(text, bos=False)

    def piece(self, token: int, previous: int | None = None) -> bytes:
        check_id(token, self.vocab_size, self.name)
        return bytes((token - FIRST_BYTE,)) if token >= FIRST_BYTE else b""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        description = {
            "anefast_tokenizer": "bytes",
            "vocab_size": self.vocab_size,
            "ids": {"<unk>": 0, "<s>": self.bos_id, "</s>": self.eos_id, "first byte": FIRST_BYTE},
        }
        return write(Path(folder) / "tokenizer.json", (json.dumps(description) + "\n").encode())


def utf8(text: str) -> bytes:
    """UTF-8 of `text`; bytes that Python could not decode in argv come back as they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"[tokenizer] expected text that UTF-8 can hold, got {text[error.start]!r} at "
            f"character {error.start}. Hint: half a surrogate pair; read the text as UTF-8."
        ) from None


def check_id(token: int, vocab_size: int, name: str) -> None:
    if not 0 <= token < vocab_size:
        raise TokenizerError(
            f"[tokenizer] expected ids in 0..{vocab_size - 1} ({name}), got {token}. "
            "Hint: were these ids made by another tokenizer?"
        )


def write(path: Path, content: bytes) -> Path:
    """Replaces a file of a tokenizer, in a folder that is made where it is missing."""
    make_folder(path.parent, "tokenizer")
    write_atomic(path, content, "tokenizer")
    return path

"""Text to token stream to batches: where the data comes from, how it splits, which step reads what.

Not here: tokenizers (tokenizer/), the stories themselves (stories/), sequence lengths a device
takes (config.py). The stream is BOS before each document, documents end to end. A batch is a pure
function of (seed, step), so the only cursor a run has to save is how many micro-batches it has
drawn.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anefast import stories
from anefast.errors import BadInput
from anefast.tokenizer import Tokenizer, open_tokenizer

Ids = npt.NDArray[np.int32]
Order = Literal["shuffled", "sequential"]

END_OF_TEXT = "<|endoftext|>"
STORIES = 2000  # of the built-in stories, unless "stories:N" says otherwise: about 1.6 MB
IGNORED = -1  # as a target: this position has no loss
_CHECK = 1 << 20  # ids checked at a time

log = logging.getLogger("anefast")


class DataError(BadInput):
    """Data that cannot be trained on. The message is one line and names the file."""

    def __init__(self, expected: str, got: str, hint: str) -> None:
        super().__init__(f"[data] expected {expected}, {got}. Hint: {hint}.")


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


@dataclass(frozen=True)
class TokenData:
    """A data set, tokenized and split.

    floor: nats per token that no model beats on average on the validation split, when the source is
    the built-in stories (what it means exactly: `stories.floor`), else None. description: one line
    for a log. fingerprint: changes when the tokens do; a resumed run compares it.
    """

    train: TokenStream
    validation: TokenStream
    tokenizer: Tokenizer
    floor: float | None
    description: str
    fingerprint: str

    def ids(self) -> Ids:
        """The ids that occur, training and validation together, ascending."""
        found: set[int] = set()
        for stream in (self.train, self.validation):
            for start in range(0, len(stream), _CHECK):
                part = stream.read(start, min(_CHECK, len(stream) - start))
                found.update(np.unique(part).tolist())
        return np.array(sorted(found), np.int32)

    def batches(self, B: int, S: int, seed: int = 0, order: Order = "shuffled") -> Batches:
        """Training batches of B sequences of S tokens. DataError when the data is too short."""
        for name, stream, needed in (
            ("training", self.train, B * S + 1),
            ("validation", self.validation, S + 1),
        ):
            if len(stream) < needed:
                raise DataError(
                    f"at least {needed:,} {name} tokens for {B} x {S}",
                    f"{self.description} has {len(stream):,}",
                    "give more text, or a smaller batch or sequence length",
                )
        return Batches(self.train, B, S, seed, order)

    def validation_batches(self, B: int, S: int, limit: int = 0) -> Iterator[tuple[Ids, Ids]]:
        """The validation split in fixed batches, the same every time.

        Yields (x, y), int32 [B, S]. Windows do not overlap; limit > 0 takes that many batches'
        worth, evenly spread over the split. Rows missing from the last batch have targets -1, which
        count in no loss. So weight by targets >= 0 when averaging.
        """
        count = (len(self.validation) - 1) // S
        chosen = list(range(count))
        if 0 < limit * B < count:
            chosen = [i * count // (limit * B) for i in range(limit * B)]
        for first in range(0, len(chosen), B):
            rows = chosen[first : first + B]
            x, y = _windows(self.validation, [r * S for r in rows] + [0] * (B - len(rows)), S)
            y[len(rows) :] = IGNORED
            yield x, y


class Batches:
    """Which tokens a training step reads: a pure function of (seed, order, step).

    sequential: window r is stream[r*S : r*S + S + 1], batch k has windows k*B .. k*B + B - 1, and
    after the last whole window the first comes again. shuffled: each epoch cuts the stream into
    windows at its own random offset and reads each once, in random order.
    """

    def __init__(self, stream: TokenStream, B: int, S: int, seed: int, order: Order) -> None:
        if len(stream) < S + 1:
            raise DataError(f"at least {S + 1} tokens", f"got {len(stream)}", "give more text")
        if order not in ("shuffled", "sequential"):
            raise DataError("order shuffled or sequential", f"got {order!r}", "shuffled is usual")
        self.stream, self.B, self.S, self.seed, self.order = stream, B, S, seed, order
        # A shuffled epoch gives up a window's length of tokens to have room for its offset.
        spare = 1 if order == "sequential" else S
        self.windows_per_epoch = max(1, (len(stream) - spare) // S)
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def batch(self, step: int) -> tuple[Ids, Ids]:
        """Micro-batch `step` (from 0): inputs x and targets y, int32 [B, S], y one token ahead."""
        if step < 0:
            raise ValueError(f"[data] expected a step >= 0, got {step}.")
        return _windows(self.stream, [self.start(step * self.B + b) for b in range(self.B)], self.S)

    def start(self, window: int) -> int:
        """Where in the stream the window-th sequence that was ever drawn begins."""
        epoch, i = divmod(window, self.windows_per_epoch)
        if self.order == "sequential":
            return i * self.S
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # a batch spans two epochs at most, unless the data is tiny
                self._epochs.clear()
            self._epochs[epoch] = self._starts_of(epoch)
        return int(self._epochs[epoch][i])

    def _starts_of(self, epoch: int) -> npt.NDArray[np.int64]:
        # Raw Philox words are fixed for ever, numpy's own shuffles may change with its version.
        n, S = self.windows_per_epoch, self.S
        raw = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(n + 1)
        offsets = min(S, len(self.stream) - n * S)
        offset = int(raw[0]) * offsets >> 64
        return np.argsort(raw[1:], kind="stable") * S + offset


def _windows(stream: TokenStream, starts: Iterable[int], S: int) -> tuple[Ids, Ids]:
    rows = np.stack([stream.read(start, S + 1) for start in starts])
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])


def open_data(
    source: str | os.PathLike[str] = "stories",
    tokenizer: str | os.PathLike[str] | Tokenizer = "bytes",
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    vocab_size: int | None = None,
    collapse_spaces: bool = False,
) -> TokenData:
    """Reads, tokenizes and splits a data set. DataError in one line when that cannot be done.

    source: "stories" or "stories:N" (built in; the held-out split is other stories, N *
    val_fraction of them); a text file, or a folder of them, UTF-8, documents parted by
    <|endoftext|>; a flat little-endian uint16 .bin of token ids, or a folder of such shards, read
    through memory maps. tokenizer: a Tokenizer, or what `open_tokenizer` takes; "bpe:N" learns
    from the training part. seed: of the stories. val_fraction: the last part of the stream (of
    text and shards). vocab_size: what the model has, when known; ids must fit both it and the
    tokenizer. collapse_spaces: runs of spaces in a text become one, as TinyStories is usually
    prepared.
    """
    if not 0 < val_fraction < 1:
        raise DataError("a validation fraction between 0 and 1", f"got {val_fraction}", "use 0.1")
    name = os.fspath(source)
    if re.fullmatch(r"stories(:\d+)?", name):
        return _open_stories(name, tokenizer, seed, val_fraction)
    files = _files(Path(name))
    if files[0].suffix == ".bin":
        opened = _opened(tokenizer, None)
        limit = min(opened.vocab_size, vocab_size or opened.vocab_size)
        stream = TokenStream([_shard(path, limit) for path in files])
    else:
        documents = [d for path in files for d in _documents(path, collapse_spaces)]
        if not documents:
            raise DataError("text", f"{name} has only white space", "give a file with words in it")
        opened = _opened(tokenizer, _head(documents, 1 - val_fraction))
        stream = TokenStream([_encode(documents, opened)])
    train = int(len(stream) * (1 - val_fraction))
    return _data(stream.part(0, train), stream.part(train, len(stream)), opened, None, name)


def _open_stories(
    name: str, tokenizer: str | os.PathLike[str] | Tokenizer, seed: int, val_fraction: float
) -> TokenData:
    count = int(name.partition(":")[2] or STORIES)
    if count < 1:
        raise DataError("at least 1 story", f"got {name}", f"stories:{STORIES} is the default")
    told = [s.text for s in stories.stories(seed, count)]
    held_out = list(stories.stories(seed, max(1, round(count * val_fraction)), "validation"))
    opened = _opened(tokenizer, told)
    validation = TokenStream([_encode([s.text for s in held_out], opened)])
    floor = stories.floor(held_out, len(validation) - 1)
    said = f"{count} built-in stories (seed {seed})"
    return _data(TokenStream([_encode(told, opened)]), validation, opened, floor, said)


def _data(
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    floor: float | None,
    name: str,
) -> TokenData:
    description = f"{name} as {tokenizer.name}"
    data = TokenData(
        train, validation, tokenizer, floor, description, _fingerprint(train, validation)
    )
    log.info("%s: %d training, %d validation tokens", description, len(train), len(validation))
    return data


def _fingerprint(*streams: TokenStream) -> str:
    """sha256 over the lengths and up to 4,096 spots of 16 ids in each stream."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(f"{len(stream)};".encode())
        for at in range(0, len(stream), max(16, len(stream) // 4096)):
            digest.update(stream.read(at, min(16, len(stream) - at)).astype("<i4").tobytes())
    return digest.hexdigest()


def _opened(
    tokenizer: str | os.PathLike[str] | Tokenizer, texts: Iterable[str] | None
) -> Tokenizer:
    if isinstance(tokenizer, (str, os.PathLike)):
        return open_tokenizer(tokenizer, texts)
    return tokenizer


def _files(path: Path) -> list[Path]:
    """The files of a source, in name order: all of a folder's, hidden ones aside, or the one
    named."""
    if path.is_dir():
        files = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(s.startswith(".") for s in p.relative_to(path).parts)
        )
        if not files:
            raise DataError("files to read", f"the folder {path} has none", "put text files in it")
        if len({p.suffix == ".bin" for p in files}) > 1:
            raise DataError(
                "only text or only .bin shards",
                f"the folder {path} has both",
                "keep them in folders of their own",
            )
        return files
    if not path.is_file():
        raise DataError(
            "stories, a text file, a folder or a .bin",
            f"there is no {path}",
            "check the path; it is taken from the current folder",
        )
    return [path]


def _documents(path: Path, collapse_spaces: bool) -> list[str]:
    """Documents of a text file, no white space around them; line ends are \\n whatever they
    were."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError("a readable file", f"{path}: {error.strerror}", "check it") from None
    if not raw:
        raise DataError("text", f"{path} is empty", "give a file with words in it")
    zero = raw.find(b"\0")
    if zero >= 0:
        raise DataError(
            "UTF-8 text",
            f"{path} is binary (a zero at byte {zero})",
            "token ids go in a uint16 file called .bin",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "UTF-8 text",
            f"{path} has byte 0x{raw[error.start]:02x} at {error.start}",
            "convert it to UTF-8, with iconv for example",
        ) from None
    text = text.replace("\r\n", "\n")
    if collapse_spaces:
        text = re.sub(" +", " ", text)
    return [d for d in (part.strip() for part in text.split(END_OF_TEXT)) if d]


def _head(documents: Sequence[str], fraction: float) -> Iterator[str]:
    """The first `fraction` of the characters, so that a tokenizer learns nothing held out."""
    left = int(sum(map(len, documents)) * fraction)
    for document in documents:
        if left > 0:
            yield document[:left]
        left -= len(document)


def _encode(documents: Iterable[str], tokenizer: Tokenizer) -> npt.NDArray[Any]:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    return np.concatenate([np.asarray(tokenizer.encode(d, bos=True), dtype) for d in documents])


def _shard(path: Path, vocab_size: int) -> npt.NDArray[np.uint16]:
    """A memory map of a uint16 file whose every id is below vocab_size."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise DataError(
            "uint16 token ids, an even number of bytes",
            f"{path} has {size}",
            "it is empty, cut short, or not a token file" if size else "write tokens to it first",
        )
    try:
        ids = np.memmap(path, "<u2", "r")
    except OSError as error:
        raise DataError("a readable file", f"{path}: {error.strerror}", "check it") from None
    for start in range(0, len(ids), _CHECK):
        part = ids[start : start + _CHECK]
        if int(part.max()) >= vocab_size:
            at = start + int((part >= vocab_size).argmax())
            raise DataError(
                f"ids below {vocab_size}",
                f"{path} has {ids[at]} at token {at}",
                "name the tokenizer that made the file, and a model with as many ids",
            )
    return ids

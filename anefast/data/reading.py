"""Opening a data set: from what `--data` names to token streams."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from anefast import stories
from anefast.data.batches import ExampleData, TokenData
from anefast.data.error import DataError
from anefast.data.examples import Examples, whole
from anefast.data.instruct import MESSAGES, examples, fields
from anefast.data.shards import is_shard, open_shard
from anefast.data.source import File, Source, find, one_of
from anefast.data.stream import (
    TokenStream,
    encode,
    fingerprint,
    narrowest,
    read_shards,
    regrouped,
)
from anefast.data.text import END, Piece, characters, documents, head
from anefast.errors import shown
from anefast.tokenizer import WORDS, Tokenizer, open_tokenizer
from anefast.tokenizer.base import before_space

STORIES = 2000  # of the built-in stories, unless "stories:N" says otherwise: about 1.6 MB

log = logging.getLogger("anefast")


def open_data(
    source: str | os.PathLike[str] = "stories",
    tokenizer: str | os.PathLike[str] | Tokenizer = "bytes",
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    vocab_size: int | None = None,
    collapse_spaces: bool = False,
    packing: bool = True,
    boundaries: bool = False,
) -> TokenData:
    """Reads, tokenizes and splits a data set. DataError in one line when that cannot be done.

    source: "stories" or "stories:N" (built in; the held-out split is other stories, N *
    val_fraction of them); a text, UTF-8 or with a byte order mark, documents separated by
    <|endoftext|>; rows of JSON with a field "text", or with prompts and completions or chats, of
    which only answers are learnt (instruct.py); token ids, read through memory maps (a flat
    little-endian .bin of uint16, uint32 or int64, a .npy, a shard of llm.c); a folder of texts or
    of shards; a pipe of text. tokenizer: a Tokenizer, or what `open_tokenizer` takes; "bpe:N"
    learns from the training part. seed: of the stories. val_fraction: the last part of the stream
    validates, unless the folder has a validation part of its own (train.bin beside val.bin).
    vocab_size: what the model has, when known; ids must fit both it and the tokenizer.
    collapse_spaces: runs of spaces in a text become one, as TinyStories is usually prepared.
    packing: documents of a text lie end to end; without it each is a sequence of its own.
    boundaries: no sequence reaches over a document's end; a longer one is read in several.
    """
    if boundaries:
        apart = open_data(
            source, tokenizer, seed=seed, val_fraction=val_fraction, vocab_size=vocab_size,
            collapse_spaces=collapse_spaces, packing=False,
        )  # fmt: skip
        assert isinstance(apart, ExampleData)
        return apart.in_pieces()
    if not 0 < val_fraction < 1:
        raise DataError("a validation fraction between 0 and 1", f"got {val_fraction}", "use 0.1")
    name = os.fspath(source)
    if re.fullmatch(r"stories(:\d+)?", name):
        return _open_stories(name, tokenizer, seed, val_fraction, packing)
    if tokenizer == WORDS:
        raise DataError(
            f"the built-in stories for the tokenizer {WORDS}, which has their words only",
            f"got {shown(name)}",
            "--preset bytes reads any text, and --tokenizer bpe:2048 learns pieces of its own",
        )
    with closing(find(Path(name))) as found:
        if found.validation is not None:
            name += " (split as it lies)"
        if one_of(found.files, is_shard):
            if not packing:
                raise DataError(
                    "text where sequences are documents", f"{name} has token ids",
                    "leave out data.packing and data.boundaries",
                )  # fmt: skip
            return _open_shards(name, found, _opened(tokenizer, None), val_fraction, vocab_size)
        if named := set[str]().union(*map(fields, found.files)):
            opened = _opened(tokenizer, None)
            return _open_examples(name, found, opened, val_fraction, MESSAGES in named)
        return _open_texts(name, found, tokenizer, val_fraction, collapse_spaces, packing)


def _open_shards(
    name: str, found: Source, tokenizer: Tokenizer, val_fraction: float, vocab_size: int | None
) -> TokenData:
    limit = min(tokenizer.vocab_size, vocab_size or tokenizer.vocab_size)
    shards = [open_shard(file, limit) for file in found.files]
    stream, told = read_shards(shards)
    train = sum(len(shard.ids) for shard in shards[: len(found.train)])
    if found.validation is None:
        train = int(len(stream) * (1 - val_fraction))
    kinds = "/".join(sorted({shard.type_name for shard in shards}))
    return _data(
        stream.part(0, train), stream.part(train, len(stream)), tokenizer, None,
        f"{name} ({kinds} ids)", told.of(train, len(stream) - train),
    )  # fmt: skip


def _open_texts(
    name: str,
    found: Source,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    val_fraction: float,
    collapse_spaces: bool,
    packing: bool,
) -> TokenData:
    def pieces(files: list[File]) -> Iterator[Piece]:
        return (piece for file in files for piece in documents(file, collapse_spaces))

    def learnt_from() -> Iterator[str]:
        """Text for a tokenizer to learn from, none of it for validation; read when needed."""
        texts = pieces(found.train)
        if found.validation is None:
            texts = head(texts, int(characters(pieces(found.train)) * (1 - val_fraction)))
        for text in regrouped(texts, before_space):
            if text is not END:
                yield text

    opened = _opened(tokenizer, learnt_from())
    if not packing:
        return _split_examples(
            name, found, lambda files: _documents(pieces(files), opened), val_fraction, opened
        )
    stream = encode(pieces(found.train), opened)
    if not len(stream):
        raise DataError("text", f"{name} has only white space", "give a file with words in it")
    if found.validation is None:
        train = int(len(stream) * (1 - val_fraction))
        return _data(stream.part(0, train), stream.part(train, len(stream)), opened, None, name)
    return _data(stream, encode(pieces(found.validation), opened), opened, None, name)


def _open_examples(
    name: str, found: Source, tokenizer: Tokenizer, val_fraction: float, chats: bool
) -> TokenData:
    def read(files: list[File]) -> Examples:
        each = (e for file in files for e in examples(file, tokenizer))
        return Examples(each, narrowest(tokenizer))

    return _split_examples(name, found, read, val_fraction, tokenizer, chats)


def _documents(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Examples:
    """Every document as an example."""
    each = (whole(text, tokenizer) for text in regrouped(pieces, None) if text is not END)
    return Examples(each, narrowest(tokenizer))


def _split_examples(
    name: str,
    found: Source,
    read: Callable[[list[File]], Examples],
    val_fraction: float,
    tokenizer: Tokenizer,
    chats: bool = False,
) -> TokenData:
    train = read(found.train)
    if found.validation is None:
        cut = min(train.count - 1, int(train.count * (1 - val_fraction)))
        if cut < 1:
            raise DataError("at least 2 examples", f"{name} has {train.count}", "give more rows")
        train, validation = train.part_of(0, cut), train.part_of(cut, train.count)
    else:
        validation = read(found.validation)
    name = f"{train.count + validation.count:,} examples of {name}"
    return _data(train, validation, tokenizer, None, name, chats=chats)


def _open_stories(
    name: str,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    seed: int,
    val_fraction: float,
    packing: bool,
) -> TokenData:
    count = int(name.partition(":")[2] or STORIES)
    if count < 1:
        raise DataError("at least 1 story", f"got {name}", f"stories:{STORIES} is the default")
    told = [s.text for s in stories.stories(seed, count)]
    held_out = list(stories.stories(seed, max(1, round(count * val_fraction)), "validation"))
    opened = _opened(tokenizer, told)
    read = encode if packing else _documents
    train, validation = read(_ended(told), opened), read(_ended(s.text for s in held_out), opened)
    given = 1 if packing else len(held_out)  # the first BOS, or each
    floor = stories.floor(held_out, len(validation) - given)
    return _data(train, validation, opened, floor, f"{count} built-in stories (seed {seed})")


def _ended(texts: Iterable[str]) -> Iterator[Piece]:
    for text in texts:
        yield text
        yield END


def _data(
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    floor: float | None,
    name: str,
    told: str | None = None,
    chats: bool = False,
) -> TokenData:
    description = f"{name} as {tokenizer.name}"
    told = told or fingerprint(train, validation)
    log.info("%s: %d training, %d validation tokens", description, len(train), len(validation))
    if isinstance(train, Examples) and isinstance(validation, Examples):
        return ExampleData(train, validation, tokenizer, floor, description, told, chats)
    return TokenData(train, validation, tokenizer, floor, description, told)


def _opened(
    tokenizer: str | os.PathLike[str] | Tokenizer, texts: Iterable[str] | None
) -> Tokenizer:
    if isinstance(tokenizer, (str, os.PathLike)):
        return open_tokenizer(tokenizer, texts)
    return tokenizer

"""Opening a data set: from what `--data` names to token streams."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from anefast import stories
from anefast.data.batches import TokenData
from anefast.data.error import DataError
from anefast.data.shards import shard
from anefast.data.source import files
from anefast.data.stream import TokenStream, encode, fingerprint
from anefast.data.text import documents, head
from anefast.tokenizer import Tokenizer, open_tokenizer

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
    paths = files(Path(name))
    if paths[0].suffix == ".bin":
        opened = _opened(tokenizer, None)
        limit = min(opened.vocab_size, vocab_size or opened.vocab_size)
        stream = TokenStream([shard(path, limit) for path in paths])
    else:
        texts = [d for path in paths for d in documents(path, collapse_spaces)]
        if not texts:
            raise DataError("text", f"{name} has only white space", "give a file with words in it")
        opened = _opened(tokenizer, head(texts, 1 - val_fraction))
        stream = TokenStream([encode(texts, opened)])
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
    validation = TokenStream([encode([s.text for s in held_out], opened)])
    floor = stories.floor(held_out, len(validation) - 1)
    said = f"{count} built-in stories (seed {seed})"
    return _data(TokenStream([encode(told, opened)]), validation, opened, floor, said)


def _data(
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    floor: float | None,
    name: str,
) -> TokenData:
    description = f"{name} as {tokenizer.name}"
    data = TokenData(
        train, validation, tokenizer, floor, description, fingerprint(train, validation)
    )
    log.info("%s: %d training, %d validation tokens", description, len(train), len(validation))
    return data


def _opened(
    tokenizer: str | os.PathLike[str] | Tokenizer, texts: Iterable[str] | None
) -> Tokenizer:
    if isinstance(tokenizer, (str, os.PathLike)):
        return open_tokenizer(tokenizer, texts)
    return tokenizer

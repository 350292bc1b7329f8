"""Tokenizers: bytes (the default), llama2.c's tokenizer.bin, byte-level BPE.

What a tokenizer is: base.py. This file only opens them by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from anefast.files import parse_json

from .base import ByteTokenizer, Stream, Tokenizer
from .bpe import BPETokenizer
from .llama2c import Llama2cTokenizer

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "Llama2cTokenizer",
    "Stream",
    "Tokenizer",
    "open_tokenizer",
]


def open_tokenizer(
    spec: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    vocab_size: int | None = None,
) -> Tokenizer:
    """The tokenizer that `spec` names.

    spec: "bytes"; "bpe:2048" (trained on `texts`, which it needs); a tokenizer.bin or
    tokenizer.json; or a folder that holds one, such as a run. vocab_size: what the model expects;
    another size is an error. ValueError in one line.
    """
    name = os.fspath(spec)
    tokenizer: Tokenizer
    if name == "bytes":
        tokenizer = ByteTokenizer()
    elif name == "bpe" or name.startswith("bpe:"):
        size = name.partition(":")[2]
        if not (size.isascii() and size.isdigit()):
            raise ValueError(
                f"[tokenizer] expected bpe:SIZE, got {name!r}. Hint: bpe:2048 learns 2048 pieces."
            )
        if texts is None:
            raise ValueError(
                f"[tokenizer] {name} is learnt from a text, got none. "
                "Hint: name a text or a folder as the data; flat .bin shards hold ids already."
            )
        tokenizer = BPETokenizer.train(texts, int(size))
    else:
        tokenizer = _open_file(Path(name))
    if vocab_size is not None and tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"[tokenizer] expected {vocab_size} ids, {tokenizer.name} has {tokenizer.vocab_size}. "
            "Hint: use the tokenizer this model was trained with."
        )
    return tokenizer


def _open_file(path: Path) -> Tokenizer:
    if path.is_dir():
        found = [path / f for f in ("tokenizer.bin", "tokenizer.json") if (path / f).is_file()]
        if len(found) != 1:
            raise ValueError(
                f"[tokenizer] expected one tokenizer.bin or tokenizer.json in {path}, "
                f"got {len(found)}. Hint: name the file itself."
            )
        path = found[0]
    if not path.is_file():
        raise ValueError(
            f"[tokenizer] expected a tokenizer, there is no file {path}. "
            "Hint: bytes, bpe:2048, or the path of a tokenizer.bin or tokenizer.json."
        )
    try:
        if path.suffix != ".json":
            return Llama2cTokenizer.load(path)
        content = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"[tokenizer] expected JSON, {path} is binary. Hint: name a llama2.c file .bin."
        ) from None
    except OSError as error:
        raise ValueError(
            f"[tokenizer] cannot read {path}: {error.strerror}. Hint: check its permissions."
        ) from None
    if '"anefast_tokenizer"' in content[:64]:
        return _described(content, path)
    return BPETokenizer(content, f"bpe:{path.name}")


def _described(content: str, path: Path) -> Tokenizer:
    """A tokenizer.json that we wrote ourselves: today only bytes needs one."""
    try:
        kind = parse_json(content).get("anefast_tokenizer")
    except (ValueError, AttributeError):
        kind = "broken"
    if kind != "bytes":
        raise ValueError(
            f"[tokenizer] expected kind bytes in {path}, got {kind!r}. "
            "Hint: it is damaged, or a newer anefast wrote it."
        )
    return ByteTokenizer()

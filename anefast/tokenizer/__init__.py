"""Tokenizers: bytes, the words of the built-in stories, llama2.c's tokenizer.bin, byte-level BPE.

What a tokenizer is: base.py. This file only opens them by name, and calls files of other kinds by
theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anefast.checks import refuse
from anefast.errors import shown
from anefast.files import MIB, open_regular, read_text
from anefast.kinds import HEAD_BYTES, LLAMA2C_TOKENIZER, kind_of, looks_like_text, missing
from anefast.parsing import parse_json
from anefast.stories import VOCABULARY

from .base import ByteTokenizer, Stream, Tokenizer, TokenizerError, drawable
from .bpe import BPETokenizer, stated_marks
from .llama2c import Llama2cTokenizer

__all__ = [
    "WORDS",
    "BPETokenizer",
    "ByteTokenizer",
    "Llama2cTokenizer",
    "Stream",
    "Tokenizer",
    "TokenizerError",
    "drawable",
    "open_tokenizer",
]

MAX_JSON_BYTES = 256 * MIB
WORDS = "words"  # of the built-in stories, see stories/pieces.py
_NAMES = ("tokenizer.bin", "tokenizer.json")
_KINDS = "bytes, words, bpe:2048, or the path of a tokenizer.bin or tokenizer.json"
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\n")


def open_tokenizer(
    spec: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    vocab_size: int | None = None,
) -> Tokenizer:
    """The tokenizer that `spec` names.

    spec: "bytes"; "words" of the built-in stories; "bpe:2048" (trained on `texts`, which it needs);
    a tokenizer.bin or tokenizer.json; or a folder that holds one, such as a run. vocab_size: what
    the model expects; another size is an error. TokenizerError, a ValueError, in one line.
    """
    if not isinstance(spec, (str, os.PathLike)):
        refuse("tokenizer", "tokenizer", spec, "'bytes', bpe:SIZE or the path of a file")
    name = os.fspath(spec)
    tokenizer: Tokenizer
    if name == "bytes":
        tokenizer = ByteTokenizer()
    elif name == WORDS:
        tokenizer = Llama2cTokenizer.load(VOCABULARY)
        tokenizer.name = WORDS
    elif name == "bpe" or name.startswith("bpe:"):
        size = name.partition(":")[2]
        if not (size.isascii() and size.isdigit()):
            raise TokenizerError(
                f"[tokenizer] expected bpe:SIZE, got {name!r}. Hint: bpe:2048 learns 2048 pieces."
            )
        if texts is None:
            raise TokenizerError(
                f"[tokenizer] {name} is learnt from a text, got none. "
                "Hint: name a text or a folder as the data; flat .bin shards hold ids already."
            )
        tokenizer = BPETokenizer.train(texts, int(size))
    else:
        tokenizer = _open_file(Path(name))
    if vocab_size is not None and tokenizer.vocab_size != vocab_size:
        raise TokenizerError(
            f"[tokenizer] expected {vocab_size} ids, {tokenizer.name} has {tokenizer.vocab_size}. "
            "Hint: use the tokenizer this model was trained with."
        )
    return tokenizer


def _open_file(path: Path) -> Tokenizer:
    gone = missing(path)
    if gone is not None:
        raise TokenizerError(f"[tokenizer] expected {_KINDS}, {gone[0]}. Hint: {gone[1]}.")
    if path.is_dir():
        path = _in_folder(path)
    with open_regular(path, where="tokenizer") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
    kind = kind_of(head, size)
    if kind is not None and kind is not LLAMA2C_TOKENIZER:
        raise _other(path, kind.name, kind.hint)
    if kind is None and (head.lstrip()[:1] == b"{" or path.suffix == ".json"):
        return _from_json(path)
    if head.startswith(b"#version"):
        raise _other(path, "the merges of a tokenizer alone", "name the tokenizer.json beside it")
    if _TIKTOKEN.match(head):
        raise _other(path, "a tiktoken vocabulary", "name the tokenizer.json of the model")
    if looks_like_text(head):
        raise _other(path, "text", "text goes with --data; bpe:2048 learns a tokenizer from it")
    return Llama2cTokenizer.load(path)


def _in_folder(folder: Path) -> Path:
    found = [folder / name for name in _NAMES if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    hint = "name the file itself"
    if (folder / "tokenizer.model").is_file():
        hint = "its tokenizer.model is SentencePiece's; llama2.c's tokenizer.py exports it as .bin"
    raise TokenizerError(
        f"[tokenizer] expected one tokenizer.bin or tokenizer.json in {shown(folder)}, "
        f"got {len(found)}. Hint: {hint}."
    )


def _from_json(path: Path) -> Tokenizer:
    content = read_text(path, MAX_JSON_BYTES, "tokenizer")
    try:
        found = parse_json(content)
    except ValueError as error:
        raise TokenizerError(
            f"[tokenizer] expected JSON in {shown(path)}: {shown(error)}. "
            "Hint: it is damaged or cut short; fetch it again."
        ) from None
    if isinstance(found, dict) and "anefast_tokenizer" in found:
        return _described(found, path)
    if not isinstance(found, dict) or "model" not in found:
        raise _other(path, *_named(found))
    return BPETokenizer(content, f"bpe:{path.name}", stated_marks(path.parent))


def _named(found: Any) -> tuple[str, str]:
    """The kind of a JSON file that is no tokenizer.json, and a hint."""
    if isinstance(found, dict) and found and all(isinstance(v, int) for v in found.values()):
        return "a vocabulary without merges (vocab.json)", "name the tokenizer.json beside it"
    if isinstance(found, dict) and {"tokenizer_class", "bos_token", "eos_token"} & set(found):
        return "the settings of a tokenizer", "name the tokenizer.json beside it"
    if isinstance(found, dict) and {"model_type", "architectures"} & set(found):
        return "the settings of a model", "name the tokenizer.json beside it"
    return "JSON of another kind", "fetch the tokenizer.json of the model"


def _other(path: Path, name: str, hint: str) -> TokenizerError:
    return TokenizerError(f"[tokenizer] expected {_KINDS}, {shown(path)} is {name}. Hint: {hint}.")


def _described(found: dict[str, Any], path: Path) -> Tokenizer:
    """A tokenizer.json that we wrote ourselves: today only bytes needs one."""
    kind = found["anefast_tokenizer"]
    if kind != "bytes":
        raise TokenizerError(
            f"[tokenizer] expected kind bytes in {shown(path)}, got {shown(repr(kind))}. "
            "Hint: it is damaged, or a newer anefast wrote it."
        )
    return ByteTokenizer()

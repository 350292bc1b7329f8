"""Byte-level BPE, trained here on a given text or loaded from a Hugging Face tokenizer.json.

Not here: BPE itself. The `tokenizers` library does training and encoding; it is the extra `bpe`,
imported on use. Read base.py first.

A tokenizer trained here numbers <unk> 0, <s> 1, </s> 2, then 256 byte symbols and the merges:
every text encodes, and every text decodes to itself. Control names written in a text ("<s>") are
text, never control ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anefast.files import parse_json

from .base import FIRST_BYTE, Pieces, check_id, utf8, write

BOS_NAMES = (
    "<s>",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<bos>",
    "<|im_start|>",
    "<|endoftext|>",
)
EOS_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|im_end|>")


class BPETokenizer(Pieces):
    """A byte-level tokenizer of the `tokenizers` library behind our protocol.

    content: the text of a tokenizer.json. Raises ValueError when it is not one, is not byte-level
    (pieces of another kind cannot be turned back into bytes exactly), or names no BOS token;
    ImportError without the extra.
    """

    def __init__(self, content: str, name: str = "bpe") -> None:
        library = _library()
        self.name = name
        try:
            description = parse_json(content)
            if not isinstance(description, dict) or "model" not in description:
                raise ValueError("no model in it")
            self._inner = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(
                f"[tokenizer] expected a Hugging Face tokenizer.json, {name} is none "
                f"({_line(error)}). Hint: fetch it again, or train one with --tokenizer bpe:2048."
            ) from None
        if '"ByteLevel"' not in json.dumps(description.get("decoder")):
            raise ValueError(
                f"[tokenizer] expected a byte-level tokenizer, {name} decodes another way. "
                "Hint: a llama2.c tokenizer.bin carries SentencePiece vocabularies."
            )
        self._inner.encode_special_tokens = True
        self.vocab_size = int(self._inner.get_vocab_size(with_added_tokens=True))
        self.bos_id = self._control(BOS_NAMES)
        self.eos_id = self._control(EOS_NAMES)
        controls = {i for i, t in self._inner.get_added_tokens_decoder().items() if t.special}
        symbols = _byte_symbols()
        self._pieces: list[bytes] = []
        for i in range(self.vocab_size):
            symbol = self._inner.id_to_token(i)
            if symbol is None or i in controls:
                self._pieces.append(b"")
            elif all(character in symbols for character in symbol):
                self._pieces.append(bytes(symbols[character] for character in symbol))
            else:
                self._pieces.append(utf8(symbol))

    def _control(self, names: tuple[str, ...]) -> int:
        for name in names:
            found = self._inner.token_to_id(name)
            if found is not None:
                return int(found)
        raise ValueError(
            f"[tokenizer] expected one of {', '.join(names)} in {self.name}, got none. "
            "Hint: the token stream needs a mark before each document; add one and train again."
        )

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        utf8(text)  # the library panics on lone surrogates
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        body: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return [self.bos_id] * bos + body + [self.eos_id] * eos

    def piece(self, token: int, previous: int | None = None) -> bytes:
        check_id(token, self.vocab_size, self.name)
        return self._pieces[token]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        return write(Path(folder) / "tokenizer.json", self._inner.to_str(pretty=True).encode())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learns merges from `texts` up to vocab_size ids; fewer when the text runs out of pairs.

        vocab_size: at least 259, the bytes and three control ids. The same texts give the same
        tokenizer.
        """
        library = _library()
        if vocab_size < FIRST_BYTE + 256:
            raise ValueError(
                f"[tokenizer] expected a BPE vocabulary of at least {FIRST_BYTE + 256}, "
                f"got {vocab_size}. Hint: the 256 bytes and 3 control ids are the least."
            )
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=sorted(_byte_symbols()),
            show_progress=False,
        )
        inner.train_from_iterator(iter(texts), trainer)
        return cls(inner.to_str(), f"bpe:{inner.get_vocab_size()}")


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "[tokenizer] BPE needs the tokenizers library, which is not installed. "
            "Hint: pip install 'anefast[bpe]'."
        ) from None
    return tokenizers


def _byte_symbols() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest is U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    symbols.update({chr(0x100 + i): byte for i, byte in enumerate(hidden)})
    return symbols


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."

"""BPE of the `tokenizers` library: byte-level, trained here or loaded from a tokenizer.json, and
SentencePiece's, loaded.

Not here: BPE itself. The `tokenizers` library does training and encoding; it is the extra `bpe`,
imported on use. Read base.py first.

A tokenizer trained here numbers <unk> 0, <s> 1, </s> 2, then 256 byte symbols and the merges:
every text encodes, and every text decodes to itself. Control names written in a text ("<s>") are
text, never control ids.

Which tokens begin and end a document is what the files beside a tokenizer.json say
(tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json). Where they
say nothing, it is the first of the usual names that it has; where they say that there is no such
token, too, because documents need a mark between them. Whether a prompt begins with BOS is another
question: `adds_bos`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from anefast.errors import shown
from anefast.files import MIB, read_json, read_text
from anefast.parsing import parse_json

from .base import FIRST_BYTE, Pieces, TokenizerError, before_space, check_id, utf8, write

BOS_NAMES = (
    "<s>",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<bos>",
    "<|endoftext|>",  # before a chat's marks: SmolLM2 and Qwen have both
    "<|im_start|>",
)
BOS_NAMES_BEFORE = (*BOS_NAMES[:4], "<|im_start|>", "<|endoftext|>")  # runs without stated marks
EOS_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|im_end|>")
CONFIG = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_STATED_IN = (CONFIG, "special_tokens_map.json", "generation_config.json", "config.json")
_MAX_SETTINGS_BYTES = 16 * MIB

# Patterns by which common tokenizers part a text into words. In none of them does a match go on
# from a character that is no white space to a space, or from a letter or digit to a line's end.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
_WORD_PATTERNS = {GPT2_PATTERN, LLAMA3_PATTERN, QWEN_PATTERN}
MOST_IDS = 1 << 20  # the largest real vocabularies have a quarter of them
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SENTENCEPIECE = {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}
_TEMPLATE = "TemplateProcessing"
_NORMAL_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}


@dataclass(frozen=True)
class Marks:
    """The tokens around a document, by text or by id; None if no file names them."""

    bos: str | int | None = None
    eos: str | int | None = None
    adds_bos: bool | None = None  # whether a prompt begins with BOS
    chat_template: str = ""  # how a chat is written (chat.py)
    bos_names: tuple[str, ...] = BOS_NAMES


def stated_marks(folder: Path) -> Marks:
    """Reads a tokenizer's special tokens from its folder. FileError where a file is unsound."""
    bos: str | int | None = None
    eos: str | int | None = None
    adds_bos: bool | None = None
    for name in _STATED_IN:
        if not (folder / name).is_file():
            continue
        found = read_json(folder / name, _MAX_SETTINGS_BYTES, "tokenizer")
        if isinstance(found, dict):
            bos = _stated(found, "bos") if bos is None else bos
            eos = _stated(found, "eos") if eos is None else eos
            if adds_bos is None and isinstance(found.get("add_bos_token"), bool):
                adds_bos = found["add_bos_token"]
    old_run = (folder / "state.json").is_file() and not (folder / CONFIG).is_file()
    if old_run:
        return Marks(bos, eos, True, bos_names=BOS_NAMES_BEFORE)
    return Marks(bos, eos, adds_bos, _stated_template(folder))


def _stated_template(folder: Path) -> str:
    """The chat template of a folder: a file of its own, or in tokenizer_config.json."""
    if (folder / TEMPLATE_FILE).is_file():
        return read_text(folder / TEMPLATE_FILE, _MAX_SETTINGS_BYTES, "tokenizer")
    if not (folder / CONFIG).is_file():
        return ""
    found = read_json(folder / CONFIG, _MAX_SETTINGS_BYTES, "tokenizer")
    template = found.get("chat_template") if isinstance(found, dict) else None
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _stated(settings: dict[str, Any], which: str) -> str | int | None:
    token = settings.get(f"{which}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        return token
    number = settings.get(f"{which}_token_id")
    if isinstance(number, list) and number:
        number = number[0]  # the others end a turn of a chat
    return number if isinstance(number, int) and not isinstance(number, bool) else None


class BPETokenizer(Pieces):
    """A tokenizer of the `tokenizers` library behind our protocol.

    content: the text of a tokenizer.json. marks: what is stated of its BOS and EOS. unused: ids
    that it leaves out. adds_bos: whether a prompt begins with BOS: as stated, else as its
    post-processor says. Raises TokenizerError when it is not one, is neither byte-level nor
    SentencePiece's (pieces of another kind cannot be turned back into bytes exactly), or has no BOS
    token; ImportError without the extra.
    """

    def __init__(self, content: str, name: str = "bpe", marks: Marks | None = None) -> None:
        library = _library()
        self.name = name
        marks = marks or Marks()
        self.chat_template = marks.chat_template
        try:
            description = parse_json(content)
            if not isinstance(description, dict) or "model" not in description:
                raise ValueError("no model in it")
            self._inner = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"[tokenizer] expected a Hugging Face tokenizer.json, {name} is none "
                f"({_line(error)}). Hint: fetch it again, or train one with --tokenizer bpe:2048."
            ) from None
        decoders = _flat(description.get("decoder"), "decoders")
        byte_level = any(step.get("type") == "ByteLevel" for step in decoders)
        if not byte_level and not _is_sentencepiece(decoders):
            raise TokenizerError(
                f"[tokenizer] expected a byte-level or SentencePiece tokenizer, {name} decodes "
                "another way. Hint: use the tokenizer.json of a Llama, Qwen or GPT-2 model."
            )
        self._inner.encode_special_tokens = True
        self._inner.no_truncation()  # a file may ask for both, as its model was trained
        self._inner.no_padding()
        if description["model"].get("dropout"):
            self._inner.model.dropout = None  # which would draw another encoding each time
        ids = self._inner.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        if self.vocab_size > MOST_IDS:
            raise TokenizerError(
                f"[tokenizer] expected ids below {MOST_IDS:,} in {name}, "
                f"got {self.vocab_size - 1:,}. Hint: it is damaged; fetch it again."
            )
        self.unused = frozenset(range(self.vocab_size)) - set(ids)
        self.bos_id = self._mark("bos", marks.bos, marks.bos_names, marks.eos)
        self.eos_id = self._mark("eos", marks.eos, EOS_NAMES, marks.bos)
        self._strips_space = _strips_space(decoders)
        stated = marks.adds_bos
        self.adds_bos = self._template_begins(description) if stated is None else stated
        self._cuts_before_space = _parts_words(description)
        self._cuts_before_line = self._cuts_before_space and not _adds_space(description)
        controls = {i for i, t in self._inner.get_added_tokens_decoder().items() if t.special}
        spelt = _byte_level_piece if byte_level else _sentencepiece_piece
        self._pieces: list[bytes] = []
        for i in range(self.vocab_size):
            symbol = self._inner.id_to_token(i)
            byte = not byte_level and symbol is not None and _BYTE.fullmatch(symbol)
            hidden = symbol is None or (i in controls and not byte)
            self._pieces.append(b"" if hidden else spelt(symbol))

    def _mark(
        self, which: str, stated: str | int | None, names: tuple[str, ...], other: str | int | None
    ) -> int:
        """The id of a mark: as stated, else the first of `names`, else the other mark as stated."""
        if stated is not None:
            found = self._id(stated)
            if found is None:
                raise TokenizerError(
                    f"[tokenizer] expected the {which} token {shown(repr(stated))} that the files "
                    f"beside {self.name} name, it has none. Hint: they belong to another tokenizer."
                )
            return found
        for candidate in (*names, *(() if other is None else (other,))):
            found = self._id(candidate)
            if found is not None:
                return found
        raise TokenizerError(
            f"[tokenizer] expected one of {', '.join(names)} in {self.name}, got none. "
            "Hint: the token stream needs a mark before each document; add one and train again."
        )

    def _id(self, token: str | int) -> int | None:
        if isinstance(token, str):
            if any("\ud800" <= character <= "\udfff" for character in token):
                return None  # which the library panics on
            found = self._inner.token_to_id(token)
            return None if found is None else int(found)
        return token if 0 <= token < self.vocab_size and token not in self.unused else None

    def _template_begins(self, description: dict[str, Any]) -> bool:
        """True if the post-processor puts BOS in front of a text."""
        for step in _flat(description.get("post_processor"), "processors"):
            first = (step.get("single") or [{}])[0] if step.get("type") == _TEMPLATE else {}
            named = (first.get("SpecialToken") or {}).get("id")
            if named is not None and self._id(named) == self.bos_id:
                return True
        return False

    def encode(self, text: str, bos: bool = True, eos: bool = False) -> list[int]:
        body = _ids_of(self._inner, text)
        return [self.bos_id] * bos + body + [self.eos_id] * eos

    def cut(self, text: str) -> int:
        if not self._cuts_before_space:
            return 0
        at = before_space(text)
        if not self._cuts_before_line:
            return at
        end = len(text)
        while (line := text.rfind("\n", at + 1, end)) > at:
            if text[line - 1].isalnum() and text[line - 1] < "\U00010000":
                return line
            end = line
        return at

    def encode_rest(self, text: str) -> list[int]:
        return _ids_of(self._going_on, text)

    @cached_property
    def _going_on(self) -> Any:
        """The tokenizer without the space that it puts in front of a text."""
        description = json.loads(self._inner.to_str())
        steps = _flat(description.get("normalizer"), "normalizers")
        parts = _flat(description.get("pre_tokenizer"), "pretokenizers")
        if not any(s.get("type") == "Prepend" for s in steps) and not any(map(_adds, parts)):
            return self._inner
        kept = [s for s in steps if s.get("type") != "Prepend"]
        description["normalizer"] = {"type": "Sequence", "normalizers": kept}
        for part in filter(_adds, parts):
            part |= {"add_prefix_space": False}
            if part.get("type") == "Metaspace":
                part["prepend_scheme"] = "never"
        found = _library().Tokenizer.from_str(json.dumps(description))
        found.encode_special_tokens = True
        return found

    def piece(self, token: int, previous: int | None = None) -> bytes:
        check_id(token, self.vocab_size, self.name)
        found = self._pieces[token]
        # the space that encoding put in front of the text comes off again, but only at its start
        begins = self._strips_space and (previous is None or previous == self.bos_id)
        return found[1:] if begins and found.startswith(b" ") else found

    def marks(self) -> list[str]:
        """The special tokens, as they are spelled."""
        added = self._inner.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    def encode_marked(self, text: str, begins: bool = True) -> list[int]:
        """Ids of a text whose special tokens are meant: each is one id. No BOS is added.

        begins: not the rest of a text. The rest gets no space in front, up to its first mark."""
        if not begins:
            marks = (text.find(mark) for mark in self.marks())
            at = min((place for place in marks if place >= 0), default=len(text))
            head = self.encode_rest(text[:at]) if at else []
            return head + (self.encode_marked(text[at:]) if at < len(text) else [])
        self._inner.encode_special_tokens = False
        try:
            return _ids_of(self._inner, text)
        finally:
            self._inner.encode_special_tokens = True

    def text_of(self, token: int) -> str:
        """The text of a token in the vocabulary."""
        return str(self._inner.id_to_token(token))

    def description(self) -> dict[str, Any]:
        """Its tokenizer.json, parsed."""
        found: dict[str, Any] = json.loads(self._inner.to_str())
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """tokenizer.json, and beside it which tokens begin and end a document."""
        marks = {
            "bos_token": self._inner.id_to_token(self.bos_id),
            "eos_token": self._inner.id_to_token(self.eos_id),
            "add_bos_token": self.adds_bos,
        }
        if self.chat_template:
            marks["chat_template"] = self.chat_template
        write(Path(folder) / CONFIG, (json.dumps(marks) + "\n").encode())
        return write(Path(folder) / "tokenizer.json", self._inner.to_str(pretty=True).encode())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learns merges from `texts` up to vocab_size ids; fewer when the text runs out of pairs.

        vocab_size: at least 259, the bytes and three control ids. The same texts give the same
        tokenizer.
        """
        library = _library()
        if vocab_size < FIRST_BYTE + 256:
            raise TokenizerError(
                f"[tokenizer] expected a BPE vocabulary of at least {FIRST_BYTE + 256}, "
                f"got {vocab_size}. Hint: the 256 bytes and 3 control ids are the least."
            )
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=sorted(byte_symbols()),
            show_progress=False,
        )
        inner.train_from_iterator(iter(texts), trainer)
        return cls(inner.to_str(), f"bpe:{inner.get_vocab_size()}", Marks(adds_bos=True))


def _byte_level_piece(symbol: str) -> bytes:
    symbols = byte_symbols()
    if all(character in symbols for character in symbol):
        return bytes(symbols[character] for character in symbol)
    return utf8(symbol)


def _sentencepiece_piece(symbol: str) -> bytes:
    if byte := _BYTE.fullmatch(symbol):
        return bytes([int(byte[1], 16)])
    return utf8(symbol.replace("▁", " "))


def _is_sentencepiece(decoders: list[dict[str, Any]]) -> bool:
    """True if a decoder turns ▁ to spaces and <0xNN> to bytes, and does no more."""
    kinds = {step.get("type") for step in decoders}
    return bool(kinds & {"Replace", "Metaspace"}) and kinds <= _SENTENCEPIECE


def _strips_space(decoders: list[dict[str, Any]]) -> bool:
    for step in decoders:
        if step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1:
            return True
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return True
    return False


def _parts_words(description: dict[str, Any]) -> bool:
    """True if every token of a text ends before a space that follows another character.

    True only for parts that are known to keep to that; see _WORD_PATTERNS.
    """
    normal = _flat(description.get("normalizer"), "normalizers")
    steps = _flat(description.get("pre_tokenizer"), "pretokenizers")
    if any(step.get("type") not in _NORMAL_FORMS for step in normal):
        return False
    parts = False
    for step in steps:
        kind = step.get("type")
        if kind == "Split" and (step.get("pattern") or {}).get("Regex") in _WORD_PATTERNS:
            parts = parts or step.get("behavior") == "Isolated"
        elif kind == "ByteLevel":
            parts = parts or step.get("use_regex", True) is True
        elif kind != "Digits":
            return False
    added = [t for t in description.get("added_tokens") or () if not t.get("special")]
    across = (t.get("rstrip") or re.search(r"\S\s", t.get("content", "")) for t in added)
    return parts and not any(across)


def _adds_space(description: dict[str, Any]) -> bool:
    steps = _flat(description.get("pre_tokenizer"), "pretokenizers")
    return any(step.get("add_prefix_space") for step in steps)


def _ids_of(inner: Any, text: str) -> list[int]:
    raw = utf8(text)  # the library panics on lone surrogates
    ids: list[int] = inner.encode(raw.decode("utf-8", "replace"), add_special_tokens=False).ids
    return ids


def _adds(step: dict[str, Any]) -> bool:
    """True if a pre-tokenizer may put a space in front of a text."""
    return bool(step.get("type") == "Metaspace" or step.get("add_prefix_space"))


def _flat(step: Any, within: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the steps of which it is made."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [part for inner in step.get(within) or () for part in _flat(inner, within)]
    return [step]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "[tokenizer] BPE needs the tokenizers library, which is not installed. "
            "Hint: pip install 'anefast[bpe]'."
        ) from None
    return tokenizers


@cache
def byte_symbols() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest is U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    symbols.update({chr(0x100 + i): byte for i, byte in enumerate(hidden)})
    return symbols


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."

"""Tokenizers in the key-value pairs of GGUF files: out of them, and into them.

`tokenizer.ggml.model` says which: "gpt2" is byte-level BPE, whose text is parted by the pattern
that `tokenizer.ggml.pre` names; "llama" is SentencePiece's BPE with scores (gguf_pieces.py). Where
a file has the whole tokenizer.json as well, that counts. Names and patterns: ggml-org/llama.cpp,
src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from anefast.errors import shown

from .base import ByteTokenizer, Tokenizer, TokenizerError
from .bpe import LLAMA3_PATTERN, QWEN_PATTERN, BPETokenizer, byte_symbols
from .gguf_keys import (
    AS_WRITTEN,
    CONTROL,
    NORMAL,
    PREFIX,
    UNUSED,
    USER,
    filled,
    kinds,
    marks,
    pairs,
    strings,
    texts_of,
)  # fmt: skip
from .gguf_pieces import HUGGING_FACE, plain_steps, read, write_merges, write_pieces
from .llama2c import Llama2cTokenizer

log = logging.getLogger("anefast")


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {"type": "Sequence", "pretokenizers": [split | {"invert": False}, _byte_level(False)]}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


_DIGITS = {"type": "Digits", "individual_digits": True}
PRE: dict[str, dict[str, Any]] = {  # tokenizer.ggml.pre: a pre_tokenizer of tokenizer.json
    "gpt-2": _byte_level(True),
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _byte_level(True)]},
    "llama-bpe": _split(LLAMA3_PATTERN),
    "qwen2": _split(QWEN_PATTERN),
}
ADDS_BOS = {"llama-bpe"}  # where the file does not say
_NORMALIZERS = {"qwen2": {"type": "NFC"}}


def tokenizer_of(values: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer that a file's pairs describe. TokenizerError names what is not there or known.

    name: of the file, for messages.
    """
    kind = values.get(f"{PREFIX}model")
    kind = kind if isinstance(kind, str) else None
    tokens = strings(values, "tokens", name)
    if isinstance(whole := values.get(HUGGING_FACE), str):
        return BPETokenizer(whole, f"bpe:{name}", marks(values, None, None, adds_bos=None))
    if kind == "gpt2":
        return _byte_level_bpe(values, tokens, name)
    if kind == "llama":
        return read(values, tokens, name)
    raise TokenizerError(
        f"[tokenizer] expected {PREFIX}model gpt2 or llama in {name}, got {shown(kind)}. "
        "Hint: name a tokenizer.json with --tokenizer."
    )


def pairs_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The pairs for a file that llama.cpp tokenizes with. TokenizerError where it has no such
    tokenizer."""
    if isinstance(tokenizer, ByteTokenizer):
        return _pairs_of_bytes(tokenizer)
    if isinstance(tokenizer, Llama2cTokenizer):
        return write_pieces(tokenizer)
    if isinstance(tokenizer, BPETokenizer):
        return _pairs_of_bpe(tokenizer)
    raise TokenizerError(f"[tokenizer] GGUF has no tokenizer like {tokenizer.name}.")


# Out of a file.


def _byte_level_bpe(values: Mapping[str, Any], tokens: Sequence[str], name: str) -> BPETokenizer:
    pre = values.get(f"{PREFIX}pre", "gpt-2")
    if not isinstance(pre, str) or pre not in PRE:
        raise TokenizerError(
            f"[tokenizer] expected {PREFIX}pre {', '.join(PRE)} in {name}, got {shown(pre)}. "
            "Hint: name the model's tokenizer.json with --tokenizer."
        )
    if len(set(tokens)) != len(tokens):  # on which the library panics
        raise TokenizerError(f"[tokenizer] expected different tokens in {name}, got one twice.")
    types = kinds(values, len(tokens), name)
    added = [
        {"id": i, "content": token, "special": kind == CONTROL, **AS_WRITTEN}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER)
    ]
    merges = [pair.split(" ", 1) for pair in strings(values, "merges", name)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre == "llama-bpe",
        "vocab": {token: i for i, token in enumerate(tokens) if types[i] != UNUSED},
        "merges": merges,
    }
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _NORMALIZERS.get(pre),
        "pre_tokenizer": PRE[pre],
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": model,
    }
    own = marks(values, None, None, adds_bos=pre in ADDS_BOS)
    return BPETokenizer(json.dumps(description), f"bpe:{name}", own)


# Into a file.


def _pairs_of_bytes(tokenizer: ByteTokenizer) -> dict[str, Any]:
    """Byte-level BPE that never merges."""
    symbols = sorted(byte_symbols(), key=byte_symbols().__getitem__)
    tokens = ["<unk>", "<s>", "</s>", *symbols]
    types = [CONTROL] * 3 + [NORMAL] * 256
    return pairs("gpt2", tokenizer, tokens, types, pre="gpt-2", merges=[])


def _pairs_of_bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    description = tokenizer.description()
    if description["model"].get("byte_fallback"):
        return write_merges(tokenizer, description)
    parts = description.get("pre_tokenizer")
    pre = next((name for name, known in PRE.items() if _alike(parts, known)), None)
    if pre is None:
        raise TokenizerError(
            f"[tokenizer] expected a pre-tokenizer that GGUF has a name for ({', '.join(PRE)}), "
            f"{tokenizer.name} has another. Hint: --to hf keeps it as it is."
        )
    by_id, added = texts_of(description)
    tokens, types = filled(by_id, tokenizer.vocab_size), []
    for i in range(tokenizer.vocab_size):
        special = i in added and added[i]["special"]
        known = NORMAL if i in by_id else UNUSED
        types.append(CONTROL if special else USER if i in added else known)
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    written = pairs("gpt2", tokenizer, tokens, types, pre=pre, merges=merges)
    return written | _normalizer(tokenizer, description, pre)


def _normalizer(tokenizer: BPETokenizer, description: dict[str, Any], pre: str) -> dict[str, Any]:
    """The tokenizer.json where its normalizer is not the one that is read for `pre`.

    llama.cpp has none. TokenizerError for one that is more than NFC, which changes no usual text.
    """
    found = [step[0] for step in plain_steps(description.get("normalizer"), "normalizers")]
    if found not in ([], ["NFC"]):
        raise TokenizerError(
            f"[tokenizer] expected a tokenizer without a normalizer, or with NFC, {tokenizer.name} "
            f"has {shown(', '.join(map(str, found)))}. "
            "Hint: --to hf keeps it as it is."
        )
    usual = _NORMALIZERS.get(pre)
    if found == ([usual["type"]] if usual else []):
        return {}
    if found:
        log.warning("llama.cpp does not compose characters (NFC), as %s does", tokenizer.name)
    return {HUGGING_FACE: json.dumps(description, ensure_ascii=False)}


def _alike(parts: Any, known: dict[str, Any]) -> bool:
    """True if two pre_tokenizers part texts alike; what only moves offsets does not count."""

    def steps(part: Any) -> list[tuple[Any, ...]]:
        inner = part.get("pretokenizers") if isinstance(part, dict) else None
        flat = [s for p in inner for s in steps(p)] if inner is not None else []
        if inner is not None or not isinstance(part, dict):
            return flat
        pattern = (part.get("pattern") or {}).get("Regex")
        own = (part.get("use_regex", True), part.get("individual_digits"), part.get("behavior"))
        return [(part.get("type"), pattern, *own)]

    return steps(parts) == steps(known)

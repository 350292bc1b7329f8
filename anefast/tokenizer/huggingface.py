"""A tokenizer as the files of a Hugging Face folder: tokenizer.json and tokenizer_config.json.

BPE of the `tokenizers` library is kept as it is. The bytes become byte-level BPE that never merges.
llama2.c's scored pieces become SentencePiece-style BPE: each piece is a merge of two others, better
scores first, which is what llama2.c does one pair at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .base import ByteTokenizer, Tokenizer, TokenizerError, adds_bos
from .bpe import BPETokenizer, byte_symbols
from .llama2c import NEVER, Llama2cTokenizer

CONTROLS = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2 of bytes and of llama2.c


def files_of(tokenizer: Tokenizer) -> dict[str, bytes]:
    """File names and contents. TokenizerError where the library has no such tokenizer."""
    if isinstance(tokenizer, BPETokenizer):
        description = tokenizer.description()
        names = {"bos_token": tokenizer.text_of(tokenizer.bos_id)}
        names["eos_token"] = tokenizer.text_of(tokenizer.eos_id)
    elif isinstance(tokenizer, ByteTokenizer):
        description, names = _bytes(), {"bos_token": "<s>", "eos_token": "</s>"}
    elif isinstance(tokenizer, Llama2cTokenizer):
        description = _scored(tokenizer)
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        raise TokenizerError(f"[tokenizer] Hugging Face has no tokenizer like {tokenizer.name}.")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "add_bos_token": adds_bos(tokenizer),
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(tokenizer, BPETokenizer) and tokenizer.chat_template:
        config["chat_template"] = tokenizer.chat_template
    texts = {"tokenizer.json": description, "tokenizer_config.json": config}
    return {name: (json.dumps(t, ensure_ascii=False) + "\n").encode() for name, t in texts.items()}


def _description(model: dict[str, Any], **steps: Any) -> dict[str, Any]:
    added = [
        {"id": i, "content": name, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for i, name in enumerate(CONTROLS)
    ]
    first = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    plain = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": template,
        "decoder": None,
        "model": {"type": "BPE", **plain, "ignore_merges": False, **model},
        **steps,
    }


def _bytes() -> dict[str, Any]:
    symbols = byte_symbols()
    vocabulary = {name: i for i, name in enumerate(CONTROLS)}
    vocabulary |= {symbol: len(CONTROLS) + byte for symbol, byte in symbols.items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level["use_regex"] = True  # as GPT-2 parts words; nothing merges in any
    model: dict[str, Any] = {"unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"vocab": vocabulary, "merges": []}
    return _description(model, pre_tokenizer=level, decoder=level)


def _scored(tokenizer: Llama2cTokenizer) -> dict[str, Any]:
    texts = [piece.decode("utf-8", "replace").replace(" ", "▁") for piece in tokenizer.pieces]
    texts[: len(CONTROLS)] = CONTROLS
    ids = {text: i for i, text in reversed(list(enumerate(texts)))}
    made = [i for i in range(259, len(texts)) if ids[texts[i]] == i]
    model = {
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": ids,
        "merges": merges_of(texts, tokenizer.scores, ids, made),
    }
    return _description(model, **spaces(prefix=True))


def merges_of(
    texts: Sequence[str], scores: Sequence[float], ids: Mapping[str, int], made: Iterable[int]
) -> list[list[str]]:
    """Every pair of pieces that spells one of `made`, better scores first."""
    merges: list[tuple[float, int, list[str]]] = []
    for i in made:
        if scores[i] > NEVER:
            pairs = [(texts[i][:k], texts[i][k:]) for k in range(1, len(texts[i]))]
            merges += [(-scores[i], i, [*p]) for p in pairs if p[0] in ids and p[1] in ids]
    merges.sort(key=lambda merge: merge[:2])
    return [pair for *_, pair in merges]


def spaces(prefix: bool) -> dict[str, Any]:
    """Normalizer and decoder of SentencePiece's BPE. prefix: every text gets a space in front."""
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] * prefix
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * prefix
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, space]},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }

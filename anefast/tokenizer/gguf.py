"""Tokenizers in the key-value pairs of GGUF files: out of them, and into them.

`tokenizer.ggml.model` says which: "gpt2" is byte-level BPE, whose text is parted by the pattern
that `tokenizer.ggml.pre` names; "llama" is SentencePiece's BPE with scores. Names and patterns:
ggml-org/llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from anefast.errors import shown

from .base import ByteTokenizer, Tokenizer, TokenizerError, adds_bos
from .bpe import LLAMA3_PATTERN, QWEN_PATTERN, BPETokenizer, Marks, byte_symbols
from .llama2c import NEVER, Llama2cTokenizer

log = logging.getLogger("anefast")

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"


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
_NORMALIZERS = {"qwen2": {"type": "NFC"}}


def tokenizer_of(values: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer that a file's pairs describe. TokenizerError names what is not there or known.

    name: of the file, for messages.
    """
    kind = values.get(f"{PREFIX}model")
    kind = kind if isinstance(kind, str) else None
    tokens = _strings(values, "tokens", name)
    if kind == "gpt2":
        return _byte_level_bpe(values, tokens, name)
    if kind == "llama":
        return _sentencepiece(values, tokens, name)
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
        return _pairs_of_pieces(tokenizer)
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
        raise TokenizerError(f"[tokenizer] expected each of {name}'s tokens once.")
    kinds = _kinds(values, len(tokens), name)
    added = [
        {"id": i, "content": token, "special": kind == CONTROL, **_AS_WRITTEN}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER)
    ]
    merges = [pair.split(" ", 1) for pair in _strings(values, "merges", name)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre == "llama-bpe",
        "vocab": {token: i for i, token in enumerate(tokens) if kinds[i] != UNUSED},
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
    marks = Marks(
        _id(values, "bos_token_id"),
        _id(values, "eos_token_id"),
        _flag(values, "add_bos_token"),
        template if isinstance(template := values.get(TEMPLATE), str) else "",
    )
    return BPETokenizer(json.dumps(description), f"bpe:{name}", marks)


_AS_WRITTEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _sentencepiece(values: Mapping[str, Any], tokens: Sequence[str], name: str) -> Llama2cTokenizer:
    for key, wanted in (("add_space_prefix", True), ("remove_extra_whitespaces", False)):
        if values.get(PREFIX + key, wanted) is not wanted:
            raise TokenizerError(
                f"[tokenizer] expected {PREFIX}{key} {str(wanted).lower()} in {name}, whose pieces "
                "are read as Llama's are. Hint: name the model's tokenizer.json with --tokenizer."
            )
    if values.get(TEMPLATE):
        log.warning(
            "the chat template of %s is not read, as its pieces have no marks here; "
            "the Hugging Face folder of the model has both", name,
        )  # fmt: skip
    scores = _numbers(values, "scores", len(tokens), f"a score for each of {name}'s tokens")
    pieces = [token.replace("▁", " ").encode("utf-8", "replace") for token in tokens]
    kinds = _kinds(values, len(tokens), name)
    while kinds and kinds[-1] == UNUSED:  # names for rows of a padded table
        kinds.pop()
    pieces, scores = pieces[: len(kinds)], scores[: len(kinds)]
    return Llama2cTokenizer(pieces, scores, f"llama2c:{name}")


def _flag(values: Mapping[str, Any], key: str) -> bool:
    return values.get(PREFIX + key) is True


def _kinds(values: Mapping[str, Any], count: int, name: str) -> list[int]:
    """The type of each token."""
    if values.get(f"{PREFIX}token_type") is None:
        return [NORMAL] * count
    said = f"a type for each of {name}'s tokens"
    return [int(kind) for kind in _numbers(values, "token_type", count, said)]


def _numbers(values: Mapping[str, Any], key: str, count: int, said: str) -> list[float]:
    """A list of so many finite numbers."""
    try:
        found = [float(value) for value in values.get(PREFIX + key, ())]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise TokenizerError(f"[tokenizer] expected {said}.")
    return found


def _strings(values: Mapping[str, Any], key: str, name: str) -> list[str]:
    found = values.get(PREFIX + key)
    if not isinstance(found, list) or not all(isinstance(t, str) for t in found):
        raise TokenizerError(
            f"[tokenizer] expected a list {PREFIX}{key} in {name}, there is none. "
            "Hint: name a tokenizer.json with --tokenizer."
        )
    return found


def _id(values: Mapping[str, Any], key: str) -> int | None:
    found = values.get(PREFIX + key)
    return found if isinstance(found, int) else None


# Into a file.


def _pairs(
    model: str, tokenizer: Tokenizer, tokens: list[str], types: list[int], **more: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {"model": model, "tokens": tokens, "token_type": types, **more}
    found |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    found["add_bos_token"] = adds_bos(tokenizer)
    return {PREFIX + key: value for key, value in found.items()}


def _pairs_of_pieces(tokenizer: Llama2cTokenizer) -> dict[str, Any]:
    tokens = [p.decode("utf-8", "replace").replace(" ", "▁") for p in tokenizer.pieces]
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    return _pairs("llama", tokenizer, tokens, types, scores=list(map(float, tokenizer.scores)))


def _pairs_of_bytes(tokenizer: ByteTokenizer) -> dict[str, Any]:
    """Byte-level BPE that never merges."""
    symbols = sorted(byte_symbols(), key=byte_symbols().__getitem__)
    tokens = ["<unk>", "<s>", "</s>", *symbols]
    types = [CONTROL] * 3 + [NORMAL] * 256
    return _pairs("gpt2", tokenizer, tokens, types, pre="gpt-2", merges=[])


def _pairs_of_bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    description = tokenizer.description()
    if (scored := _pairs_of_merges(tokenizer, description)) is not None:
        return scored
    parts = description.get("pre_tokenizer")
    pre = next((name for name, known in PRE.items() if _alike(parts, known)), None)
    if pre is None:
        raise TokenizerError(
            f"[tokenizer] expected a way to part words that GGUF names ({', '.join(PRE)}), "
            f"{tokenizer.name} has another. Hint: --to hf keeps it as it is."
        )
    by_id = {i: token for token, i in description["model"]["vocab"].items()}
    added = {t["id"]: t for t in description.get("added_tokens") or ()}
    by_id |= {i: t["content"] for i, t in added.items()}
    tokens, types = [], []
    for i in range(tokenizer.vocab_size):
        tokens.append(by_id.get(i, f"[unused{i}]"))
        special = i in added and added[i]["special"]
        known = NORMAL if i in by_id else UNUSED
        types.append(CONTROL if special else USER if i in added else known)
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    found = _pairs("gpt2", tokenizer, tokens, types, pre=pre, merges=merges)
    return found | ({TEMPLATE: tokenizer.chat_template} if tokenizer.chat_template else {})


def _pairs_of_merges(tokenizer: BPETokenizer, description: dict[str, Any]) -> dict[str, Any] | None:
    """SentencePiece's BPE as pieces with scores: those merged earlier have better ones.

    None where pieces do not encode as the merges do: scores belong to what two pieces make, so
    every two that make a piece have to be a merge, all of a piece side by side.
    """
    model, added = description["model"], description.get("added_tokens") or ()
    texts = {i: text for text, i in model["vocab"].items()} | {t["id"]: t["content"] for t in added}
    tokens = [texts.get(i, "") for i in range(tokenizer.vocab_size)]
    places: dict[str, list[int]] = {}
    for place, merge in enumerate(model["merges"]):
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        places.setdefault(first + second, []).append(place)
    begins_as_llama = tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)]
    if (
        not (begins_as_llama and model.get("byte_fallback") and _puts_a_space(description))
        or (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) != (1, 2, True)
        or not all(texts.values())
        or len(texts) != len(tokens)
        or not all(token["special"] for token in added)
        or any(found[-1] - found[0] >= len(found) for found in places.values())
    ):
        return None
    controls = {token["id"] for token in added}
    types, scores = [], []
    for i, token in enumerate(tokens):
        merged = places.get(token, [])
        kind = UNKNOWN if i == 0 else CONTROL if i in controls else NORMAL
        types.append(BYTE if 3 <= i < 259 else kind)
        halves = ((token[:k], token[k:]) for k in range(1, len(token)))
        known = sum(a in model["vocab"] and b in model["vocab"] for a, b in halves)
        if types[i] == NORMAL and known != len(merged):
            return None
        scores.append(-float(merged[0]) if merged else NEVER)
    pairs = _pairs("llama", tokenizer, tokens, types, scores=scores)
    return pairs | ({TEMPLATE: tokenizer.chat_template} if tokenizer.chat_template else {})


def _puts_a_space(description: dict[str, Any]) -> bool:
    """Whether every text gets a space in front, and nothing else but ▁ for spaces.

    Not Metaspace: it adds none where there is one.
    """
    steps = (description.get("normalizer") or {}).get("normalizers") or []
    plain = [step.get("prepend") or step.get("content") for step in steps]
    prepends = plain == ["▁", "▁"] and steps[0].get("type") == "Prepend"
    return prepends and not description.get("pre_tokenizer")


def _alike(parts: Any, known: dict[str, Any]) -> bool:
    """Whether two pre_tokenizers part texts alike; what only moves offsets does not count."""

    def steps(part: Any) -> list[tuple[Any, ...]]:
        inner = part.get("pretokenizers") if isinstance(part, dict) else None
        flat = [s for p in inner for s in steps(p)] if inner is not None else []
        if inner is not None or not isinstance(part, dict):
            return flat
        pattern = (part.get("pattern") or {}).get("Regex")
        own = (part.get("use_regex", True), part.get("individual_digits"), part.get("behavior"))
        return [(part.get("type"), pattern, *own)]

    return steps(parts) == steps(known)

"""SentencePiece's BPE in GGUF files: pieces with scores, whose best pair is merged first.

llama.cpp merges any two neighbours that spell a token, whatever its type, and puts a space in front
of each text if `add_space_prefix` says so (ggml-org/llama.cpp, src/llama-vocab.cpp). A
tokenizer.json lists the pairs themselves instead, so that some have no scores that do the same:
those are refused. Read gguf.py first.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anefast.errors import shown

from .base import Tokenizer, TokenizerError
from .bpe import BPETokenizer
from .gguf_keys import (
    AS_WRITTEN,
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER,
    filled,
    flag,
    kinds,
    marks,
    number,
    numbers,
    pairs,
    template,
    texts_of,
)  # fmt: skip
from .huggingface import merges_of, spaces
from .llama2c import NEVER, Llama2cTokenizer

log = logging.getLogger("anefast")

SPACE = "▁"
HUGGING_FACE = "tokenizer.huggingface.json"  # the whole tokenizer.json, for readers that take it
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_UNK, _BOS, _EOS = 0, 1, 2  # where a file names no ids


# Out of a file.


def read(values: Mapping[str, Any], tokens: Sequence[str], name: str) -> Tokenizer:
    """Reads the tokenizer. Llama's own pieces need no library; others need `tokenizers`."""
    if flag(values, "remove_extra_whitespaces", False):
        raise TokenizerError(
            f"[tokenizer] expected {PREFIX}remove_extra_whitespaces false in {name}, whose pieces "
            "are read as Llama's are. Hint: name the model's tokenizer.json with --tokenizer."
        )
    scores = numbers(values, "scores", len(tokens), f"a score for each of {name}'s tokens")
    types = kinds(values, len(tokens), name)
    while types and types[-1] == UNUSED:  # names for rows of a padded table
        types.pop()
    tokens, scores = list(tokens[: len(types)]), scores[: len(types)]
    ids = tuple(number(values, f"{key}_token_id") for key in ("bos", "eos"))
    if (
        ids[0] in (None, _BOS)
        and ids[1] in (None, _EOS)
        and flag(values, "add_bos_token", True)
        and flag(values, "add_space_prefix", True)
        and not {CONTROL, USER, UNKNOWN} & set(types[259:])
        and not template(values)
    ):
        pieces = [token.replace(SPACE, " ").encode("utf-8", "replace") for token in tokens]
        return Llama2cTokenizer(pieces, scores, f"llama2c:{name}")
    return _as_merges(values, tokens, scores, types, name)


def _as_merges(
    values: Mapping[str, Any], tokens: list[str], scores: list[float], types: list[int], name: str
) -> BPETokenizer:
    # a token that a user added is looked for in the text as it is, where ▁ is no space
    types = [NORMAL if t == USER and SPACE in tokens[i] else t for i, t in enumerate(types)]
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    if len(vocab) != sum(kind != UNUSED for kind in types):
        raise TokenizerError(f"[tokenizer] expected different tokens in {name}, got one twice.")
    if missing := [byte for byte in BYTES if byte not in vocab]:
        raise TokenizerError(
            f"[tokenizer] expected a token for each byte in {name}, it has none {missing[0]}. "
            "Hint: name the model's tokenizer.json with --tokenizer."
        )
    normal = [i for i, kind in enumerate(types) if kind == NORMAL and len(tokens[i]) > 1]
    twice, times = Counter(scores[i] for i in normal).most_common(1)[0] if normal else (0.0, 1)
    if times > 1:
        log.warning(
            "%d pieces of %s have the score %g: llama.cpp merges the leftmost of them first, which "
            "is not done here", times, name, twice,
        )  # fmt: skip
    unknown = number(values, "unknown_token_id", _UNK)
    names = [token for i, token in enumerate(tokens) if i == unknown and token in vocab]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(iter(names), None),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges_of(tokens, scores, vocab, normal),
    }
    added = [
        {"id": i, "content": tokens[i], "special": kind != USER, **AS_WRITTEN}
        for i, kind in enumerate(types)
        if kind in (CONTROL, UNKNOWN, USER)
    ]
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "pre_tokenizer": None,
        "post_processor": None,
        "model": model,
        **spaces(flag(values, "add_space_prefix", True)),
    }
    own = marks(values, _BOS, _EOS, adds_bos=True)
    return BPETokenizer(json.dumps(description), f"bpe:{name}", own)


# Into a file.


def write_pieces(tokenizer: Llama2cTokenizer) -> dict[str, Any]:
    tokens = [p.decode("utf-8", "replace").replace(" ", SPACE) for p in tokenizer.pieces]
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    return pairs("llama", tokenizer, tokens, types, scores=list(map(float, tokenizer.scores)))


def write_merges(tokenizer: BPETokenizer, description: dict[str, Any]) -> dict[str, Any]:
    """Pieces whose scores are the places of their merges. TokenizerError where no scores do what
    the merges do.

    Where only the space in front of a text is another one, that is said, and the tokenizer.json
    goes with the file, so that it comes back as it was.
    """
    model = description["model"]
    texts, added = texts_of(description)
    tokens = filled(texts, tokenizer.vocab_size)
    types = [
        _type(tokenizer, texts.get(i), added.get(i), model.get("unk_token"))
        for i in range(len(tokens))
    ]
    prefix, exact = _space_in_front(tokenizer, description)
    if model.get("ignore_merges"):
        raise _refused(tokenizer, "it takes whole words before any merge")
    if missing := set(BYTES) - model["vocab"].keys():
        raise _refused(tokenizer, f"it has no token {min(missing)}")
    written = pairs(
        "llama", tokenizer, tokens, types, add_space_prefix=prefix,
        scores=_scores(tokenizer, description, tokens, types),
    )  # fmt: skip
    if model.get("unk_token") in model["vocab"]:
        written[f"{PREFIX}unknown_token_id"] = model["vocab"][model["unk_token"]]
    if not exact:
        log.warning(
            "llama.cpp puts a space in front of every text and behind every mark, %s not where "
            "there is one: such texts differ there. The tokenizer.json is in the file as well",
            tokenizer.name,
        )
        written[HUGGING_FACE] = json.dumps(description, ensure_ascii=False)
    return written


def _type(
    tokenizer: BPETokenizer, text: str | None, added: dict[str, Any] | None, unknown: str | None
) -> int:
    if text is None:
        return UNUSED
    if text in BYTES:
        return BYTE
    if text == unknown:
        return UNKNOWN
    if added is None:
        return NORMAL
    if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
        raise _refused(tokenizer, f"its token {shown(text, 40)} takes the spaces beside it")
    return CONTROL if added.get("special") else USER


def _scores(
    tokenizer: BPETokenizer, description: dict[str, Any], tokens: list[str], types: list[int]
) -> list[float]:
    """The scores of pieces: pieces that are merged earlier have better ones.

    Scores belong to what two pieces make, so every two that make a piece have to be a merge, and
    all of a piece have to be side by side.
    """
    vocab = description["model"]["vocab"]
    places: dict[str, list[int]] = {}
    for place, merge in enumerate(description["model"]["merges"]):
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        places.setdefault(first + second, []).append(place)
    found = []
    for token, kind in zip(tokens, types, strict=True):
        merged = places.get(token, [])
        halves = ((token[:k], token[k:]) for k in range(1, len(token)))
        known = sum(a in vocab and b in vocab for a, b in halves)
        if kind != UNUSED and known != len(merged):
            raise _refused(tokenizer, f"{shown(token, 40)} is spelled by pairs it does not merge")
        if merged and merged[-1] - merged[0] >= len(merged):
            raise _refused(tokenizer, f"merges of {shown(token, 40)} are apart from each other")
        found.append(-float(merged[0]) if merged else NEVER)
    return found


def _space_in_front(tokenizer: BPETokenizer, description: dict[str, Any]) -> tuple[bool, bool]:
    """(True if a text gets a space in front, True if llama.cpp puts it at the same places)."""
    normal, parts = (
        plain_steps(description.get(key), within)
        for key, within in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
    )
    replace = ("Replace", " ", SPACE)
    if not parts and normal in ([("Prepend", SPACE), replace], [replace]):
        return len(normal) == 2, True
    if normal == [replace] and [p[:2] for p in parts] == [("Split", " ")]:  # there is none left
        return False, True
    if not normal and [part[:2] for part in parts] == [("Metaspace", SPACE)]:
        _, _, scheme, split = parts[0]
        if split and any(SPACE in token[1:] for token in description["model"]["vocab"]):
            raise _refused(tokenizer, f"it has pieces with {SPACE} inside, and parts words there")
        return scheme != "never", scheme == "never"
    raise _refused(tokenizer, "it parts or changes texts in another way than by their spaces")


def plain_steps(step: Any, within: str) -> list[tuple[Any, ...]]:
    """A normalizer or pre-tokenizer as kinds of steps with their settings."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [plain for inner in step.get(within) or () for plain in plain_steps(inner, within)]
    kind = step.get("type")
    pattern = (step.get("pattern") or {}).get("String")
    if kind == "Prepend":
        return [(kind, step.get("prepend"))]
    if kind == "Replace":
        return [(kind, pattern, step.get("content"))]
    if kind == "Metaspace":
        scheme, split = step.get("prepend_scheme", "always"), step.get("split", True)
        return [(kind, step.get("replacement"), scheme, split)]
    return [(kind, pattern)]


def _refused(tokenizer: Tokenizer, why: str) -> TokenizerError:
    return TokenizerError(
        f"[tokenizer] expected merges that GGUF's scores can express, {tokenizer.name} has others: "
        f"{why}. Hint: --to hf keeps it as it is."
    )

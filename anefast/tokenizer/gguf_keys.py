"""The keys of a tokenizer in a GGUF file, and how their values are checked.

Read gguf.py first. Names: ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .base import Tokenizer, TokenizerError, adds_bos
from .bpe import Marks

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
AS_WRITTEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


# Out of a file.


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    found = values.get(PREFIX + key)
    return found if isinstance(found, bool) else default


def number(values: Mapping[str, Any], key: str, default: int | None = None) -> int | None:
    found = values.get(PREFIX + key)
    return found if isinstance(found, int) else default


def kinds(values: Mapping[str, Any], count: int, name: str) -> list[int]:
    """The type of each token."""
    if values.get(f"{PREFIX}token_type") is None:
        return [NORMAL] * count
    said = f"a type for each of {name}'s tokens"
    return [int(kind) for kind in numbers(values, "token_type", count, said)]


def numbers(values: Mapping[str, Any], key: str, count: int, said: str) -> list[float]:
    """A list of `count` finite numbers."""
    try:
        found = [float(value) for value in values.get(PREFIX + key, ())]
    except (TypeError, ValueError):
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise TokenizerError(f"[tokenizer] expected {said}.")
    return found


def strings(values: Mapping[str, Any], key: str, name: str) -> list[str]:
    found = values.get(PREFIX + key)
    if not isinstance(found, list) or not all(isinstance(t, str) for t in found):
        raise TokenizerError(
            f"[tokenizer] expected a list {PREFIX}{key} in {name}, there is none. "
            "Hint: name a tokenizer.json with --tokenizer."
        )
    return found


def template(values: Mapping[str, Any]) -> str:
    """The chat template; empty where there is none."""
    found = values.get(TEMPLATE)
    return found if isinstance(found, str) else ""


def marks(
    values: Mapping[str, Any], bos: int | None, eos: int | None, adds_bos: bool | None
) -> Marks:
    """The marks of a document. What is given counts where the file says nothing."""
    return Marks(
        number(values, "bos_token_id", bos),
        number(values, "eos_token_id", eos),
        found if isinstance(found := values.get(f"{PREFIX}add_bos_token"), bool) else adds_bos,
        template(values),
    )


# Into a file.


def texts_of(description: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
    """The text of every id in a tokenizer.json, and those tokens that were added to its model."""
    added = {token["id"]: token for token in description.get("added_tokens") or ()}
    texts = {i: text for text, i in description["model"]["vocab"].items()}
    return texts | {i: token["content"] for i, token in added.items()}, added


def filled(texts: Mapping[int, str], size: int) -> list[str]:
    """A text for each of `size` ids, including unused ones."""
    return [texts.get(i, f"[unused{i}]") for i in range(size)]


def pairs(
    model: str, tokenizer: Tokenizer, tokens: list[str], types: list[int], **more: Any
) -> dict[str, Any]:
    """The pairs of a tokenizer. more: further keys behind the prefix."""
    found: dict[str, Any] = {"model": model, "tokens": tokens, "token_type": types, **more}
    found |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    found["add_bos_token"] = adds_bos(tokenizer)
    written = {PREFIX + key: value for key, value in found.items()}
    if said := getattr(tokenizer, "chat_template", ""):
        written[TEMPLATE] = said
    return written

"""Parses untrusted JSON and TOML strictly, within bounds. Every fault is a ValueError.

Files are files.py's; what a value must look like is schema.py's.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from anefast.errors import shown

TOML_CHARACTERS = 1 << 16


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """The value that JSON text stands for, or a ValueError, also when it is nested too deeply.

    strict: a key comes once, and there is no NaN; otherwise as Python takes it.
    """
    plain = text.decode() if isinstance(text, bytes) else text
    return _loads(_STRICT.decode if strict else json.loads, plain)


def parse_toml(text: str) -> dict[str, Any]:
    """The table that TOML text stands for, or a ValueError, also when it is nested too deeply.

    What a dotted key takes grows with the square of its length, so the text is bounded as well.
    """
    if len(text) > TOML_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, and {TOML_CHARACTERS:,} are the most")
    return dict(_loads(tomllib.loads, text))


def checksum(value: Any) -> str:
    """The sha256 of a JSON value, however it is spelled.

    >>> checksum({"a": 1, "b": 2}) == checksum(parse_json('{"b":  2, "a": 1}'))
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _loads(loads: Callable[[Any], Any], text: str) -> Any:
    try:
        return loads(text)
    except RecursionError:  # the libraries leave deep nesting to Python's stack
        raise ValueError("it is nested too deeply") from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(repr(key), 60)} comes twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)

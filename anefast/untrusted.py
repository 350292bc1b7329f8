"""JSON and TOML that anybody may have written: read, or refused with a ValueError.

The libraries refuse what is no JSON or TOML that way. What is nested too deeply for them they leave
to Python's stack, which is another error and no one line.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value that JSON text stands for."""
    return _read(json.loads, text)


def read_toml(text: str) -> dict[str, Any]:
    """The table that TOML text stands for."""
    return dict(_read(tomllib.loads, text))


def _read(loads: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        return loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

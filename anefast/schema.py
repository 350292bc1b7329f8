"""Checks the form of values from files: a check for each kind, put together like the value.

A check takes a value that JSON or TOML gave and returns it, or raises a ValueError that says where
in the value something else was expected. Checks bound numbers and lengths as well, so that what
passed can be computed with, drawn and printed.

    >>> row = record({"step": whole(0, 10**9)}, {"loss": number()})
    >>> row({"step": 3, "loss": 1})
    {'step': 3, 'loss': 1.0}
    >>> row({"step": "3"})
    Traceback (most recent call last):
    ValueError: step expected a whole number from 0 to 1,000,000,000, got '3'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from anefast.errors import shown

Check = Callable[[Any], Any]
LARGEST = 1e60  # of a number: sums and plots of such stay finite


def number(low: float = -LARGEST, high: float = LARGEST) -> Check:
    """A finite number, as a float."""

    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and low <= value <= high and abs(value) < math.inf):
            raise _expected(_range("a number", low, high), value)
        return float(value)

    return check


def whole(low: int = 0, high: int = 2**53) -> Check:
    """A whole number."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _expected(_range("a whole number", low, high), value)
        return value

    return check


def text(most: int = 4096) -> Check:
    """Text of at most `most` characters that can be encoded."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise _expected(f"text of at most {most:,} characters", value)
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise _expected("text without halves of characters", value)
        return value

    return check


def line(most: int = 400) -> Check:
    """Text that is one line and has nothing that a terminal would obey."""
    any_text = text(most)

    def check(value: Any) -> str:
        if shown(any_text(value), most + 1) != value:
            raise _expected("text on one line", value)
        return str(value)

    return check


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def maybe(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda value: None if value is None else check(value)


def several(check: Check, most: int = 10_000) -> Check:
    """A list of at most `most` values."""

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise _expected(f"a list of at most {most:,}", value)
        return [_at(f"[{i}]", check, v) for i, v in enumerate(value)]

    return checked


def table(check: Check, most: int = 1_000) -> Check:
    """A table whose keys are free, at most `most` of them; `check` is for its values."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise _expected(f"a table of at most {most:,}", value)
        name = text(200)
        return {_at("a key", name, k): _at(shown(k, 40), check, v) for k, v in value.items()}

    return checked


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A table with these keys. What has another key is left out: later versions may add some."""
    known = {**required, **(optional or {})}

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _expected("a table", value)
        for name in required:
            if name not in value:
                raise ValueError(f"{name} is missing")
        return {name: _at(name, known[name], v) for name, v in value.items() if name in known}

    return checked


def _at(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        said = str(error)
        joint = " " if said.startswith("expected") else "" if said.startswith("[") else "."
        raise ValueError(f"{name}{joint}{said}") from None


def _expected(what: str, got: Any) -> ValueError:
    if isinstance(got, dict | list):
        told = f"a {'table' if isinstance(got, dict) else 'list'} of {len(got):,}"
    elif isinstance(got, int) and abs(got) > 10**18:
        told = "a far larger one"
    else:
        told = shown(repr(got[:50] if isinstance(got, str) else got), 60)
    return ValueError(f"expected {what}, got {told}")


def _range(what: str, low: float, high: float) -> str:
    """'a number from 0 to 10'; what is out of reach goes without saying."""
    if abs(low) >= LARGEST and abs(high) >= LARGEST:
        return f"{what} that is finite and of a usual size"
    if high >= 2**53:
        return f"{what} of at least {low:,}"
    return f"{what} from {low:,} to {high:,}"

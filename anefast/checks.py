"""Checks that every dataclass of settings and every public function share, and what they raise.

Each raises BadInput (a ValueError) in one line: what was expected, what was given, what to do. The
settings themselves are config/'s.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import os
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any, Self

import numpy as np

from anefast.errors import BadInput, shown

_checking: ContextVar[bool] = ContextVar("anefast_config_checking", default=True)


class ConfigError(BadInput):
    """A setting cannot work. The message is one line: expected, got, hint."""


@contextmanager
def unchecked() -> Iterator[None]:
    """Builds configs without checks: a file may be wrong until a flag corrects it."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def need(ok: bool, message: str, hint: str) -> None:
    """ConfigError with this message unless `ok`."""
    if not ok:
        raise ConfigError(f"[config] {message}. Hint: {hint}.")


def need_choice(name: str, value: str, choices: tuple[str, ...], where: str = "config") -> None:
    """ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(
            f"[{where}] {name} must be one of {', '.join(choices)}, got {shown(repr(value))}."
            f"{suggest(value, choices)}"
        )


def suggest(word: str, known: Iterable[str]) -> str:
    """' Hint: did you mean X?' when something known looks like `word`, else ''."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Hint: did you mean {close[0]}?" if close else ""


class Checked:
    """Common part of the dataclasses of settings: a type check, then the class's own `_check`."""

    def __post_init__(self) -> None:
        if not _checking.get():
            return
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            object.__setattr__(self, f.name, coerce(value, hints[f.name], f.name))
        self._check()

    def _check(self) -> None:
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        self._known(changes)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def _known(cls, names: Iterable[str]) -> None:
        fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in names:
            if name not in fields:
                raise ConfigError(
                    f"[config] unknown setting {name!r} of {cls.__name__}.{suggest(name, fields)}"
                )


def coerce(value: Any, kind: Any, name: str) -> Any:
    """`value` in the field's type if nothing is lost (1 -> 1.0); ConfigError otherwise."""
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is str and isinstance(value, str):
        return _text(value, name)
    if kind in (int, float):
        number = not isinstance(value, (bool, np.bool_))
        if number and isinstance(value, numbers.Integral):
            return _float(int(value), name) if kind is float else int(value)
        if number and kind is float and isinstance(value, numbers.Real):
            return float(value)
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    raise ConfigError(
        f"[config] {name} expected {wanted}, got {shown(repr(value))} ({type(value).__name__})."
    )


def _text(value: str, name: str) -> str:
    """`value` as a text that a TOML file and a path can hold. ConfigError otherwise."""
    bad = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise ConfigError(
            f"[config] {name} expected text that UTF-8 can hold, without zeros, got "
            f"{shown(ascii(value))}. Hint: rename the file, or write the text in UTF-8."
        )
    return value


def _float(value: int, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"[config] {name} expected a float, got one past the largest.") from None


# ---- arguments of public functions ----


def whole(
    where: str, name: str, value: Any, least: int, most: int | None = None, hint: str = ""
) -> int:
    """`value` as an int of at least `least`. BadInput otherwise."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least or (most is not None and found > most):
        ends = f"of at least {least}" if most is None else f"from {least} to {most}"
        refuse(where, name, value, f"an int {ends}", hint)
    return int(found)


def real(where: str, name: str, value: Any, expected: str, hint: str = "") -> float:
    """`value` as a float; `expected` words the claim that the caller goes on to check."""
    number = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, complex))
    try:
        found = float(value) if number else math.nan
    except (TypeError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        refuse(where, name, value, expected, hint)
    return found


def refuse(where: str, name: str, value: Any, expected: str, hint: str = "") -> typing.NoReturn:
    """Raises BadInput in one line for an argument that was not expected."""
    tail = f" Hint: {hint}." if hint else ""
    raise BadInput(f"[{where}] expected {name} to be {expected}, got {_given(value)}.{tail}")


def instance(where: str, name: str, value: Any, kind: type, hint: str = "") -> None:
    """BadInput unless `value` is a `kind`."""
    if not isinstance(value, kind):
        kinds = {"str": "a text", "dict": "a dict of arrays by name"}
        refuse(where, name, value, kinds.get(kind.__name__, f"of type {kind.__name__}"), hint)


def _given(value: Any) -> str:
    """An argument in a few words: arrays by dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, (bool, int, float, str, bytes)) or value is None:
        return shown(repr(value), limit=60)
    return shown(f"{type(value).__name__} {value!r}", limit=60)

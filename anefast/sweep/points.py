"""The settings of a sweep's runs, from a TOML file: every combination, or so many drawn ones.

    random = 20              # draw so many; without it every combination runs
    seed = 1                 # of the draws

    [settings]
    lr = [1e-3, 3e-3, 1e-2]
    "optim.name" = ["adamw", "lion"]
    weight_decay = {from = 0.01, to = 0.3, log = true}      # drawn ones only

A point is the settings of one run by dotted name. Everything is checked here but what only the run
knows, such as whether two settings go together: cli.py's `train_config` is asked for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anefast import spelling
from anefast.checks import coerce
from anefast.config import ConfigError, keys
from anefast.errors import shown
from anefast.files import read_toml
from anefast.keywords import setting

Point = dict[str, Any]
MOST_POINTS = 1_000
KEYS = ("random", "seed", "settings")
RANGE = {"from", "to", "log"}
# What a run has of its own, or what is no setting of one.
NOT_SWEPT = ("out", "resume", "trace", "seeds", "sweep")


@dataclass(frozen=True)
class Span:
    """Numbers between two ends, drawn evenly, or evenly in the logarithm."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, rng: np.random.Generator) -> float | int:
        """A random number from the span: whole, or rounded to three digits."""
        if self.whole:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = float(rng.uniform(*ends))
        return float(f"{math.exp(value) if self.log else value:.3g}")


def read_points(file: Path) -> list[Point]:
    """The points of a sweep's file. ConfigError or FileError in one line."""
    found = read_toml(file, where="sweep")
    for key in found:
        if key not in KEYS:
            hint = spelling.hint(key, KEYS)
            if setting(key) in keys():
                hint = f" Hint: settings come below [settings]: {shown(key)} = [...]."
            raise ConfigError(f"[sweep] unknown key {shown(repr(key))} in {shown(file)}.{hint}")
    settings = found.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise ConfigError(
            f"[sweep] expected settings to vary in {shown(file)}, got none. "
            "Hint: [settings] and below it lr = [1e-3, 3e-3]."
        )
    axes = dict(_axis(name, value, file) for name, value in _flat(settings))
    count = _whole(found, "random", 0, file)
    if not count:
        return _combinations(axes, file)
    return _drawn(axes, count, _whole(found, "seed", 0, file), file)


def _flat(settings: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by name; settings of a section have dotted names."""
    for key, value in settings.items():
        name = f"{section}{key}"
        if isinstance(value, Mapping) and not (value and set(value) <= RANGE):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _axis(word: str, value: Any, file: Path) -> tuple[str, list[Any] | Span]:
    """A setting by its dotted name, and the values that it takes in turn or is drawn from."""
    name = setting(word)
    if name not in keys():
        near = spelling.hint(word, keys())
        raise ConfigError(f"[sweep] unknown setting {shown(repr(word))} in {shown(file)}.{near}")
    if name in NOT_SWEPT:
        raise ConfigError(
            f"[sweep] {name} in {shown(file)} must be the same in all runs of a sweep. "
            "Hint: leave it out; --out names the folder of all runs."
        )
    kind = keys()[name]
    if isinstance(value, Mapping):
        return name, _span(name, kind, value, file)
    if not isinstance(value, list) or not value:
        raise ConfigError(
            f"[sweep] expected {name} in {shown(file)} to have values in brackets, got "
            f"{shown(repr(value), 60)}. Hint: {shown(word)} = [1e-3, 3e-3]."
        )
    values = [_coerced(v, kind, name, file) for v in value]
    for i, one in enumerate(values):
        if one in values[:i]:
            raise ConfigError(
                f"[sweep] {name} in {shown(file)} has {shown(repr(one), 60)} twice. "
                "Hint: --seeds 3 runs everything with several seeds."
            )
    return name, values


def _span(name: str, kind: Any, value: Mapping[str, Any], file: Path) -> Span:
    hint = f"Hint: {name} = {{from = 1e-4, to = 1e-2, log = true}}."
    if kind not in (int, float):
        raise ConfigError(
            f"[sweep] {name} in {shown(file)} is not a number, and only numbers take from and to. "
            "Hint: give its values in brackets."
        )
    if not {"from", "to"} <= set(value):
        raise ConfigError(f"[sweep] expected from and to of {name} in {shown(file)}. {hint}")
    low, high = (_coerced(value[end], kind, f"{name}, {end},", file) for end in ("from", "to"))
    log = value.get("log", False)
    if not isinstance(log, bool) or (log and kind is int):
        raise ConfigError(
            f"[sweep] expected log of {name} in {shown(file)} to be true or false, and true only "
            f"for a setting that is not a whole number. {hint}"
        )
    if not low < high < math.inf or (log and low <= 0):
        raise ConfigError(
            f"[sweep] expected {name} in {shown(file)} to rise from a number"
            f"{' above 0' if log else ''}, got {low:g} to {high:g}. {hint}"
        )
    return Span(low, high, log, kind is int)


def _coerced(value: Any, kind: Any, name: str, file: Path) -> Any:
    try:
        return coerce(value, kind, name)
    except ConfigError as error:
        raise ConfigError(f"{str(error).rstrip('.')} in {shown(file)}.") from None


def _combinations(axes: Mapping[str, list[Any] | Span], file: Path) -> list[Point]:
    lists: list[list[Any]] = []
    for name, values in axes.items():
        if isinstance(values, Span):
            raise ConfigError(
                f"[sweep] {name} in {shown(file)} is a range, which cannot be listed in full. "
                "Hint: random = 20 draws 20 runs."
            )
        lists.append(values)
    count = math.prod(map(len, lists))
    if count > MOST_POINTS:
        raise ConfigError(
            f"[sweep] {shown(file)} has {count:,} combinations, expected {MOST_POINTS:,} at most. "
            "Hint: random = 20 draws 20 of them."
        )
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*lists)]


def _drawn(axes: Mapping[str, list[Any] | Span], count: int, seed: int, file: Path) -> list[Point]:
    """`count` different random points, or all combinations if there are fewer."""
    if count > MOST_POINTS:
        raise ConfigError(
            f"[sweep] random in {shown(file)} is {count:,}, expected {MOST_POINTS:,} at most. "
            "Hint: 20 to 100 are usual."
        )
    lists = [values for values in axes.values() if not isinstance(values, Span)]
    if len(lists) == len(axes) and math.prod(map(len, lists)) <= count:
        return _combinations(axes, file)
    rng = np.random.default_rng(seed)
    points: list[Point] = []
    for _ in range(100 * count):  # a range of few whole numbers may have fewer
        drawn = {name: _one(values, rng) for name, values in axes.items()}
        if drawn not in points:
            points.append(drawn)
        if len(points) == count:
            break
    return points


def _one(values: list[Any] | Span, rng: np.random.Generator) -> Any:
    return values.draw(rng) if isinstance(values, Span) else values[rng.integers(len(values))]


def _whole(found: Mapping[str, Any], name: str, default: int, file: Path) -> int:
    value = found.get(name, default)
    if type(value) is not int or value < 0:
        raise ConfigError(
            f"[sweep] expected {name} in {shown(file)} to be a whole number, got "
            f"{shown(repr(value), 60)}. Hint: random = 20."
        )
    return value

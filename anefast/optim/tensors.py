"""Settings of single tensors from `optim.rules`: factor of the rate, and decay, by pattern."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anefast.checks import ConfigError, need
from anefast.errors import shown

EXAMPLE = '"*.norm:decay=0; tok_embeddings:lr=0.5x"'


@dataclass(frozen=True)
class TensorRule:
    """Rate and decay of tensors whose names match `pattern`. None keeps the common value."""

    pattern: str
    rate: float | None = None  # times the run's
    decay: float | None = None


def parse_rules(text: str) -> list[TensorRule]:
    """The rules of a setting. ConfigError.

    >>> parse_rules("*.norm:decay=0; tok_embeddings:lr=0.5x")[1]
    TensorRule(pattern='tok_embeddings', rate=0.5, decay=None)
    """
    rules = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        pattern, colon, settings = part.partition(":")
        need(bool(colon and pattern), f"optim.rules has {shown(repr(part))}", f"as in {EXAMPLE}")
        values: dict[str, float] = {}
        for setting in settings.split(","):
            name, _, value = (p.strip() for p in setting.partition("="))
            field = {"lr": "rate", "decay": "decay"}.get(name, "")
            try:
                number = float(value.removesuffix("x") if field == "rate" else value)
            except ValueError:
                number = math.nan
            good = field and 0 <= number < math.inf and value.endswith("x") == (field == "rate")
            if not good or field in values:
                raise ConfigError(
                    f"[config] expected decay=NUMBER or lr=FACTORx in optim.rules, got "
                    f"{shown(repr(setting))}. Hint: as in {EXAMPLE}."
                )
            values[field] = number
        rules.append(TensorRule(pattern.strip(), **values))
    return rules


def check_rules(rules: Iterable[TensorRule], names: Iterable[str]) -> None:
    """ConfigError for a pattern that no tensor fits."""
    names = list(names)
    for rule in rules:
        if not any(fnmatchcase(name, rule.pattern) for name in names):
            raise ConfigError(
                f"[optim] expected a tensor that fits {shown(repr(rule.pattern))} of optim.rules, "
                f"got none. Hint: they are called {shown(', '.join(names[:3]))} and so on."
            )


def of_tensor(
    rules: Iterable[TensorRule], name: str, rate: float, decay: float
) -> tuple[float, float]:
    """Rate and decay of one tensor, from those of all."""
    part = 1.0
    for rule in rules:
        if fnmatchcase(name, rule.pattern):
            part = part if rule.rate is None else rule.rate
            decay = decay if rule.decay is None else rule.decay
    return rate * part, decay

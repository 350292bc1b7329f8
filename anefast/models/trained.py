"""Chooses the parameters that a run trains: all, or those whose names match a pattern.

The others are frozen: no gradient of theirs is in a graph, and they have no buffer, no moments and
no decay. A plan bakes them once, whatever it does with weights that change (`fuse/plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from anefast import spelling
from anefast.config import ConfigError
from anefast.errors import shown

GRAD = "grad."  # prefix of a graph's outputs that are gradients of parameters
Trained = frozenset[str] | None  # names; None: every parameter


def trains(trained: Trained, name: str) -> bool:
    """True if this parameter changes.

    >>> trains(None, "norm"), trains(frozenset({"output"}), "norm")
    (True, False)
    """
    return trained is None or name in trained


def matching(patterns: str, names: Iterable[str], where: str) -> frozenset[str]:
    """The names that fit one of `patterns`, which commas separate; where: the setting's name.

    A pattern is a whole name with * and ? in it, or one such part of it: `wq` is every wq.
    ConfigError for a pattern that fits none.

    >>> sorted(matching("layers.0.*,norm", ["layers.0.ffn.w1", "layers.1.ffn.w1", "norm"], "train"))
    ['layers.0.ffn.w1', 'norm']
    """
    names = list(names)
    found: set[str] = set()
    for pattern in (p.strip() for p in patterns.split(",")):
        fits = {n for n in names if fnmatchcase(n, pattern) or n.rpartition(".")[2] == pattern}
        if not fits:
            raise ConfigError(
                f"[config] {where} expected patterns of parameters' names, got {shown(pattern)}, "
                f"which fits none.{spelling.hint(pattern, names)}"
            )
        found |= fits
    return frozenset(found)

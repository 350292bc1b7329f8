"""Settings as keywords of Python: `fit("my.txt", steps=200, lr=2e-4)`.

A keyword is the last part of a setting's name where only one setting ends so (`lr` is optim.lr), or
the whole name with `_` for the dot (`data_seed` is data.seed). A setting at the top comes before
one of a section: `seed` is seed. A section takes its dataclass or a dict, `optim={"lr": 1e-3}`, and
`lora` also the rank alone: `lora=8`.
Flags of the command and keys of a file may be as short: `--lr 1e-3`, and `data` is data.source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from anefast import spelling
from anefast.checks import coerce
from anefast.config import (
    ConfigError,
    TrainConfig,
    flatten,
    from_settings,
    keys,
    merge,
    sections,
    to_settings,
)
from anefast.errors import shown
from anefast.presets import preset_settings


@cache
def spellings() -> dict[str, str]:
    """Every keyword, and the setting that it stands for by its dotted name.

    >>> spellings()["lr"], spellings()["seed"], spellings()["data_seed"]
    ('optim.lr', 'seed', 'data.seed')
    """
    dotted = list(keys())
    tails = Counter(name.rpartition(".")[2] for name in dotted)
    found = {name.replace(".", "_"): name for name in dotted}
    for name in dotted:
        tail = name.rpartition(".")[2]
        if tails[tail] == 1 and tail not in found:
            found[tail] = name
    return found


def setting(word: str) -> str:
    """The setting that a flag or a key of a file stands for: "lr" is optim.lr; else `word` itself.

    >>> setting("lr"), setting("data"), setting("steps"), setting("zebra")
    ('optim.lr', 'data.source', 'steps', 'zebra')
    """
    return "data.source" if word == "data" else spellings().get(word, word)


@cache
def shortest(name: str) -> str:
    """The shortest word for a setting, as `setting` takes it.

    >>> shortest("optim.lr"), shortest("data.source"), shortest("data.seed"), shortest("steps")
    ('lr', 'data', 'data.seed', 'steps')
    """
    if name == "data.source":
        return "data"
    tail = name.rpartition(".")[2]
    return tail if spellings().get(tail) == name else name


def with_keywords(
    config: TrainConfig, words: Mapping[str, Any], where: str = "fit"
) -> tuple[TrainConfig, set[str]]:
    """`config` with the settings that these keywords name, and their dotted names.

    ConfigError for a keyword that no setting has, with the one that may have been meant.
    """
    known, parts, kinds = spellings(), sections(), keys()
    settings, named = to_settings(config), set[str]()
    for word, value in words.items():
        if word in parts:
            layer = _section(word, value, parts[word])
        elif word in known:
            section, dot, name = known[word].partition(".")
            value = coerce(value, kinds[known[word]], word)
            layer = {section: {name: value}} if dot else {section: value}
        else:
            raise ConfigError(f"[{where}] unknown setting {shown(repr(word))}.{_hint(word)}")
        settings = merge(settings, layer)
        named |= set(flatten(layer))
    if config.preset and set(flatten(preset_settings(config.preset))) <= named:
        settings["preset"] = ""  # nothing of it is left
    return from_settings(settings), named


def _hint(word: str) -> str:
    """The nearest setting, by its shortest keyword."""
    short: dict[str, str] = {}
    for keyword, name in spellings().items():
        short[name] = min(keyword, short.get(name, keyword), key=len)
    hint = spelling.hint(word, short)
    for name in sorted(short, key=len, reverse=True):
        hint = hint.replace(name, short[name])
    return hint


def _section(word: str, value: Any, kind: type[Any]) -> dict[str, Any]:
    if isinstance(value, kind):
        return {word: vars(value)}
    if isinstance(value, Mapping):
        return {word: dict(value)}
    if word == "lora" and isinstance(value, int):
        return {"lora": {"rank": value}}
    raise ConfigError(
        f"[fit] expected {word} to be a {kind.__name__} or a dict of its settings, "
        f"got {shown(repr(value), limit=60)}."
    )

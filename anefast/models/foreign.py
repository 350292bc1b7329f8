"""How a family is spelled in files of others: its settings and tensors. No file is opened here.

Readers and writers (`anefast/formats`) are written against these records, families fill them in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from anefast.config import ConfigError, ModelConfig
from anefast.errors import shown


class Place(NamedTuple):
    """Where a parameter is in a file.

    name: of the tensor there. split_heads: so many heads have their rows in half-split order, where
    RoPE turns (j, j + D / 2); 0: rows are in ours, which turns (2 j, 2 j + 1). transposed: it is
    [in, out]. part, of: it is one of several parts, side by side along the outputs.
    """

    name: str
    split_heads: int = 0
    transposed: bool = False
    part: int = 0
    of: int = 1


Places = Mapping[str, Place]  # by our name


class Settings:
    """A config.json's table, read with checks. ConfigError names the key."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number, at least 1."""
        value = self.table.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 2**31:
            raise ConfigError(f"expected {key} to be a positive whole number, got {shown(value)}.")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.table.get(key)
        value = default if value is None else value
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not 0 < value <= sys.float_info.max
        ):
            raise ConfigError(f"expected {key} to be a positive number, got {shown(value)}.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.table.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ConfigError(f"expected {key} to be true or false, got {shown(value)}.")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses a value that we do not compute; a missing one stands for the first."""
        value = self.table.get(key)
        if value is not None and value not in allowed:
            words = " or ".join(str(a) for a in allowed)
            raise ConfigError(f"expected {key} {words}, got {shown(value)}.")

    def within(self, key: str) -> Settings:
        """The table under `key`; an empty one where there is none."""
        table = self.table.get(key)
        if table is None:
            return Settings({})
        if not isinstance(table, Mapping):
            raise ConfigError(f"expected {key} to be a table, got {shown(table)}.")
        return Settings(table)


@dataclass(frozen=True)
class HuggingFace:
    """model_types: of config.json; the first is written. read: its settings as fields of ours, with
    whether the weights have a classifier of their own. write: the inverse."""

    model_types: tuple[str, ...]
    architecture: str
    read: Callable[[Settings, bool], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    places: Callable[[ModelConfig], Places]
    prefix: str = ""  # of every tensor's name; some files leave it out
    unread: tuple[str, ...] = ()  # ends of names: tables that follow from the settings


@dataclass(frozen=True)
class GGUFNames:
    """architecture: of general.architecture. epsilon: the key of the norm's. wide_heads: whether
    the size of a head is in the file even where it is dim / heads."""

    architecture: str
    epsilon: str
    places: Callable[[ModelConfig], Places]


# RoPE's settings, which several families share.


def read_rope(settings: Settings) -> dict[str, Any]:
    """rope_theta and rope_scaling; transformers 5 keeps both in `rope_parameters`.

    Where a file has `rope_scaling` as well, that counts, as it does there.
    """
    spelled = "rope_scaling" if settings.table.get("rope_scaling") else "rope_parameters"
    rope = settings.within(spelled)
    for table in (settings, rope):
        table.require("partial_rotary_factor", 1)
    theta = rope if "rope_theta" in rope.table else settings
    return {
        "rope_theta": theta.number("rope_theta", 10000.0),
        "rope_scaling": _scaling(rope),
    }


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_rope`, in keys that transformers 4 and 5 both read. ValueError."""
    kind, _, rest = config.rope_scaling.partition(":")
    table: dict[str, Any] | None = None
    if kind == "linear":
        table = {"rope_type": "linear", "factor": float(rest)}
    elif kind == "llama3":
        factor, low, high, length = (float(v) for v in rest.split(","))
        table = {"rope_type": "llama3", "factor": factor}
        table |= {"low_freq_factor": low, "high_freq_factor": high}
        table |= {"original_max_position_embeddings": int(length)}
    elif kind:
        raise ValueError(f"[huggingface] the format has no rope_scaling {kind}.")
    return {"rope_theta": config.rope_theta, "rope_scaling": table}


def decimal(value: float) -> str:
    """A number with every digit that it has, whole ones without a point."""
    return repr(value).removesuffix(".0")


def _scaling(table: Settings) -> str:
    kind = table.table.get("rope_type", table.table.get("type", "default"))
    if kind == "default":
        return ""
    if kind == "linear":
        return f"linear:{decimal(table.number('factor'))}"
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return "llama3:" + ",".join(decimal(table.number(key)) for key in keys)
    raise ConfigError(f"expected rope_scaling default, linear or llama3, got {shown(kind)}.")

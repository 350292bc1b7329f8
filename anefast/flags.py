"""Flags of a command: tyro parses them from a dataclass, and its box becomes one line.

Which setting wins over which is cli.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from anefast import spelling
from anefast.config import ConfigError, TrainConfig, keys
from anefast.errors import shown

C = TypeVar("C")

SHORT = {"data": "data.source", "tokenizer": "data.tokenizer"}  # flags and TOML keys for everyday


def parse(kind: type[C], argv: Sequence[str], default: C | None = None, **more: Any) -> C:
    """tyro, with its errors as one ConfigError. `--help` prints and leaves with 0."""
    import tyro

    options = {"prog": f"python -m {_module()}", "args": list(argv), **more}
    if default is not None:
        options["default"] = default
    if "-h" in argv or "--help" in argv:
        found: C = tyro.cli(kind, **options)
        return found
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            found = tyro.cli(kind, **options)
            return found
    except SystemExit:
        raise ConfigError(_summary(noise.getvalue(), flags_of(kind))) from None


def spelled_out(argument: str) -> str:
    """`argument` with a short flag in full: --data=x is --data.source=x."""
    name, equals, value = argument.partition("=")
    short = name.removeprefix("--")
    if not name.startswith("--") or short not in SHORT:
        return argument
    return f"--{SHORT[short]}{equals}{value}"


def named(arguments: Sequence[str]) -> list[str]:
    """The settings that flags name, as dotted keys; a --model.no-tied names model.tied."""
    known, names = keys(), []
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            names.append(re.sub(r"(^|\.)no_", r"\1", name) if name not in known else name)
    return names


def repeated(arguments: Sequence[str], kind: type[Any] = TrainConfig) -> list[str]:
    """A line for each setting of a command that several flags name: the last one counts."""
    known = keys() if kind is TrainConfig else {f.name for f in dataclasses.fields(kind)}
    words = [spelled_out(a) for a in arguments] if kind is TrainConfig else arguments
    names = [name for name in named(words) if name in known]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [f"flag {name} was given {names.count(name)} times: the last counts" for name in twice]


def value_of(arguments: Sequence[str], name: str) -> str:
    """What the last flag of this name says; '' where there is none."""
    found = ""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            found = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def flags_of(kind: type[Any]) -> list[str]:
    """The flags of a command: its fields, but for those that are given by position."""
    if kind is TrainConfig:
        names = [*keys(), *SHORT]
    else:
        hints = typing.get_type_hints(kind, include_extras=True)
        places = {n for n, h in hints.items() if len(getattr(h, "__metadata__", ())) > 0}
        names = [f.name for f in dataclasses.fields(kind) if f.name not in places]
    return ["--" + name.replace("_", "-") for name in names]


def _summary(noise: str, flags: Sequence[str]) -> str:
    """tyro's box as one line: its message, and the closest setting as the hint."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", noise)
    lines = [line.strip("│|╭╮╰╯─ ") for line in text.splitlines()]
    lines = [line for line in lines if not line or set(line) != {"-"}]
    body = [line for line in lines[1:] if line]  # the first is the title
    told = [
        i for i, line in enumerate(body) if line.startswith(("Perhaps", "Argument", "For full"))
    ]
    message = " ".join(body[: told[0] if told else 1]) or "the flags make no sense"
    message = message.removeprefix("Error parsing ")
    hint = " Hint: --help lists every flag."
    if message.startswith("Unrecognized options: "):
        word = message.removeprefix("Unrecognized options: ").split(",")[0].strip()
        message = f"unexpected {word!r}"
        if word.startswith("-"):
            word = word.partition("=")[0]
            message = f"unknown flag {word}"
            hint = spelling.hint(word, flags, flags=True) or hint
        elif word.lower() in ("true", "false", "yes", "no", "on", "off", "0", "1"):
            hint = " Hint: a switch takes no value; --timeline turns it on, --no-timeline off."
    return f"[config] {shown(message.rstrip('.'))}.{hint}"


def _module() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or not spec.name.startswith("anefast"):
        return "anefast.train"
    return str(spec.name).removesuffix(".__main__")

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
from anefast.helping import render
from anefast.keywords import setting, shortest

C = TypeVar("C")


def parse(kind: type[C], argv: Sequence[str], default: C | None = None) -> C:
    """tyro, with its errors as one ConfigError. `--help` prints and leaves with 0."""
    everything = "--help-all" in argv
    if everything or "-h" in argv or "--help" in argv:
        print(render(kind, f"anefast {command_of(kind)}", default, everything), flush=True)
        raise SystemExit(0)
    import tyro

    options: dict[str, Any] = {"args": list(argv)}
    if default is not None:
        options["default"] = default
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            found: C = tyro.cli(kind, **options)
            return found
    except SystemExit:
        raise ConfigError(_summary(noise.getvalue(), flag_names(kind))) from None


def spelled_out(argument: str) -> str:
    """`argument` with a short flag in full: --lr=1 is --optim.lr=1, --data=x is --data.source=x."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    word = name[2:].replace("-", "_")
    full = setting(word)
    if full == word and word.startswith("no_"):  # --no-tied is --model.no-tied
        section, dot, last = setting(word[3:]).rpartition(".")
        full = f"{section}{dot}no_{last}" if dot else word
    return argument if full == word else f"--{full.replace('_', '-')}{equals}{value}"


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
    """The value of the last flag of this name; '' where there is none."""
    found = ""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            found = arguments[i + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def flag_names(kind: type[Any]) -> list[str]:
    """A command's flags as they are typed: its fields, except positional ones."""
    if kind is TrainConfig:
        names = [*keys(), "data", "tokenizer"]
    else:
        hints = typing.get_type_hints(kind, include_extras=True)
        places = {n for n, h in hints.items() if len(getattr(h, "__metadata__", ())) > 0}
        names = [f.name for f in dataclasses.fields(kind) if f.name not in places]
    return ["--" + name.replace("_", "-") for name in names]


def _summary(noise: str, flags: Sequence[str]) -> str:
    """tyro's error as one line: its message, and the closest setting as the hint."""
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
            meant = spelling.hint(word, flags, flags=True)
            hint = _DOTTED.sub(lambda flag: _short(flag[0]), meant) or hint
        elif word.lower() in ("true", "false", "yes", "no", "on", "off", "0", "1"):
            hint = " Hint: a switch takes no value; --timeline turns it on, --no-timeline off."
    return f"[config] {shown(message.rstrip('.'))}.{hint}"


_DOTTED = re.compile(r"--[a-z_]+\.[a-z0-9-]+")


def _short(flag: str) -> str:
    """A flag by its name in --help: --lr for --optim.lr."""
    return "--" + shortest(flag[2:].replace("-", "_")).replace("_", "-")


def command_of(kind: type[Any]) -> str:
    """The command that these flags are of, as `anefast` knows it."""
    if kind is TrainConfig:
        return "train"
    module = kind.__module__
    if module == "__main__":
        module = str(sys.modules["__main__"].__spec__.name)  # type: ignore[union-attr]
    return module.removeprefix("anefast.").removesuffix(".__main__")

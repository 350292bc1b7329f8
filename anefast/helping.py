"""`--help` of every command, from the one source there is: its dataclass, comments included.

A field's text is the comment behind it, or the lines of comment above it. `--help` of train shows
the settings that people change; `--help-all` shows all of them.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import shutil
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from anefast.config import TrainConfig, sections
from anefast.keywords import shortest
from anefast.presets import preset_names

EVERYDAY = {
    "what to train on": ("data.source", "data.tokenizer"),
    "what to start from": ("preset", "init", "resume"),
    "how long, and in which steps": ("steps", "data.batch", "data.seq_len", "optim.lr"),
    "where it goes": ("out",),
}
# What a comment may name in place of a list: the table that has it, which is imported only then.
LISTS = {
    "CHIPS": "anefast.chips.behaviour:CHIPS",
    "FAMILIES": "anefast.models.families:FAMILIES",
    "OPTIMISERS": "anefast.optim.registry:RECORDS",
}
MOST = 100  # columns
INDENT = 2


class Flag(NamedTuple):
    """One field of a command. name: dotted, for a setting of a section. kind: its type."""

    name: str
    kind: Any
    default: Any  # dataclasses.MISSING where there is none
    text: str
    placed: bool  # given by position
    word: str  # its name as it is typed, with dashes

    @property
    def typed(self) -> str:
        """How the flag is typed: --seq-len N, --fix, or FILE by position."""
        word = self.word
        if self.placed:
            word = word.upper()
            many = f"{word.removesuffix('S')}..."
            word = many if typing.get_origin(self.kind) is tuple else word
            return word if self.default is dataclasses.MISSING else f"[{word}]"
        if self.kind is bool:
            return f"--no-{word}" if self.default is True else f"--{word}"
        return f"--{word} {self.takes}"

    @property
    def takes(self) -> str:
        """The placeholder of its value."""
        if choices := self.choices:
            return "{" + ",".join(choices) + "}"
        return {int: "N", float: "X", Path: "PATH"}.get(self.kind, "TEXT")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a Literal allows."""
        is_literal = typing.get_origin(self.kind) is typing.Literal
        return typing.get_args(self.kind) if is_literal else ()


def flags_of(kind: type[Any], default: Any = None) -> list[Flag]:
    """The fields of a command in order, those of sections by dotted name.

    default: an instance whose values are the defaults, such as a preset's.
    """
    found = list(_flags(kind, default, ""))
    if kind is not TrainConfig:
        return found
    return [flag._replace(word=shortest(flag.name).replace("_", "-")) for flag in found]


def _flags(kind: type[Any], default: Any, prefix: str) -> Iterator[Flag]:
    hints = typing.get_type_hints(kind, include_extras=True)
    texts = comments(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _flags(hint, getattr(default, field.name, None), f"{field.name}.")
            continue
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        placed = hasattr(hint, "__metadata__")
        plain = typing.get_args(hint)[0] if placed else hint
        if isinstance(plain, types.UnionType):
            plain = typing.get_args(plain)[0]
        value = getattr(default, field.name, value)
        name = prefix + field.name
        word = name.replace("_", "-")
        yield Flag(name, plain, value, texts.get(field.name, ""), placed, word)


def comments(kind: type[Any]) -> dict[str, str]:
    """The comment of every field of a dataclass: behind it, or the lines above it."""
    source = textwrap.dedent(inspect.getsource(kind))
    said: dict[int, str] = {}
    alone: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt"):
            text = token.string.lstrip("# ")
            said[token.start[0]] = re.sub("|".join(LISTS), _names, text)
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    found = {}
    for node in typing.cast(ast.ClassDef, ast.parse(source).body[0]).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        row = node.lineno - 1
        lines: list[str] = []
        while row in alone:
            lines.insert(0, said[row])
            row -= 1
        lines += [said[node.end_lineno or 0]] if node.end_lineno in said else []
        found[node.target.id] = " ".join(lines)
    return found


def _names(word: re.Match[str]) -> str:
    module, _, table = LISTS[word[0]].partition(":")
    return ", ".join(getattr(import_module(module), table))


def render(kind: type[Any], prog: str, default: Any = None, everything: bool = False) -> str:
    """The help of a command. everything: of train, every setting instead of the usual ones."""
    flags = flags_of(kind, default)
    places = [flag.typed for flag in flags if flag.placed]
    if kind is TrainConfig:
        places = ["[RUN.toml]"]
    head = [f"usage: {' '.join([prog, *places])} [flags]", "", *_paragraph(_about(kind))]
    if kind is not TrainConfig:
        placed = sorted(flags, key=lambda flag: not flag.placed)
        return "\n".join([*head, "", *_rows(placed, _left(placed))])
    known = {flag.name: flag for flag in flags}
    parts: Mapping[str, Any] = EVERYDAY
    if everything:
        names = list(known)
        parts = {"the run": [n for n in names if "." not in n]}
        parts |= {s: [n for n in names if n.startswith(f"{s}.")] for s in sections()}
    left = _left([known[name] for names in parts.values() for name in names])
    lines = head
    for title, names in parts.items():
        chosen = [known[name] for name in names]
        lines += ["", f"{title}:", *_rows(chosen if everything else _briefly(chosen), left)]
    return "\n".join([*lines, "", *_paragraph(_ALL if everything else _MORE)])


_ALL = (
    "A setting has its section in a file and may have it as a flag: [optim] lr = 0.003, or "
    "--optim.lr 0.003."
)
_MORE = "--help-all lists every setting. Flags go over RUN.toml, which goes over the preset."


def _about(kind: type[Any]) -> str:
    if kind is TrainConfig:
        presets = f"Presets: {', '.join(preset_names())}."
        return f"Train a transformer; without flags, a small one on built-in stories. {presets}"
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def _briefly(flags: list[Flag]) -> list[Flag]:
    return [flag._replace(text=flag.text.partition(". ")[0].rstrip(".")) for flag in flags]


def _left(flags: list[Flag]) -> int:
    """The column of the texts."""
    return INDENT + min(24, max(len(flag.typed) for flag in flags)) + 2


def _rows(flags: list[Flag], left: int) -> list[str]:
    width = min(_columns(), MOST)
    lines: list[str] = []
    for flag in flags:
        text = " ".join([flag.text, _default(flag)]).strip()
        first = f"{'':{INDENT}}{flag.typed}"
        body = textwrap.wrap(text, max(20, width - left)) or [""]
        if len(first) > left - 2:
            lines.append(first)
        else:
            body[0] = f"{first:{left}}{body[0]}"
            lines.append(body.pop(0).rstrip())
        lines += [f"{'':{left}}{line}" for line in body]
    return lines


def _default(flag: Flag) -> str:
    """The default behind a text; a switch that is on says so, for its flag turns it off."""
    if flag.default is True:
        return "(on)"
    if flag.default in (dataclasses.MISSING, "", ()) or flag.default is False:
        return ""
    return f"({flag.default:g})" if isinstance(flag.default, float) else f"({flag.default})"


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, min(_columns(), MOST))


def _columns() -> int:
    return shutil.get_terminal_size().columns

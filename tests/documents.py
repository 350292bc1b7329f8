"""Blocks of code in the README and in docs/: where they are, and what their commands are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

WRITTEN = {"coverage.md"}  # printed by `anefast lint --coverage`, which its own test compares
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in WRITTEN),
]
LANGUAGES = {"sh", "console", "python", "json", "toml", "text"}


class Block(NamedTuple):
    """note: the comment <!-- ... --> right above the fence. line: of the fence, from 1."""

    page: str
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page. An unknown language or a block without a fence raises."""
    lines, inside, note = page.read_text("utf-8").splitlines(), None, ""
    before = ""
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r"( *)```(\S*).*", line)
        if inside is not None:
            margin, first, language = inside
            if fence:
                text = "\n".join(row[margin:] for row in lines[first : number - 1])
                yield Block(name_of(page), first, language, text, note)
                inside, note = None, ""
            continue
        if fence:
            assert fence[2] in LANGUAGES, f"{name_of(page)}:{number}: language {fence[2]!r}"
            inside = (len(fence[1]), number, fence[2])
            continue
        listed = re.match(r" *([-*]|\d+\.) |  ", before)
        deep = 8 if listed else 4
        assert before or not line.startswith(" " * deep), f"{name_of(page)}:{number}: fence it"
        comment = re.fullmatch(r" *<!-- (.*) -->", line)
        note = comment[1] if comment else note if not line.strip() else ""
        before = line if line.strip() or not before else ""
    assert inside is None, f"{name_of(page)}: a fence is open"


def every(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def calls(block: Block) -> Iterator[list[str]]:
    """The commands of a block of sh, or those behind the $ of a console, each as its words."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "sh" or line.startswith("$ "):
            yield from commands(line.removeprefix("$ "))


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without NAME=value before it and # behind it."""
    words = shlex.shlex(line, posix=True, punctuation_chars="&|<>();")
    words.whitespace_split = True
    command: list[str] = []
    for word in [*words, ";"]:
        if not set(word) <= set("&|<>();"):
            command.append(word)
            continue
        while command and re.match(r"[A-Z_]+=", command[0]):
            del command[0]
        if command:
            yield command
        command = []

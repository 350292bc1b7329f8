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
    """The blocks of a page; language is "" for the first line of one without a fence."""
    lines, inside, note = page.read_text("utf-8").splitlines(), None, ""
    last, blank = "", True  # the last line with words, and whether an empty one followed
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
            inside = (len(fence[1]), number, fence[2])
            continue
        deep = 8 if re.match(r" *([-*]|\d+\.) |  ", last) else 4
        if blank and line.startswith(" " * deep):
            yield Block(name_of(page), number, "", line, "")
        comment = re.fullmatch(r" *<!-- (.*) -->", line)
        note = comment[1] if comment else note if not line.strip() else ""
        last, blank = line if line.strip() else last, not line.strip()
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

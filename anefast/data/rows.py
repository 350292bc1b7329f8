"""Rows of JSON: JSON lines, or one JSON array. Told by content, never by a name alone.

A row is an object with a field "text", or a string: a document. Prompts with completions and chats
are read by instruct.py. Rows of another kind are refused by their fields: braces and keys are never
learnt as prose. So are tables of comma- or tab-separated values.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from anefast.data.error import DataError
from anefast.errors import shown
from anefast.parsing import parse_json

FIELD = "text"
_JSON = {".json", ".jsonl", ".ndjson", ".jsonlines"}
_TABLES = {".csv": ",", ".tsv": "\t"}
_PAIRS = {"messages", "conversations", "prompt", "completion", "instruction", "response", "chosen"}
_OBJECT = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:')  # no prose begins so
_SPACE = re.compile(r"[ \t\n]*")
_DECODER = json.JSONDecoder()
_NAME = re.compile(r"\w[\w .-]{0,40}")
_LEAST_ROWS = 4  # fewer lines with equally many commas are prose

log = logging.getLogger("anefast")

Rows = Iterator[tuple[Any, str]]  # a row's value, and where it is: "data.jsonl, line 3"
Reader = Callable[[Iterator[str]], Rows]


def reader(name: str, suffix: str, first: str, whole: bool) -> Reader | None:
    """A reader that splits a file's blocks into rows; None where the file is prose.

    first: its first block of text; whole: there is no other. DataError for structured text that is
    not read.
    """
    suffix, start = suffix.lower(), first.lstrip()
    if start.startswith("[") and (suffix == ".json" or _opens_array(start)):
        return partial(_array, name)
    if start.startswith("{") or (suffix in _JSON and start.startswith('"')):
        lines = [line for line in start.split("\n") if line.strip()]
        lines = (lines if whole or start.endswith("\n") else lines[:-1])[:2]
        opens = _OBJECT.match(start) is not None
        if (lines and _is_row(lines[0])) or (not lines and opens):
            if suffix in _JSON or all(map(_is_row, lines)):
                return partial(_lines, name)
            log.warning("data: %s begins with a row of JSON, but is read as plain text", name)
        elif suffix in _JSON - {".json"}:
            return partial(_lines, name)  # which says what is wrong with the first line
        elif opens or suffix == ".json":
            raise DataError(
                "text, or rows of JSON",
                f"{name} is JSON in another form, which begins {shown(start, 60)}",
                f'write JSON lines: {{"{FIELD}": ...}} on each',
            )
    _refuse_table(name, suffix, start)
    return None


def _lines(name: str, blocks: Iterator[str]) -> Rows:
    """The value of each line of JSON."""
    count = 0
    for number, line in enumerate(_by_line(blocks), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, strict=False)
        except ValueError as error:
            raise DataError(
                "JSON on every line",
                f"{name} has something else on line {number}: {shown(error)}",
                "mend that line or take it out",
            ) from None
        count += 1
        yield row, f"{name}, line {number}"
    log.info("data: %s has %d rows of JSON", name, count)


def _array(name: str, blocks: Iterator[str]) -> Rows:
    """Each value of one JSON array, of which one is in memory at a time."""
    text, at, number = "", 0, 0

    def broken(why: str) -> DataError:
        return DataError("one JSON array", f"{name}, {why}", "mend it, or write JSON lines")

    def take() -> str:
        """The next character that is not white space, "" at the end."""
        nonlocal text, at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
            if at < len(text):
                at += 1
                return text[at - 1]
            text, at = next(blocks, ""), 0
            if not text:
                return ""

    mark = take()  # the bracket
    while mark != "]":
        mark = take()
        if mark == "]" and not number:
            break
        at -= bool(mark)
        number += 1
        while True:
            try:
                row, at = _DECODER.raw_decode(text, at)
                break
            except RecursionError:
                raise broken(f"row {number} is nested too deeply") from None
            except json.JSONDecodeError as error:
                more, wanted = [text[at:]], len(text) - at
                while wanted >= 0 and (
                    block := next(blocks, "")
                ):  # twice as much as was not enough
                    more.append(block)
                    wanted -= len(block)
                if len(more) == 1:
                    raise broken(f"row {number}: {error.msg}") from None
                text, at = "".join(more), 0
        yield row, f"{name}, row {number}"
        mark = take()
        if mark not in (",", "]"):
            raise broken(f"expected , or ] behind row {number}, got {shown(mark) or 'its end'}")
    if rest := take():
        raise broken(f"expected its end behind row {number}, got {rest!r}")
    log.info("data: %s has %d rows of JSON", name, number)


def text_of(row: Any, where: str) -> str:
    """The document in a row. DataError if it has none."""
    text = row.get(FIELD) if isinstance(row, dict) else row
    if not isinstance(text, str):
        fields = sorted(map(str, row)) if isinstance(row, dict) else []
        got = f"has the fields {', '.join(map(shown, fields[:6]))}" if fields else "has none"
        hint = "write that field in every row"
        if _PAIRS & set(fields):
            hint = "rows of one file are alike; pairs are prompt and completion, chats messages"
        elif fields and FIELD not in fields:
            hint = f"rename one: jq -c '{{{FIELD}: .{shown(fields[0])}}}' FILE > NEW.jsonl"
        elif fields:
            got = f"has a {FIELD} that is no string"
        raise DataError(f"JSON rows with a field {FIELD}", f"{where} {got}", hint)
    return cleaned(text, where)


def cleaned(text: str, where: str) -> str:
    """A row's text with \\n line ends and no byte order marks. DataError if it is not text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            "text", f"{where} has half a surrogate pair", "mend that row or take it out"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")


def _by_line(blocks: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for block in blocks:
        first, *lines = block.split("\n")
        held.append(first)
        if lines:
            yield "".join(held)
            yield from lines[:-1]
            held = [lines[-1]]
    yield "".join(held)


def _is_row(line: str) -> bool:
    try:
        return isinstance(parse_json(line, strict=False), dict | str)
    except ValueError:
        return False


def _opens_array(start: str) -> bool:
    """True if a text begins like an array of objects, as no prose does."""
    return _OBJECT.match(start[1:].lstrip()) is not None


def _refuse_table(name: str, suffix: str, start: str) -> None:
    """DataError if a file with a table's name holds a table; under another name a warning."""
    lines = start[: 1 << 16].split("\n")
    lines = lines if len(start) <= 1 << 16 else lines[:-1]
    for mark in (_TABLES[suffix],) if suffix in _TABLES else ("\t", ","):
        try:
            table = [row for row in csv.reader(lines, delimiter=mark) if row]
        except csv.Error:
            continue
        columns = table[0] if table else []
        named = all(_NAME.fullmatch(column.strip()) for column in columns)
        same = all(len(row) == len(columns) for row in table[:-1])
        several = len(columns) > 1 or columns == [FIELD]
        if suffix in _TABLES and named and several:
            raise DataError(
                "text, or JSON lines",
                f"{name} is a table with the columns {', '.join(map(shown, columns[:6]))}",
                f'convert it: each row as {{"{FIELD}": ...}} on a line of its own',
            )
        if len(columns) > 1 and named and same and len(table) > _LEAST_ROWS:
            log.warning(
                "data: %s looks like a table of %d columns; it is read as plain text",
                name, len(columns),
            )  # fmt: skip
            return

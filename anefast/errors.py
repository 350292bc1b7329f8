"""One base for every error that anefast raises on purpose. This file imports nothing of ours.

Each message is one line: `[where] what was expected, got what was given. Hint: what to do.` A
command prints that line and leaves with exit code 2; with 1 for a `Failure`, where the request was
sound and the run went wrong. Anything else that reaches a command is a defect and keeps its
traceback.
"""

from __future__ import annotations


class AnefastError(Exception):
    """An error meant for the user: the message is one line that says what to do."""


class BadInput(AnefastError, ValueError):
    """The user can put this right: a setting, a file, a shape. Exit code 2."""


class Failure(AnefastError, RuntimeError):
    """The request was sound and the run went wrong. Exit code 1."""


def shown(text: object, limit: int = 200) -> str:
    """`text`, which anybody may have written, on one line: control characters are escaped.

    >>> shown("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    line = "".join(c if c.isprintable() else _escaped(c) for c in str(text))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")

"""One base for every error that anefast raises on purpose. This file imports nothing of ours.

Each message is one line: `[where] what was expected, got what was given. Hint: what to do.` A
command prints that line and leaves with exit code 2; with 1 for a `Failure`, where the request was
sound and the run went wrong. Anything else that reaches a command is a defect and keeps its
traceback. The native errors of csrc/bind.cpp have the same base.
"""

from __future__ import annotations

import re

# Characters that a terminal may obey instead of showing: controls, and marks that change the
# direction of writing. Halves of a character are here as well: no terminal can be sent one.
_OBEYED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class AnefastError(Exception):
    """An error meant for the user: the message is one line that says what to do."""


class BadInput(AnefastError, ValueError):
    """The user can put this right: a setting, a file, a shape. Exit code 2."""


class Failure(AnefastError, RuntimeError):
    """The request was sound and the run went wrong. Exit code 1."""


def shown(text: object, limit: int = 200) -> str:
    r"""Untrusted `text` on one line, with control characters escaped.

    limit: the most characters; the end of a longer text is left out.

    >>> shown("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    line = _OBEYED.sub(_escaped, str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 3] + "..."


def visible(text: str) -> str:
    r"""Text of any length with control characters escaped; line ends and tabs stay.

    >>> visible("a\tb\x1b[2Jc")
    'a\tb\\x1b[2Jc'
    """
    return _OBEYED.sub(lambda found: found[0] if found[0] in "\n\t" else _escaped(found), text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")

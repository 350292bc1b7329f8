"""The error of everything about data, and how a file of the wrong kind is refused."""

from __future__ import annotations

from anefast.errors import BadInput, shown
from anefast.files import AnyPath
from anefast.kinds import Kind


class DataError(BadInput):
    """The data cannot be used for training. The message is one line and names the file."""

    def __init__(self, expected: str, got: str, hint: str) -> None:
        super().__init__(f"[data] expected {expected}, {got}. Hint: {hint}.")


def refused(path: AnyPath, kind: Kind) -> DataError:
    """The error for a file that is recognised and is neither text nor token ids."""
    return DataError("text or token ids", f"{shown(path)} is {kind.name}", kind.hint)

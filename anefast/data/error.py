"""The error of everything about data."""

from __future__ import annotations

from anefast.errors import BadInput


class DataError(BadInput):
    """Data that cannot be trained on. The message is one line and names the file."""

    def __init__(self, expected: str, got: str, hint: str) -> None:
        super().__init__(f"[data] expected {expected}, {got}. Hint: {hint}.")

"""Text files as documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from anefast.data.error import DataError

END_OF_TEXT = "<|endoftext|>"


def documents(path: Path, collapse_spaces: bool) -> list[str]:
    """Documents of a text file, no white space around them; line ends are \\n whatever they
    were."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError("a readable file", f"{path}: {error.strerror}", "check it") from None
    if not raw:
        raise DataError("text", f"{path} is empty", "give a file with words in it")
    zero = raw.find(b"\0")
    if zero >= 0:
        raise DataError(
            "UTF-8 text",
            f"{path} is binary (a zero at byte {zero})",
            "token ids go in a uint16 file called .bin",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "UTF-8 text",
            f"{path} has byte 0x{raw[error.start]:02x} at {error.start}",
            "convert it to UTF-8, with iconv for example",
        ) from None
    text = text.replace("\r\n", "\n")
    if collapse_spaces:
        text = re.sub(" +", " ", text)
    return [d for d in (part.strip() for part in text.split(END_OF_TEXT)) if d]


def head(documents: Sequence[str], fraction: float) -> Iterator[str]:
    """The first `fraction` of the characters, so that a tokenizer learns nothing held out."""
    left = int(sum(map(len, documents)) * fraction)
    for document in documents:
        if left > 0:
            yield document[:left]
        left -= len(document)

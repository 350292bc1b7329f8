"""Text files as documents, piece by piece, so that memory does not grow with a file.

A text is UTF-8, or what a byte order mark at its start says. Line ends are \\n whatever they were
(\\r\\n and \\r, the old Mac's), and byte order marks are taken out wherever files were joined.
<|endoftext|> separates documents; white space around a document goes. A file of JSON rows is told
by its content and gives a document for each row: rows.py.

Documents travel as pieces: strings, none of them empty, with END behind the last of each document.
"""

from __future__ import annotations

import codecs
import io
import itertools
import logging
import re
from collections.abc import Iterable, Iterator

from anefast.data import rows
from anefast.data.error import DataError, refused
from anefast.data.source import File
from anefast.files import MIB, guarding

END_OF_TEXT = "<|endoftext|>"
BLOCK_BYTES = MIB
END = None
Piece = str | None
_TAGS = "data: %s is %s; its tags are learnt as text"

log = logging.getLogger("anefast")

_MARKS = (  # the longer ones first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNMARKED = (  # where zeros lie among four bytes of ASCII characters
    ((1, 2, 3), "UTF-32LE"),
    ((0, 1, 2), "UTF-32BE"),
    ((1, 3), "UTF-16LE"),
    ((0, 2), "UTF-16BE"),
)


def documents(file: File, collapse_spaces: bool = False) -> Iterator[Piece]:
    """The documents of a text file. DataError in one line if it is not text."""
    kind = file.kind
    if kind is not None and not kind.text:
        raise refused(file.path, kind)
    if kind is not None:
        file.once("kind", lambda: log.warning(_TAGS, file, kind.name))
    reader, blocks = opened(file)
    if reader is None:
        yield from split(blocks, collapse_spaces)
        return
    for row, where in reader(blocks):
        yield from split((rows.text_of(row, where),), collapse_spaces)


def opened(file: File) -> tuple[rows.Reader | None, Iterator[str]]:
    """A reader of JSON rows for a text file, None where it is prose, and the file's blocks."""
    blocks = _blocks(file)
    first = next(blocks, "")
    if not first:
        raise DataError("text", f"{file} is empty", "give a file with words in it")
    whole = file.start[1] <= BLOCK_BYTES
    reader = file.once("reader", lambda: rows.reader(str(file), file.path.suffix, first, whole))
    return reader, itertools.chain([first], blocks)


def split(blocks: Iterable[str], collapse_spaces: bool = False) -> Iterator[Piece]:
    """The documents in a text that comes in blocks.

    >>> list(split(["one<|endof", "text|> two ", "three "]))
    ['one', None, 'two', ' three', None]
    """
    held, begun = "", False  # held: may be the start of a mark, or white space at a document's end
    for block in itertools.chain(blocks, [None]):
        parts = (held + (block or "")).split(END_OF_TEXT)
        for i, part in enumerate(parts):
            goes_on = block is not None and i + 1 == len(parts)
            kept = _start_of_mark(part) if goes_on else 0
            body = part[: len(part) - kept]
            body = body if begun else body.lstrip()
            inner = body.rstrip()
            if inner:
                yield re.sub(" +", " ", inner) if collapse_spaces else inner
                begun = True
            if goes_on:
                held = body[len(inner) :] + part[len(part) - kept :]
            elif begun:
                yield END
                begun = False


def characters(pieces: Iterable[Piece]) -> int:
    return sum(len(piece) for piece in pieces if piece)


def head(pieces: Iterable[Piece], count: int) -> Iterator[Piece]:
    """The first `count` characters of documents."""
    for piece in pieces:
        if count <= 0:
            yield END
            return
        yield piece[:count] if piece else piece
        count -= len(piece or "")


def _blocks(file: File) -> Iterator[str]:
    """The text of a file in blocks of a mebibyte, decoded, with \\n for line ends."""
    codec, skipped = _codec(file, file.start[0])
    decode = codecs.getincrementaldecoder(codec)("strict")
    lines = io.IncrementalNewlineDecoder(None, translate=True)
    with file.open() as reader:
        reader.seek(skipped)
        at = skipped
        while True:
            with guarding("read", file.path, "data"):
                raw = reader.read(BLOCK_BYTES)
            pending = len(decode.getstate()[0])
            try:
                text = decode.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                raise _undecoded(file, codec, error, at - pending) from None
            if "\0" in text:
                raise _zero(file, codec, raw, at)
            text = lines.decode(text, final=not raw).replace("\ufeff", "")
            if text:
                yield text
            if not raw:
                return
            at += len(raw)


def _codec(file: File, start: bytes) -> tuple[str, int]:
    """The encoding that the byte order mark at a text's start names, and the mark's length."""
    for mark, codec in _MARKS:
        if start.startswith(mark):
            return codec, len(mark)
    whole = start[: len(start) // 4 * 4]
    zeros = [whole[i::4].count(0) for i in range(4)]
    for places, name in _UNMARKED:
        there = all(zeros[i] * 8 > len(whole) for i in places)  # of a quarter's bytes, over a half
        if there and not any(zeros[i] for i in range(4) if i not in places):
            raise DataError(
                "UTF-8 text",
                f"{file} is {name} without a byte order mark",
                f"convert it: iconv -f {name} -t UTF-8 FILE > NEW",
            )
    return "utf-8", 0


def _undecoded(file: File, codec: str, error: UnicodeDecodeError, before: int) -> DataError:
    at = before + error.start
    got = f"{file} has byte 0x{error.object[error.start]:02x} at {at}"
    if "end of data" in error.reason or "truncated" in error.reason:
        got += ", its end, inside a character"
        hint = "it is cut short or damaged; fetch it again"
    elif codec != "utf-8":
        hint = "it is damaged; fetch it again"
    elif _is_latin(error.object[max(0, error.start - 2048) : error.start + 2048]):
        got += "; it looks like Windows-1252 or Latin-1"
        hint = "convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    else:
        hint = "it is in another encoding or damaged; convert it to UTF-8, with iconv for example"
    return DataError(f"{codec.upper()} text", got, hint)


def _is_latin(content: bytes) -> bool:
    """True if most bytes above ASCII stand alone among ASCII, as accented letters do."""
    runs = re.findall(rb"[\x80-\xff]+", content)
    return len(content) > 4 and sum(len(run) == 1 for run in runs) * 4 >= len(runs) * 3


def _zero(file: File, codec: str, raw: bytes, at: int) -> DataError:
    where = f"byte {at + raw.find(0)}" if codec == "utf-8" else f"a character of {codec.upper()}"
    return DataError(
        "UTF-8 text",
        f"{file} has a zero at {where}, which text never has",
        "it is binary or damaged; token ids go in a file called .bin",
    )


def _start_of_mark(text: str) -> int:
    """The number of characters at the end of `text` that may begin <|endoftext|>."""
    longest = min(len(text), len(END_OF_TEXT) - 1)
    if END_OF_TEXT[0] not in text[-longest:]:
        return 0
    return next((n for n in range(longest, 0, -1) if END_OF_TEXT.startswith(text[-n:])), 0)

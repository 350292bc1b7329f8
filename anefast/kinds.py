"""Tells a file's kind by its content, and why a path is missing, for messages.

Every reader of data, tokenizers and models asks here first, so that a gzip archive or a git-lfs
pointer is called by its name wherever it is met. Not here: what is inside a file of our own kinds
(data/, tokenizer/, formats/, checkpoint/).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from anefast.errors import shown
from anefast.files import AnyPath

HEAD_BYTES = 4096  # as much of a file's beginning as `kind_of` wants to see
_NEIGHBOURS = 10_000  # names of a folder among which a close one is looked for


@dataclass(frozen=True)
class Kind:
    """name: reads on after "is", "a gzip archive". hint: what its owner may do with it.

    text: it is text all the same, which a model may be trained on.
    """

    name: str
    hint: str
    text: bool = False


_UNPACK = "unpack it first"
_AS_TEXT = "save it as plain text first"
_TO_TEXT = "export it as plain text or JSON lines first"
_NO_PICKLE = (
    "pickles can run code and are never read; export the model as a llama2.c .bin, or use a run"
)
_WRONG_FILE = "name the file that was meant"

LFS = Kind("a git-lfs pointer, not the file itself", "run git lfs pull in its folder")
HTML = Kind("an HTML page", "the download gave a web page; fetch the file itself", text=True)
XML = Kind("XML", "its tags would be learnt as text; take the text out first", text=True)
NUMPY = Kind("a NumPy array (.npy)", "as --data it may hold token ids")
ZEROS = Kind("all zeros at its beginning", "its download or copy was not finished; fetch it again")
SAFETENSORS = Kind(
    "a safetensors file", "name the folder that holds it: a run, a checkpoint or a Hugging Face one"
)
GGUF = Kind("a GGUF model", "models go with --init, or to anefast.generate")
TORCH = Kind("a PyTorch file (.pt, .pth)", _NO_PICKLE)
PICKLE = Kind("a Python pickle (PyTorch's .pt or .pth, or a meta.pkl)", _NO_PICKLE)
SENTENCEPIECE = Kind(
    "a SentencePiece model (tokenizer.model)",
    "llama2.c's tokenizer.py exports it as a tokenizer.bin, which is read",
)
LLAMA2C_MODEL = Kind("a llama2.c model", "models go with --init, or to anefast.generate")
LLAMA2C_TOKENIZER = Kind("a llama2.c tokenizer", "tokenizers go with --tokenizer")
LLMC_SHARD = Kind("a shard of token ids with llm.c's header", "token ids go with --data")

_MAGICS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", LFS),
    (0, b"\x93NUMPY", NUMPY),
    (0, b"\x1f\x8b\x08", Kind("a gzip archive", "gunzip it, or zcat FILE | ... --data -")),
    (0, b"(\xb5/\xfd", Kind("a zstd archive", "unzstd it, or zstdcat FILE | ... --data -")),
    (0, b"\xfd7zXZ\0", Kind("an xz archive", "unxz it, or xzcat FILE | ... --data -")),
    (4, b"1AY&SY", Kind("a bzip2 archive", "bunzip2 it, or bzcat FILE | ... --data -")),
    (0, b"\x04\x22\x4d\x18", Kind("an lz4 archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (257, b"ustar", Kind("a tar archive", _UNPACK)),
    (0, b"%PDF-", Kind("a PDF", "take the text out first, with pdftotext for example")),
    (0, b"%!PS", Kind("PostScript", "take the text out first, with ps2ascii for example")),
    (0, b"{\\rtf", Kind("an RTF document", _AS_TEXT)),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document", _AS_TEXT)),
    (0, b"PAR1\x15", Kind("a Parquet table", _TO_TEXT)),
    (0, b"ARROW1\0", Kind("an Arrow table", _TO_TEXT)),
    (0, b"FEA1\0", Kind("a Feather table", _TO_TEXT)),
    (0, b"Obj\x01", Kind("an Avro table", _TO_TEXT)),
    (0, b"MMIDIDX\0", Kind("the index of a Megatron data set", "name the .bin beside it")),
    (0, b"SQLite format 3\0", Kind("an SQLite database", _TO_TEXT)),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", _TO_TEXT)),
    (0, b"\x89PNG\r\n\x1a\n", Kind("a PNG image", _WRONG_FILE)),
    (0, b"\xff\xd8\xff\xe0", Kind("a JPEG image", _WRONG_FILE)),
    (0, b"\xff\xd8\xff\xe1", Kind("a JPEG image", _WRONG_FILE)),
    (0, b"GIF89a", Kind("a GIF image", _WRONG_FILE)),
    (4, b"ftypisom", Kind("an MP4 video", _WRONG_FILE)),
    (8, b"WAVEfmt ", Kind("a WAVE recording", _WRONG_FILE)),
    (0, b"OggS\0", Kind("an Ogg recording", _WRONG_FILE)),
    (0, b"\x7fELF", Kind("a program (ELF)", _WRONG_FILE)),
    (0, b"\xcf\xfa\xed\xfe", Kind("a program (Mach-O)", _WRONG_FILE)),
    (0, b"\xff\xff\xff\xff\x10\x00\x00\x00", Kind("an Arrow stream", _TO_TEXT)),
    (8, b"\x10\x00\x00\x00\x00\x00\x0a\x00", Kind("an Arrow stream", _TO_TEXT)),
)  # fmt: skip

_IN_ZIP = (
    (b"word/", Kind("a Word document", _AS_TEXT)),
    (b"xl/", Kind("an Excel workbook", "save it as JSON lines first")),
    (b"ppt/", Kind("a PowerPoint file", _AS_TEXT)),
    (b"epub+zip", Kind("an EPUB book", "convert it to plain text first")),
    (b"opendocument", Kind("an OpenDocument file", _AS_TEXT)),
    (b"data.pkl", TORCH),
    (b".npy", Kind("a NumPy archive (.npz)", "save its array as a .npy")),
)

_LLMC = {  # karpathy/llm.c: train_gpt2.py and dev/data/data_common.py, int32, little-endian
    20240326: Kind("an llm.c model", "models are runs, checkpoints or llama2.c .bin files"),
    20240327: Kind("the training state of llm.c", _WRONG_FILE),
    20240328: Kind("an llm.c tokenizer", "name the tokenizer.json of the model"),
    20240520: LLMC_SHARD,
    20240522: Kind("an evaluation set of llm.c", "token ids go with --data"),
    20240801: LLMC_SHARD,
}


def kind_of(head: bytes, size: int) -> Kind | None:
    """The kind of a file whose first HEAD_BYTES are `head`; None for prose, ids and the unknown.

    size: of the whole file. Short magics are believed only with more that fits, because token ids
    may begin with any bytes.

    >>> kind_of(b"%PDF-1.7", 9000).name
    'a PDF'
    """
    for at, magic, kind in _MAGICS:
        if head.startswith(magic, at):
            return kind
    for found in _BY_STRUCTURE:
        kind_found = found(head, size)
        if kind_found is not None:
            return kind_found
    return None


def _zip(head: bytes, size: int) -> Kind | None:
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    inside = (kind for name, kind in _IN_ZIP if name in head)
    return next(inside, Kind("a zip archive", _UNPACK))


def _pickle(head: bytes, size: int) -> Kind | None:
    old, new = head[:2] in (b"\x80\x02", b"\x80\x03"), head[:2] in (b"\x80\x04", b"\x80\x05")
    if old and head[2:3] in (b"}", b"]", b"(", b"c", b"X", b"\x8a"):
        return PICKLE
    return PICKLE if new and head[2:3] == b"\x95" else None


def _weights(head: bytes, size: int) -> Kind | None:
    if len(head) < 16:
        return None
    if head[:4] == b"GGUF" and 1 <= struct.unpack_from("<I", head, 4)[0] <= 16:
        return GGUF
    (length,) = struct.unpack_from("<Q", head)
    opens = head[8:10] in (b'{"', b"{}", b"{ ") and head[10:64].isascii() and 0 not in head[10:64]
    return SAFETENSORS if opens and length <= max(0, size - 8) else None


def _llmc(head: bytes, size: int) -> Kind | None:
    if len(head) < 12:
        return None
    magic, version = struct.unpack_from("<2i", head)
    return _LLMC.get(magic) if 0 <= version < 100 else None


def _llama2c(head: bytes, size: int) -> Kind | None:
    """Both files of llama2.c; neither the old model layout nor the tokenizer has a magic number."""
    if head[:4] == b"24ka" and len(head) >= 8:
        return LLAMA2C_MODEL
    if len(head) < 28:
        return None
    dim, hidden, layers, heads, kv_heads, vocabulary, longest = struct.unpack_from("<7i", head)
    if min(dim, hidden, layers, heads, kv_heads, abs(vocabulary), longest) > 0:
        head_dim = dim // heads
        tables = abs(vocabulary) * dim * (1 if vocabulary > 0 else 2) + longest * head_dim
        layer = dim * (2 + 2 * dim + 2 * kv_heads * head_dim + 3 * hidden)
        if size == 28 + 4 * (tables + layers * layer + dim):
            return LLAMA2C_MODEL
    if head[12:].startswith(b"<unk>") and struct.unpack_from("<i", head, 8)[0] == 5:
        return LLAMA2C_TOKENIZER
    return None


def _sentencepiece(head: bytes, size: int) -> Kind | None:
    # protobuf: field 1, a piece, whose own field 1 is its text; <unk> comes first by default
    piece = head[:1] == b"\x0a" and head[2:3] == b"\x0a" and b"<unk>" in head[:64]
    return SENTENCEPIECE if piece and b"\x15" in head[:64] else None


def _markup(head: bytes, size: int) -> Kind | None:
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:16].lower()
    if begins.startswith((b"<!doctype html", b"<html")):
        return HTML
    return XML if begins.startswith(b"<?xml") else None


def _zeros(head: bytes, size: int) -> Kind | None:
    return ZEROS if len(head) >= 16 and not any(head) else None


_BY_STRUCTURE: tuple[Callable[[bytes, int], Kind | None], ...] = (
    _zip, _pickle, _weights, _llmc, _llama2c, _sentencepiece, _markup, _zeros,
)  # fmt: skip


def looks_like_text(head: bytes) -> bool:
    """True if `head` is ASCII or UTF-8 with nothing that text does not have."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # at its end `head` may cut a character in two
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(c.isprintable() or c in "\n\r\t\f\ufeff" for c in text)


def missing(path: AnyPath) -> tuple[str, str] | None:
    """Why nothing can be opened at `path`, and a hint; None where something is there."""
    name = os.fspath(path)
    try:
        os.stat(name)
        return None
    except ValueError:  # a zero in the name
        return f"{shown(name)} is no file name", "check the path"
    except PermissionError:
        return (
            f"{shown(name)} cannot be looked at: permission denied",
            "check its folder's permissions",
        )
    except OSError as error:
        reason = error.strerror or "unknown"
    if os.path.islink(name):
        target = shown(os.readlink(name))
        return f"{shown(name)} is a link to {target}, which is not there", "mend the link"
    return f"there is no {shown(name)}", _remedy(name, reason)


def _remedy(name: str, reason: str) -> str:
    if re.match(r"[a-z][a-z0-9+.-]+:/", name):
        return "it is an address on the network; fetch the file first and name it"
    if name.startswith("~"):
        return "the shell left the ~ as it is; write the whole path"
    folder, last = os.path.split(name)
    if last != last.strip() and os.path.exists(os.path.join(folder, last.strip())):
        return f"the name given has white space around it; {shown(last.strip())} is there"
    if folder and not os.path.isdir(folder):
        return f"its folder {shown(folder)} is " + (
            "a file" if os.path.exists(folder) else "missing"
        )
    close = _close(Path(folder or "."), last)
    return (
        f"{close} is there"
        if close
        else f"check the path ({reason.lower()}); it is taken from the current folder"
    )


def _close(folder: Path, name: str) -> str | None:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_NEIGHBOURS), strict=False)]
    except OSError:
        return None
    folded = {n.strip().casefold(): n for n in names}
    near = get_close_matches(name.strip().casefold(), folded, 1, 0.8)
    return repr(folded[near[0]]) if near else None

"""Ways to damage a file: its bytes, its words, its values, or what kind of thing it is.

Every function takes a random.Random, so that a seed names a damaged file for ever.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import socket
import struct
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import tomli_w

NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 65536, 100_000, 2**24, 2**31 - 1, -(2**31), 2**30)
LONG = (*NUMBERS, 2**32, 2**40, 2**63 - 1, -(2**63), 2**50)
VALUES: tuple[Any, ...] = (
    *LONG, 2**70, -(2**70), 10**4000, 0.0, -0.0, 1.5, 1e308, 1e-320, float("nan"), float("inf"),
    -float("inf"), None, True, False, "", "x", "0", "a" * 20_000, "\x1b[31mRED\x07", "\0", "\ud800",
    "é\u202e", "<script>alert(1)</script>", "$\\frac{", "_x", "../../../etc/passwd", "/etc/passwd",
    [], {}, [1], {"a": 1}, [[[[]]]], [0] * 5000,
)  # fmt: skip


def change(rng: random.Random, path: Path) -> None:
    """Damages the file in one of the ways that fit its kind."""
    if rng.random() < 0.08:
        return become_another_kind(rng, path)
    data = path.read_bytes()
    if rng.random() < 0.25:
        changed = in_bytes(rng, data)
    elif path.suffix == ".json":
        changed = in_json(rng, data)
    elif path.suffix == ".jsonl":
        changed = in_lines(rng, data)
    elif path.suffix == ".toml":
        changed = in_toml(rng, data)
    elif path.suffix == ".safetensors":
        changed = in_safetensors(rng, data)
    elif path.suffix == ".npz":
        changed = in_npz(rng, data)
    elif path.suffix in (".mil", ".txt"):
        changed = in_words(rng, data)
    else:
        changed = in_bytes(rng, data)
    path.write_bytes(changed)


def become_another_kind(rng: random.Random, path: Path) -> None:
    """A folder, a pipe, a socket, a link to nowhere, to itself or to a device, or a huge hole."""
    kind = rng.randrange(8)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2 and len(str(path)) < 100:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(path))
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to("/dev/zero")
    elif kind == 5:
        path.symlink_to("no/such/file")
    elif kind == 6:
        with open(path, "wb") as file:
            file.truncate(1 << 40)


def in_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flipped bits, cut or repeated parts, and numbers of four and eight bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        out = out or bytearray(b"\0")
        at = rng.randrange(len(out) if rng.random() < 0.5 else min(len(out), 300))
        size = rng.choice((1, 4, 16, 200))
        how = rng.randrange(8)
        if how == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at] = rng.randrange(256)
        elif how == 2:
            del out[at:]
        elif how == 3:
            out += rng.randbytes(size)
        elif how == 4:
            out[at : at + size] = bytes(len(out[at : at + size]))
        elif how == 5:
            del out[at : at + size]
        elif how == 6:
            at = at // 4 * 4
            out[at : at + 4] = struct.pack("<i", rng.choice(NUMBERS))
        else:
            at = at // 8 * 8
            out[at : at + 8] = struct.pack("<q", rng.choice(LONG))
    return bytes(out)


def in_words(rng: random.Random, data: bytes) -> bytes:
    """Words and signs replaced, left out, doubled and moved; deep nesting."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        words = list(re.finditer(rb'-?\d+(\.\d+)?|"[^"\n]*"|\w+|[^\w\s]', data))
        if not words:
            return data
        word, other = rng.choice(words), rng.choice(words)
        how = rng.randrange(6)
        new = word.group()
        if how == 0:
            new = as_json(rng.choice(VALUES))
        elif how == 1:
            new = b""
        elif how == 2:
            new = other.group()
        elif how == 3:
            new = new * 2
        elif how == 4:
            new = str(rng.choice(LONG)).encode()
        else:
            new = rng.choice((b"[", b"{", b"(", b"<", b"a.", b'"')) * rng.choice((3, 2000, 100_000))
        data = data[: word.start()] + new + data[word.end() :]
    return data


def in_value(rng: random.Random, value: Any) -> Any:
    """A tree of values with some replaced, removed, renamed or wrapped."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        paths = list(places(value))
        path, new = rng.choice(paths), copy.deepcopy(rng.choice(VALUES))
        if not path:
            value = new if rng.random() < 0.2 else value
            continue
        above = value
        for step in path[:-1]:
            above = above[step]
        how = rng.randrange(9)
        if how < 6:
            above[path[-1]] = new
        elif how == 6:
            del above[path[-1]]
        elif how == 7 and isinstance(above, dict):
            above[rng.choice(("zz", "\x1b[2J", "../x", "<b>", ""))] = above.pop(path[-1])
        else:
            above[path[-1]] = [above[path[-1]]]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """The paths to every value inside a value."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:40]):
            yield from places(inner, (*path, i))


def as_json(value: Any) -> bytes:
    """JSON, or something like it for what JSON has not."""
    if isinstance(value, int) and abs(value) > 10**1000:
        return b"9" * 4000
    return json.dumps(value).encode("utf-8", "surrogatepass")


def in_json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return in_words(rng, data)
    changed = json.dumps(in_value(rng, json.loads(data)), default=str).encode()
    if rng.random() < 0.1:  # a key that comes twice
        changed = changed.replace(b"{", b'{"step": 1, "step": 2, ', 1)
    return changed


def in_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.choice((0, len(lines) - 1, rng.randrange(len(lines))))
    how = rng.randrange(6)
    if how == 0:
        lines[at] = lines[at] * rng.choice((2, 20_000))
    elif how == 1:
        rng.shuffle(lines)
    elif how == 2:
        del lines[at]
    elif how == 3:
        lines[at] = in_bytes(rng, lines[at])
    else:
        lines[at] = in_json(rng, lines[at]) + b"\n"
    return b"".join(lines)


def in_toml(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.5:
        return in_words(rng, data)
    try:
        return tomli_w.dumps(in_value(rng, tomllib.loads(data.decode()))).encode()
    except (TypeError, ValueError, AttributeError):  # a value that TOML has not
        return in_words(rng, data)


def in_safetensors(rng: random.Random, data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    head = data[8 : 8 + size]
    head = in_json(rng, head) if rng.random() < 0.8 else in_words(rng, head)
    return struct.pack("<Q", len(head)) + head + data[8 + size :]


def in_npz(rng: random.Random, data: bytes) -> bytes:
    """An array's header changed, an array left out or renamed, a compressed giant of zeros."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    name, packed = rng.choice(list(parts)), zipfile.ZIP_STORED
    how = rng.randrange(6)
    if how == 0:
        del parts[name]
    elif how == 1:
        parts["in.\x1b[31m"] = parts.pop(name)
    elif how == 2:
        parts[name], packed = parts[name] + bytes(64 << 20), zipfile.ZIP_DEFLATED
    elif how == 3:
        parts |= {f"in.{i}.npy": b"" for i in range(5000)}
    else:
        body = parts[name]
        head = in_words(rng, body[10:128]) if how == 4 else in_bytes(rng, body[:128])
        parts[name] = (body[:10] if how == 4 else b"") + head + body[128:]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as new:
        for key, content in parts.items():
            new.writestr(key, content)
    return out.getvalue()

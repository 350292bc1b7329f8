"""A program as a folder: text, weight files, one evaluation. What a bug report needs, and no more.

    NAME-1a2b3c4d/
        model.mil           the text, as the device got it
        weights/weight.bin  each weight file at its place
        evaluation.npz      in.PORT and out.PORT of the first evaluation; no out where it failed
        about.json          device, versions, the error if there was one

Read back by `anefast replay`. Values may be personal: they come from the user's data.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anefast import _C
from anefast.errors import shown
from anefast.files import (
    GIB,
    MIB,
    FileError,
    make_folder,
    read_bytes,
    read_json,
    read_text,
    replacing,
    write_atomic,
    write_json,
)
from anefast.npz import read_npz
from anefast.runtime.cache import Blobs
from anefast.runtime.inspect.values import DTYPES, Array

MODEL, EVALUATION, ABOUT, ROOT = "model.mil", "evaluation.npz", "about.json", "@model_path/"
MOST_TEXT = 1 << 28  # bytes of one text, as in csrc/mil/lex.cpp
MOST_ELEMENT = 8  # bytes
MOST_VALUES = 4 * GIB  # of all ports, and of all weights: no program comes near this


def folder_of(root: Path, name: str, text: str) -> Path:
    """The folder for a program of this name and text."""
    plain = re.sub(r"[^\w.-]", "_", name)[:80]
    return root / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_program(folder: Path, text: str, blobs: Blobs, about: Mapping[str, Any]) -> None:
    """Text and weight files, unless they are there."""
    from anefast import __version__

    make_folder(folder, "dump")
    write_atomic(folder / MODEL, text.encode(), "dump")
    for path, data in blobs.items():
        file = folder / relative(path)
        make_folder(file.parent, "dump", inside=folder)
        with replacing(file, "dump", inside=folder) as out:
            out.write(memoryview(data))
    known = {"anefast": __version__, "platform": platform.platform(), **about}
    write_json(folder / ABOUT, known, "dump")


def write_evaluation(
    folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], error: str = ""
) -> None:
    """The values of inputs and outputs, by port."""
    named = {f"in.{n}": a for n, a in inputs.items()} | {f"out.{n}": a for n, a in outputs.items()}
    with replacing(folder / EVALUATION, "dump") as file:
        np.savez(file, allow_pickle=False, **named)
    if error:
        about = read_json(folder / ABOUT, where="dump", follow=False)
        write_json(folder / ABOUT, {**about, "error": error}, "dump")


def read(folder: Path) -> tuple[str, dict[str, bytes], dict[str, Array], dict[str, Array]]:
    """(text, weight files by path, inputs, outputs by port) of a dumped program.

    BadInput in one line where the folder is none, or its files are not of one program. What the
    text declares bounds what is read of the other files.
    """
    for name in (MODEL, EVALUATION):
        if not (folder / name).exists():
            raise FileError(
                f"[replay] {shown(folder)} is not a dumped program: it has no {name}. "
                f"Hint: name a folder with {MODEL} and {EVALUATION}, written with ANEFAST_DUMP."
            )
    text = read_text(folder / MODEL, MOST_TEXT, "replay")
    try:
        functions = _C.check(text)["functions"]
    except _C.MILError as error:
        raise FileError(f"[replay] {shown(folder)} is not a dumped program: {error}") from None
    if len(functions) != 1:
        raise FileError(
            f"[replay] expected one function in {shown(folder / MODEL)}, got {len(functions)}."
        )
    ports = {way: functions[0][f"{way}puts"] for way in ("in", "out")}
    if strange := next((p for all in ports.values() for p in all if p[1] not in DTYPES), None):
        raise FileError(
            f"[replay] {shown(folder / MODEL)} has a port of {strange[1]}, which no device has."
        )
    expected = {
        f"{way}.{name}": (shape, DTYPES[dtype])
        for way, all in ports.items()
        for name, dtype, shape in all
    }
    declared = sum(math.prod(s) * np.dtype(d).itemsize for s, d in expected.values())
    _check_size(folder / MODEL, declared, "values at its ports")
    arrays = read_npz(folder / EVALUATION, expected, "replay")
    if missing := next((n for n in expected if n.startswith("in.") and n not in arrays), None):
        raise FileError(f"[replay] {shown(folder / EVALUATION)} has no {missing}.")
    blobs = {
        path: read_bytes(folder / relative(path), limit, "replay")
        for path, limit in sorted(weights(text, folder / MODEL).items())
    }
    inputs = {n[3:]: a for n, a in arrays.items() if n.startswith("in.")}
    outputs = {n[4:]: a for n, a in arrays.items() if n.startswith("out.")}
    return text, blobs, inputs, outputs


def weights(text: str, path: Path) -> dict[str, int]:
    """The weight files that a text names, and how many bytes they may have for what is in them."""
    sizes: dict[str, int] = {}
    for function in _C.outline(text.encode())["functions"]:
        for value in function["values"]:
            if value["blob"]:
                size = 128 + math.prod(value["shape"]) * MOST_ELEMENT
                sizes[value["blob"][0]] = sizes.get(value["blob"][0], 0) + size
    _check_size(path, sum(sizes.values()), "weights")
    return {name: size + MIB for name, size in sizes.items()}


def _check_size(path: Path, size: int, what: str) -> None:
    if size > MOST_VALUES:
        raise FileError(
            f"[replay] expected {shown(path)} to declare at most {MOST_VALUES // GIB} GiB of "
            f"{what}, got {size / GIB:,.0f}."
        )


def relative(path: str) -> Path:
    """A weight file's place in the folder; BadInput for one that would leave it."""
    parts = PurePosixPath(path.removeprefix(ROOT)).parts
    if not parts or "\0" in path or any(part == ".." or part.startswith("/") for part in parts):
        raise FileError(f"[dump] expected a weight file inside the model, got {shown(path)}.")
    return Path(*parts)

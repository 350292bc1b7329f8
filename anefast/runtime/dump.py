"""A program as a folder: text, weight files, one evaluation. What a bug report needs, and no more.

    NAME-1a2b3c4d/
        model.mil           the text, as the device got it
        weights/weight.bin  each weight file at its place
        evaluation.npz      in.PORT and out.PORT of the first evaluation; no out where it failed
        about.json          device, versions, the error if there was one

Read back by `python -m anefast.replay`. Values may be personal: they come from the user's data.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anefast.files import parse_json
from anefast.runtime.cache import Blobs
from anefast.runtime.probe import Array

MODEL, EVALUATION, ABOUT, ROOT = "model.mil", "evaluation.npz", "about.json", "@model_path/"


def folder_of(root: Path, name: str, text: str) -> Path:
    """Where the program of this name and text goes."""
    plain = re.sub(r"[^\w.-]", "_", name)[:80]
    return root / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_program(folder: Path, text: str, blobs: Blobs, about: Mapping[str, Any]) -> None:
    """Text and weight files, unless they are there."""
    from anefast import __version__

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_text(text, "utf-8")
    for path, data in blobs.items():
        file = folder / relative(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(memoryview(data))
    known = {"anefast": __version__, "platform": platform.platform(), **about}
    (folder / ABOUT).write_text(json.dumps(known, indent=2) + "\n", "utf-8")


def write_evaluation(
    folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], error: str = ""
) -> None:
    """What went in and came out, by port."""
    named = {f"in.{n}": a for n, a in inputs.items()} | {f"out.{n}": a for n, a in outputs.items()}
    np.savez(folder / EVALUATION, allow_pickle=False, **named)
    if error:
        about = parse_json((folder / ABOUT).read_text("utf-8"))
        (folder / ABOUT).write_text(json.dumps({**about, "error": error}, indent=2) + "\n", "utf-8")


def read(folder: Path) -> tuple[str, dict[str, bytes], dict[str, Array], dict[str, Array]]:
    """(text, weight files by path, inputs, outputs by port) of a dumped program.

    ValueError in one line where the folder is none. Loads no pickles.
    """
    try:
        text = (folder / MODEL).read_text("utf-8")
        with np.load(folder / EVALUATION, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"[replay] {folder} is not a dumped program: {' '.join(str(error).split())}. "
            f"Hint: name a folder with {MODEL} and {EVALUATION}, written with ANEFAST_DUMP."
        ) from None
    paths = set(re.findall(r'"(@model_path/[^"]+)"', text))
    blobs = {path: (folder / relative(path)).read_bytes() for path in sorted(paths)}
    inputs = {n[3:]: a for n, a in arrays.items() if n.startswith("in.")}
    outputs = {n[4:]: a for n, a in arrays.items() if n.startswith("out.")}
    return text, blobs, inputs, outputs


def relative(path: str) -> Path:
    """A weight file's place in the folder; ValueError for one that would leave it."""
    parts = PurePosixPath(path.removeprefix(ROOT)).parts
    if not parts or any(part in ("..", "/") for part in parts):
        raise ValueError(f"[dump] expected a weight file inside the model, got {path!r}.")
    return Path(*parts)

"""Files of token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from anefast.data.error import DataError
from anefast.data.stream import CHECK


def shard(path: Path, vocab_size: int) -> npt.NDArray[np.uint16]:
    """A memory map of a uint16 file whose every id is below vocab_size."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise DataError(
            "uint16 token ids, an even number of bytes",
            f"{path} has {size}",
            "it is empty, cut short, or not a token file" if size else "write tokens to it first",
        )
    try:
        ids = np.memmap(path, "<u2", "r")
    except OSError as error:
        raise DataError("a readable file", f"{path}: {error.strerror}", "check it") from None
    for start in range(0, len(ids), CHECK):
        part = ids[start : start + CHECK]
        if int(part.max()) >= vocab_size:
            at = start + int((part >= vocab_size).argmax())
            raise DataError(
                f"ids below {vocab_size}",
                f"{path} has {ids[at]} at token {at}",
                "name the tokenizer that made the file, and a model with as many ids",
            )
    return ids

"""What the parts of a checkpoint are called: its folder, its files, and what is in their state."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from anefast.errors import BadInput

Arrays = Mapping[str, npt.NDArray[np.float32]]
FORMAT = 2  # 1 had no checksum of state.json, and no session.json
MODEL, OPTIM = "model.safetensors", "optim.safetensors"
STATE, SESSION = "state.json", "session.json"
ADAPTER = "adapter"  # in the state of a LoRA run, whose tensors are an adapter's: its settings
VOCABULARY = "compact_vocab"  # in the state, where a run has one: Vocabulary.text
TRAINED_LENGTH = "trained_length"  # in the state: tokens per sequence that were trained on
CHECKSUM = "checksum"  # in both JSON files: of everything else in them
LATEST, BEST = "latest", "best.json"
NAME = re.compile(r"step_(\d{6,})(?:_micro(\d{3,}))?")


class CheckpointError(BadInput):
    """A checkpoint that cannot be read or written. One line that names it."""


def checkpoint_name(step: int, micro: int = 0) -> str:
    """step: updates made. micro: micro-steps of the next one that are already in the gradients."""
    return f"step_{step:06d}" + (f"_micro{micro:03d}" if micro else "")


def rank_file(rank: int) -> str:
    """The file of a rank's own arrays."""
    return f"rank_{rank:03d}.safetensors" if rank else OPTIM


def place(name: str) -> tuple[int, int] | None:
    """The inverse of `checkpoint_name`; None for another name."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    at = int(found[1]), int(found[2] or 0)
    return at if checkpoint_name(*at) == name else None

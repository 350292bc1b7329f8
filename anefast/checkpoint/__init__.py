"""Checkpoints: a folder per save, complete or absent, checked when it is read.

    step_000500/  model.safetensors  optim.safetensors  state.json  session.json  tokenizer.*
                  rank_001.safetensors ...

A checkpoint is written under a temporary name, every file and folder is fsynced, and one rename
makes it appear; a full disk or a power cut leaves the ones before it whole. state.json carries the
sha256 of the tensors and the tokenizer and a checksum of itself. It is a function of the config and
the data; what differs from session to session is in session.json. One saved in the middle of an
accumulation is called step_000500_micro007 and also holds the gradients so far. Ranks that make
local updates have a file each, but for rank 0, whose arrays are in optim.safetensors. Which state a
run needs is run_state.py's business; the run folder around it is telemetry/.

names.py says what the parts are called; finding.py, reading.py and writing.py do that.
"""

from anefast.checkpoint.finding import (
    best_checkpoint,
    checkpoints,
    find_checkpoint,
    newest,
)
from anefast.checkpoint.names import (
    ADAPTER,
    BEST,
    CHECKSUM,
    FORMAT,
    LATEST,
    MODEL,
    OPTIM,
    SESSION,
    STATE,
    TRAINED_LENGTH,
    VOCABULARY,
    Arrays,
    CheckpointError,
    checkpoint_name,
    place,
    rank_file,
)
from anefast.checkpoint.reading import (
    base_path,
    load_adapter,
    load_model,
    load_session,
    load_state,
    load_trained_length,
    load_vocabulary,
    model_of,
    read_tensors,
    whole_one,
)
from anefast.checkpoint.writing import (
    Saves,
    mark_best,
    prune,
    save,
    set_later_aside,
    sweep,
)

__all__ = [
    "ADAPTER",
    "BEST",
    "CHECKSUM",
    "FORMAT",
    "LATEST",
    "MODEL",
    "OPTIM",
    "SESSION",
    "STATE",
    "TRAINED_LENGTH",
    "VOCABULARY",
    "Arrays",
    "CheckpointError",
    "Saves",
    "base_path",
    "best_checkpoint",
    "checkpoint_name",
    "checkpoints",
    "find_checkpoint",
    "load_adapter",
    "load_model",
    "load_session",
    "load_state",
    "load_trained_length",
    "load_vocabulary",
    "mark_best",
    "model_of",
    "newest",
    "place",
    "prune",
    "rank_file",
    "read_tensors",
    "save",
    "set_later_aside",
    "sweep",
    "whole_one",
]

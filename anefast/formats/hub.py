"""`hf:owner/name`: a model of the Hugging Face hub, brought to this machine by its own library.

A convenience: a path always does, and nothing is ever fetched that was not named so.
"""

from __future__ import annotations

from pathlib import Path

from anefast.errors import shown

from .source import ModelSourceError

PREFIX = "hf:"
FILES = ("*.json", "*.safetensors", "*.jinja")  # no pickles, no copies in other formats


def local(path: Path) -> Path:
    """Where `hf:owner/name` or `hf:owner/name@revision` lies here; other paths as they are.

    ImportError without huggingface_hub; ModelSourceError in one line where it cannot be brought.
    """
    if not str(path).startswith(PREFIX):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"[model] {PREFIX} names need huggingface_hub, which is not installed. "
            "Hint: pip install huggingface_hub, or name a folder."
        ) from None
    name, _, revision = str(path).removeprefix(PREFIX).partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=[*FILES])
    except Exception as error:  # the network, the hub and the library each have their own
        said = shown(" ".join(str(error).split()), 300)
        raise ModelSourceError(
            f"[model] expected {shown(path)} from the hub: {type(error).__name__}, {said}. "
            "Hint: check name and network, or fetch the folder and name it."
        ) from None
    return Path(found)

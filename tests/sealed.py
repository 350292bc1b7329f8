"""Changing a checkpoint's state as somebody would who knows how it is checked. Not a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anefast.parsing import checksum


def edit_state(folder: Path, **changes: Any) -> None:
    """Changes entries of state.json, takes out those that are None, and seals it again."""
    seal = _write(folder / "state.json", changes)
    _write(folder / "session.json", {"state.json": seal})


def _write(path: Path, changes: dict[str, Any]) -> str:
    content = json.loads(path.read_text()) | changes
    content = {k: v for k, v in content.items() if v is not None and k != "checksum"}
    seal = checksum(content)
    path.write_text(json.dumps({**content, "checksum": seal}))
    return seal

"""What `python -m anefast.doctor` learned about this machine's devices, remembered between runs.

One JSON file in the user's cache folder, by device and version of this package. It is a hint, never
needed: what cannot be read, or is not of the expected form, counts as nothing learned. Only
device.py asks. Who writes it is anefast/doctor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anefast.files import parse_json

log = logging.getLogger("anefast")

FORMAT = 1  # of the file, counted up when a field means something else
MOST_BYTES = 1 << 20  # a larger file is not ours
MOST_WORDS = 64


@dataclass(frozen=True)
class Learned:
    """What is known of one device.

    broken: checks without which training cannot work, and which failed; empty where all passed.
    dialects, weights, ports: what its compiler took and computed rightly, in a plan's words
        ("ios18"; "const", "packed", "params"; "several", "packed").
    dispatch_us: what an evaluation costs besides its work; 0 where it was not measured.
    seen: what else was seen to work, of what reports contradict each other in: "padded" ports,
        ports of "mixed" sizes, "many" ports, "exact" surfaces, each as large as its port, and
        forms of rotary embedding, "rope=slices" or another.
    """

    broken: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    dispatch_us: float = 0.0
    seen: tuple[str, ...] = ()

    @property
    def objection(self) -> str:
        """Why `auto` should not choose this device; empty where nothing speaks against it."""
        return f"doctor found it broken: {', '.join(self.broken)}" if self.broken else ""


def cache_folder() -> Path:
    """The user's cache folder for this package; ANEFAST_CACHE names another."""
    if said := os.environ.get("ANEFAST_CACHE"):
        return Path(said)
    home = Path.home()
    mac = home / "Library" / "Caches"
    base = (
        mac if sys.platform == "darwin" else Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    )
    return base / "anefast"


def learned_file() -> Path:
    return cache_folder() / "doctor.json"


def recall(description: str, path: Path | None = None) -> Learned | None:
    """What was learned about the device that describes itself so; None where nothing was."""
    entry = _read(path or learned_file()).get(_key(description))
    return _learned(entry) if isinstance(entry, dict) else None


def remember(description: str, learned: Learned, path: Path | None = None) -> bool:
    """Stores it; what was learned of other devices stays. False where the file cannot be written.

    The file is replaced as a whole, so a reader never sees half of one.
    """
    path = path or learned_file()
    known = {k: v for k, v in _read(path).items() if isinstance(v, dict) and _learned(v)}
    known[_key(description)] = asdict(learned)
    text = json.dumps({"format": FORMAT, "devices": known}, indent=1)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(part, path)
    except OSError as error:
        log.debug("learned facts not stored in %s: %s", path, error)
        with contextlib.suppress(OSError):
            if part is not None:
                os.unlink(part)
        return False
    return True


def _key(description: str) -> str:
    """A device of another description (chip, system) or another version of ours is another one."""
    from anefast import __version__

    return f"anefast {__version__}: {description}"


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ValueError("it is too large")
        known = parse_json(raw)
        if not isinstance(known, dict) or known.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        devices = known.get("devices")
        return devices if isinstance(devices, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.debug("learned facts in %s are passed over: %s", path, error)
        return {}


def _learned(entry: Mapping[str, Any]) -> Learned | None:
    """The entry as facts; None where any part has another form."""
    words: dict[str, tuple[str, ...]] = {}
    for name in ("broken", "dialects", "weights", "ports", "seen"):
        given = entry.get(name, [])
        if not isinstance(given, list) or len(given) > MOST_WORDS:
            return None
        if not all(isinstance(w, str) and len(w) < 80 and w.isprintable() for w in given):
            return None
        words[name] = tuple(given)
    dispatch = entry.get("dispatch_us", 0.0)
    if isinstance(dispatch, bool) or not isinstance(dispatch, int | float):
        return None
    if not math.isfinite(dispatch) or dispatch < 0:
        return None
    return Learned(**words, dispatch_us=float(dispatch))

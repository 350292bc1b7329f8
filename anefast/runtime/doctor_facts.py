"""Facts that `anefast doctor` found about this machine's devices, kept between runs.

One JSON file in the user's cache folder, by device and version of this package. It is a hint, never
needed: what cannot be read, or is not of the expected form, counts as nothing learned. Only
device.py asks. Who writes it is anefast/doctor.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anefast.errors import shown
from anefast.files import MIB, FileError, make_folder, read_json, write_json
from anefast.schema import line, number, record, several, table

log = logging.getLogger("anefast")

FORMAT = 1  # of the file, counted up when a field means something else
MOST_BYTES = 1 * MIB  # a larger file is not ours

_words = several(line(80), 64)
_NUMBERS = ("dispatch_us", "most_inputs", "most_outputs")
_ENTRY = record(
    {},
    {
        **dict.fromkeys(("broken", "dialects", "weights", "ports", "seen"), _words),
        **dict.fromkeys(_NUMBERS, number(0)),
    },
)
_FILE = record({"format": lambda value: value, "devices": table(lambda value: value)})


@dataclass(frozen=True)
class Learned:
    """The facts about one device.

    broken: checks without which training cannot work, and which failed; empty where all passed.
    dialects, weights, ports: what its compiler took and computed rightly, in a plan's words
        ("ios18"; "const", "packed", "params"; "several", "packed").
    dispatch_us: what an evaluation costs besides its work; 0 where it was not measured.
    seen: what else was seen to work, of what reports contradict each other in: "padded" ports,
        ports of "mixed" sizes, "many" ports, "exact" surfaces, each as large as its port, and
        forms of rotary embedding, "rope=slices" or another.
    most_inputs, most_outputs: of one program, that `doctor --probe` saw bound rightly; 0 where it
        was not asked.
    """

    broken: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    dispatch_us: float = 0.0
    seen: tuple[str, ...] = ()
    most_inputs: float = 0
    most_outputs: float = 0

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
    """The facts about the device with this description; None where there are none."""
    return _read(path or learned_file()).get(_key(description))


def remember(description: str, learned: Learned, path: Path | None = None) -> bool:
    """Stores it; what was learned of other devices stays. False where the file cannot be written.

    The file is replaced as a whole, so a reader never sees half of one.
    """
    path = path or learned_file()
    known = {**_read(path), _key(description): learned}
    plain = {"format": FORMAT, "devices": {key: asdict(value) for key, value in known.items()}}
    try:
        make_folder(path.parent, "doctor")
        write_json(path, plain, "doctor")
    except FileError as error:
        log.debug("learned facts not stored: %s", error)
        return False
    return True


def _key(description: str) -> str:
    """A device of another description (chip, system) or another version of ours is another one."""
    from anefast import __version__

    return f"anefast {__version__}: {description}"


def _read(path: Path) -> dict[str, Learned]:
    """The file's entries by key. Entries and files of another form are ignored."""
    try:
        known = read_json(path, MOST_BYTES, "doctor", form=_FILE)
    except FileError as error:
        log.debug("learned facts are passed over: %s", error)
        return {}
    found = {}
    for key, entry in known["devices"].items() if known["format"] == FORMAT else ():
        try:
            facts = _ENTRY(entry)
        except ValueError as error:
            log.debug("a learned fact in %s is passed over: %s", shown(path), error)
            continue
        known_of: dict[str, Any] = {
            name: v if name in _NUMBERS else tuple(v) for name, v in facts.items()
        }
        found[key] = Learned(**known_of)
    return found

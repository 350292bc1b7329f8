"""Environment variables that are looked at once, so that a wrong one is refused and not ignored.

Others are checked where they are read: ANEFAST_NUM_THREADS and ANEFAST_ISA say what is taken
instead (the latter in the device's description), ANEFAST_CHECK and DEBUG are those of
runtime/inspect/watch.py and debug.py.
"""

from __future__ import annotations

import logging
import os
from difflib import get_close_matches

from anefast.checks import need_choice
from anefast.errors import BadInput, shown

log = logging.getLogger("anefast")

# Of csrc/host/executor.cpp, which takes any other word for the default.
CHOICES = {"ANEFAST_GROUPS": ("on", "off")}
NAMES = (
    *CHOICES, "ANEFAST_ISA", "ANEFAST_NUM_THREADS", "ANEFAST_CACHE", "ANEFAST_TRACEBACK",
    "ANEFAST_CHECK", "ANEFAST_DUMP", "ANEFAST_KEEP_MB",
)  # fmt: skip
CLOSE = 0.85  # of two names, by difflib
KEEP_MB = 4096  # of compiled programs on disk; some ten models of 100M weights beside adapters
_told: set[str] = set()


def check() -> None:
    """ConfigError for a value that no reader knows; a warning, once, for a misspelt name."""
    for name, choices in CHOICES.items():
        if value := os.environ.get(name, ""):
            need_choice(name, value, choices, "environment")
    kept_mb()
    for name in os.environ:
        near = get_close_matches(name, NAMES, n=1, cutoff=CLOSE) if name[:8] == "ANEFAST_" else []
        if near and name not in NAMES and name not in _told:
            _told.add(name)
            log.warning("[environment] %s is not read. Hint: did you mean %s?", name, near[0])


def kept_mb() -> int:
    """MiB of compiled programs that may stay on disk, by ANEFAST_KEEP_MB; 0: none."""
    said = os.environ.get("ANEFAST_KEEP_MB", "")
    if not said:
        return KEEP_MB
    if not (said.isascii() and said.isdigit() and len(said) < 10):
        raise BadInput(
            "[environment] expected ANEFAST_KEEP_MB to be a whole number of MiB, got "
            f"{shown(said)}. Hint: 0 keeps no compiled programs on disk."
        )
    return int(said)

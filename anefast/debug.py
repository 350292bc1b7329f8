"""DEBUG=1..6: how much the stack says about itself, on standard error.

    1  the device, and each program with its ports
    2  every evaluation: milliseconds, bytes, GFLOP/s
    3  what each program runs, fused operations as one task; where values lie in surfaces: regions,
       copies, what is shared
    4  the MIL text of each program
    5  the graph before and after each pass
    6  smallest and largest value, NaN and inf of every surface an evaluation touches

Each level includes those before it. Unset, nothing is computed for it. Lines go through the logger
`anefast.debug`, which gets a handler of its own when the first line is due.
"""

from __future__ import annotations

import logging
import os
import sys

from anefast.errors import visible

LEVELS = 6
log = logging.getLogger("anefast.debug")
_refused: set[str] = set()


def level() -> int:
    """The level that DEBUG asks for; 0 where it is unset or, said once, not one of ours."""
    said = os.environ.get("DEBUG", "")
    if not said:
        return 0
    if said.isascii() and said.isdigit() and int(said) <= LEVELS:
        return int(said)
    if said not in _refused:
        _refused.add(said)
        logging.getLogger("anefast").warning(
            "[debug] expected DEBUG to be 0 to %d, got %r; nothing is shown. Hint: DEBUG=2 times "
            "every evaluation.",
            LEVELS, said,
        )  # fmt: skip
    return 0


def say(text: str) -> None:
    """One message of a level that the caller has checked."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.propagate = False
    log.debug("%s", visible(text))

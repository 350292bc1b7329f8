"""Plans in turn, until a device takes one: what is refused in one form may be taken in another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from anefast import _C

log = logging.getLogger("anefast")
Made = TypeVar("Made")


def first_taken(specs: list[str], make: Callable[[str], Made]) -> tuple[str, Made]:
    """The first of these plans whose programs the device takes, and what `make` made of it.

    `make` compiles. Every refusal but the last is a warning; the last is raised.
    """
    for spec, following in pairwise(specs):
        try:
            return spec, make(spec)
        except (_C.MILError, _C.CompileError) as refusal:
            log.warning("[plan] %s was refused: %s Trying %s.", spec, refusal, following)
    return specs[-1], make(specs[-1])

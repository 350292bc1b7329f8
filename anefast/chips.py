"""What is known of each chip's Neural Engine: its limits and behaviour, each with its source.

Data, no code paths. Nobody here has run an M-series chip: these figures are other people's
measurements, and where none was found for a chip the nearest one's is taken and marked assumed.
How fast a chip is stands in `fuse/rates.py`; what a plan may not do on it in `fuse/legal.py`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

GUIDE = "sbryngelson/ane-guide"
SEED = "maderix/ANE issue 24 (M1 Pro, macOS 26.2)"
MADERIX = "maderix/ANE"


class Figure(NamedTuple):
    """A number and where it comes from."""

    value: float
    source: str


def assumed(figure: Figure, chip: str) -> Figure:
    """A figure of the nearest chip that has one."""
    return Figure(figure.value, f"assumed, as {chip}: {figure.source}")


_OLD_AXIS = Figure(16384, f"{GUIDE} appendix A, jafreck/ironmill: 16385 is refused up to M3")
_NEW_AXIS = Figure(65536, f"{GUIDE} appendix A: from M4")
_CHANNELS = Figure(65536, f"{GUIDE} appendix A")
_LOADED = Figure(120, "omlx, ncdrone/rustane; jafreck/ironmill saw trouble from about 55")
_SLICE = Figure(4094, f"{GUIDE} ch. 19: larger values of such slices read inf, M1 and M2")
_SEVERAL = f"several inputs per program: refused in {SEED}, taken on other M1s"


@dataclass(frozen=True)
class Chip:
    """One chip's limits."""

    name: str
    max_axis: Figure = _OLD_AXIS  # longest axis of a port behind the channels
    max_channels: Figure = _CHANNELS
    # Magnitude above which a slice that starts behind the beginning of the last axis gives inf.
    slice_cap: Figure | None = None
    loaded_programs: Figure = _LOADED  # that a process may hold at once
    several_inputs: str = ""  # why a program with several inputs may be refused; empty: no report


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("m1", slice_cap=_SLICE),
        Chip("m1-pro", slice_cap=assumed(_SLICE, "m1"), several_inputs=_SEVERAL),
        Chip("m2", slice_cap=_SLICE),
        Chip("m3"),
        Chip("m4", max_axis=_NEW_AXIS),
        Chip("m4-max", max_axis=_NEW_AXIS),
        Chip("m5", max_axis=assumed(_NEW_AXIS, "m4")),
    )
}


def find_chip(name: str) -> Chip:
    """The chip called `name`. ValueError with a suggestion where there is none."""
    if name in CHIPS:
        return CHIPS[name]
    near = difflib.get_close_matches(name.lower().replace(" ", "-"), CHIPS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(CHIPS)}."
    raise ValueError(f"[chip] expected a known chip, got {name!r}. Hint: {hint}")


def chip_of(description: str) -> Chip:
    """The nearest chip of the table for a device that describes itself, such as `Apple M4 Max`.

    Caps rise with the generation, so an unknown variant is taken for its generation's base chip,
    and what names no generation for the oldest.
    """
    words = re.findall(r"[a-z0-9]+", description.lower())
    for i, word in enumerate(words):
        variant = f"{word}-{words[i + 1]}" if i + 1 < len(words) else word
        if variant in CHIPS or word in CHIPS:
            return CHIPS.get(variant) or CHIPS[word]
    return CHIPS["m1"]

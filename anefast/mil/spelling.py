"""Writes values and types in each MIL dialect, and turns names into identifiers.

"ios18" is program(1.3) with scalar shorthands, what current chips take; "ios16" is program(1.0),
where every scalar is a rank-0 tensor, for M1 and M2. Same statements otherwise. Not here: which
statements a program has (text.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters, digits
from typing import Any

import numpy as np

# Compilers record who wrote a program; its values are not checked, but some want them all present.
BUILD = (
    ("coremlc-component-MIL", "3510.2.1"),
    ("coremlc-version", "3505.4.1"),
    ("coremltools-component-milinternal", ""),
    ("coremltools-version", "9.0"),
)
_TYPE = {"bool": "bool", "int": "int32", "ints": "int32", "float": "fp16", "string": "string"}


@dataclass(frozen=True)
class Dialect:
    name: str
    version: str
    shorthand: bool

    def scalar(self, dtype: str) -> str:
        return dtype if self.shorthand else f"tensor<{dtype}, []>"

    def type(self, dtype: str, shape: Sequence[int]) -> str:
        """`tensor<fp16, [1, 64, 1, 32]>`; the scalar's own spelling for shape ()."""
        if not shape:
            return self.scalar(dtype)
        return f"tensor<{dtype}, [{', '.join(map(str, shape))}]>"

    def string(self, text: str) -> str:
        return f'{self.scalar("string")}("{text}")'

    def constant(self, kind: str, value: Any) -> tuple[str, str]:
        """(type, value expression) of a constant argument of an op."""
        dtype = _TYPE[kind]
        if kind == "ints":
            of = self.type(dtype, (len(value),))
            return of, f"{of}([{', '.join(str(int(v)) for v in value)}])"
        of = self.scalar(dtype)
        if kind == "string":
            return of, self.string(value)
        if kind == "bool":
            return of, f"{of}({'true' if value else 'false'})"
        return of, f"{of}({half_literal(value) if kind == 'float' else int(value)})"

    def blob(self, of: str, path: str, offset: int) -> str:
        place = f"offset = {self.scalar('uint64')}({offset})"
        return f"{of}(BLOBFILE(path = {self.string(path)}, {place}))"

    def head(self) -> str:
        text = self.scalar("string")
        pairs = ", ".join(f'{{"{key}", "{value}"}}' for key, value in BUILD)
        return f"program({self.version})\n[buildInfo = dict<{text}, {text}>({{{pairs}}})]"


DIALECTS = {
    "ios18": Dialect("ios18", "1.3", True),
    "ios16": Dialect("ios16", "1.0", False),
}


def to_half(value: Any, name: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """`value` as fp16. ValueError if an element has no finite half."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = np.asarray(value).astype(np.float16, copy=False)
        ends = half.min(), half.max()  # a NaN is both
    if not np.isfinite(ends).all():
        hint = "fp16 ends at 65504; mask with -1e4"
        raise ValueError(f"[{name}] expected values fp16 can hold, got {value}. Hint: {hint}")
    return half


def half_literal(value: float) -> str:
    """A half as a hexadecimal float: short, and read back as the very same bits."""
    mantissa, exponent = float(to_half(value, "constant")).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


LETTERS = defaultdict(lambda: "_", {ord(c): c for c in f"{ascii_letters}{digits}_"})


def identifier(text: str) -> str:
    """A MIL identifier that reads like text: layers.0.attn.wq -> layers_0_attn_wq."""
    name = text.translate(LETTERS)
    return f"_{name}" if not name or name[0].isdigit() else name


def suffix(value: Any) -> str:
    """A constant's value as part of a name: (1, -2) -> 1_m2, True -> true, 0.5 -> 0_5."""
    if isinstance(value, tuple):
        return "_".join(suffix(v) for v in value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return identifier("v" + text.replace("-", "m").replace("+", ""))[1:]

"""Probes of single operations where reports disagree: rounding, infinities, slices, tables.

Each question is a program of one operation with an answer that tells; what it speaks for is said in
the switches of `--chip` (anefast/chips/behaviour.py), as of sums (sums.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject
from anefast.doctor.sums import T, switches
from anefast.mil.spelling import Dialect

SHAPE = (1, 32, 1, 32)
LOG = float(np.float16(np.log(T**-18)))
LATE = 16  # where the slice of the last axis begins
Values = npt.NDArray[np.float64]


class Question(NamedTuple):
    """An operation, its operands, each constant over a tensor, and the meaning of a result."""

    name: str
    op: str
    arguments: str
    operands: tuple[float, ...]
    answers: Mapping[float, str]
    shape: tuple[int, ...] = SHAPE  # of the result


SPELLED: dict[str, tuple[str, Any]] = {
    "channels": ("ints", [1]), "yes": ("bool", True), "nothing": ("float", 0.0),
    "late": ("ints", [0, 0, 0, LATE]), "size": ("ints", [1, 32, 1, LATE]),
    "exactly": ("string", "EXACT"),
}  # fmt: skip
MEAN = "axes = {channels}, keep_dims = {yes}, x = a0"
ROOM = "begin = {late}, size = {size}, x = a0"
QUESTIONS = (
    Question(
        "2048 + 1", "add", "x = a0, y = a1", (2048, 1),
        {2050: "rounding=away", 2048: "rounding=even"},
    ),
    Question("16384 + 16384", "add", "x = a0, y = a1", (16384, 16384), {32768: ""}),
    Question("40000 + 1", "add", "x = a0, y = a1", (40000, 1), {40000: ""}),
    Question(
        "NaN + 1", "add", "x = a0, y = a1", (np.nan, 1), {np.inf: "nan=coerce", np.nan: "nan=keep"}
    ),
    Question(
        "the mean of 32 times 4096", "reduce_mean", MEAN, (4096,),
        {np.inf: "sums=narrow", 4096: "sums=wide"}, (1, 1, 1, 32),
    ),
    Question(
        "5000 in a slice behind the beginning", "slice_by_size", ROOM, (5000,),
        {5000: "slice_cap=0", np.inf: "slice_cap=4094"}, (1, 32, 1, LATE),
    ),
    Question("4000 in such a slice", "slice_by_size", ROOM, (4000,), {4000: ""}, (1, 32, 1, LATE)),
    Question(
        "log of 2^-18", "log", "epsilon = {nothing}, x = a0", (T**-18,),
        {LOG: "tiny=0", np.inf: "tiny=7.63e-6", -np.inf: "tiny=7.63e-6"},
    ),
)  # fmt: skip


def single(subject: Subject) -> Found:
    """Asks every question, each with its own program."""
    found = switches((q.name, answer(subject, q), q.answers) for q in QUESTIONS)
    return Found(
        f"single operations are as with --chip ...,{','.join(found)}", facts={"numbers": found}
    )


def answer(subject: Subject, q: Question) -> float:
    """The operation's result. Raises Wrong if it differs between positions."""
    operands = [np.full(SHAPE, value, np.float16) for value in q.operands]
    got = evaluated(subject, q.op, q.arguments, operands, q.shape).ravel()
    if len(set(map(str, got))) > 1:
        raise Wrong(f"{q.name} gives {got.min():g} here and {got.max():g} there")
    return float(got[0])


def evaluated(
    subject: Subject,
    op: str,
    arguments: str,
    operands: list[npt.NDArray[np.float16]],
    shape: tuple[int, ...] = SHAPE,
) -> Values:
    """One operation over a0, a1..., each of SHAPE; names of SPELLED in its arguments are values."""

    def lines(of: Dialect) -> list[str]:
        spelled = {name: of.constant(*value)[1] for name, value in SPELLED.items()}
        call = f"{op}({arguments.format(**spelled)})"
        return [f"{of.type('fp16', shape)} z = {call}[name = {of.string('z')}];"]

    feeds = {f"a{i}": values for i, values in enumerate(operands)}
    text = subject.text(dict.fromkeys(feeds, SHAPE), lines, ["z"])
    return subject.run_text(text, feeds)["z"].astype(np.float64)


# Tables: 33 values with lines between them, and where these lie.

KNOTS = 33
LARGEST = {"sigmoid": 3.5e-3, "tanh": 6e-3}  # errors that reports have of a table
CURVES: dict[str, tuple[Callable[[Values], Values], float, float]] = {
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -8, 8),  # as sampled on M4 and M6
    "tanh": (np.tanh, 0, 4),
}
POINTS = {  # of tables that are not published whole
    "silu": ("x = a0", 0.5, 0.296), "gelu": ("mode = {exactly}, x = a0", 0.25, 0.1436),
}  # fmt: skip


def tables(subject: Subject) -> Found:
    """The kind of table that gives a curve: none, exact samples, or one with published errors."""
    kinds = {name: table_of(subject, name) for name in CURVES}
    if len(set(kinds.values())) > 1:
        raise Wrong("; ".join(f"{name} has tables={kind}" for name, kind in kinds.items()))
    kind = next(iter(kinds.values()))
    beside = []
    for op, (arguments, x, published) in POINTS.items():
        got = evaluated(subject, op, arguments, [np.full(SHAPE, x, np.float16)]).flat[0]
        beside.append(f"{op}({x}) is {got:.4g}, and {published} on an M6")
    said = f"curves are as with --chip ...,tables={kind}; {'; '.join(beside)}"
    return Found(said, facts={"numbers": (f"tables={kind}",)})


def table_of(subject: Subject, name: str) -> str:
    """A value of the switch `tables`. Wrong if the errors are larger than any report's."""
    exact, low, high = CURVES[name]
    x = np.linspace(low - 1, high + 1, 1024).astype(np.float16).reshape(SHAPE)
    got = evaluated(subject, name, "x = a0", [x])
    points = x.astype(np.float64)
    knots = np.linspace(low, high, KNOTS)
    chords = np.interp(points, knots, exact(knots).astype(np.float16).astype(np.float64))
    inside = (points > low) & (points < high)
    ulp = np.spacing(np.abs(got).astype(np.float16)).astype(np.float64)
    far = np.abs(got - exact(points)) / ulp
    if far[inside].max() <= 1.5:
        return "off"
    if (np.abs(got - chords) / ulp)[inside].max() <= 2:
        return "sampled"
    worst = np.abs(got - exact(points))[inside].max()
    if worst > LARGEST[name]:
        raise Wrong(f"{name} is {worst:.2g} off, more than any report has")
    return "on"


def checks() -> list[Check]:
    return [Check("single values", "probes", single), Check("tables", "probes", tables)]

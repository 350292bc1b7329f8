"""Measures how this device adds products, with sums whose results show it, as a study of an M6 did.

One matmul has every question on its diagonal: row i of one operand by column i of the other. The
answers set switches of `--chip` (chips/behaviour.py), so a chip that nobody has measured can be
emulated by its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject
from anefast.mil.spelling import Dialect

SIZE = 32
T = 2.0
SMALL = SIZE * float(np.float16(1.99 * T**-3)) * float(np.float16(1.99 * T**-14))


class Question(NamedTuple):
    """Terms to be summed, and the meaning of each result: answer -> switch."""

    name: str
    terms: tuple[tuple[float, float], ...]
    answers: Mapping[float, str]


QUESTIONS = (
    Question("2048 + 1", ((2048, 1), (1, 1)), {2050: "rounding=away", 2048: "rounding=even"}),
    Question(
        "16384 + 2^-16 - 16384", ((16384, 1), (T**-16, 1), (-16384, 1)),
        {T**-16: "products=q15.16", 0: "products=fp32"},
    ),
    Question(
        "32 times 1.99 x 2^-3 by 1.99 x 2^-14", ((1.99 * T**-3, 1.99 * T**-14),) * SIZE,
        {0: "products=q15.16", float(np.float16(SMALL)): "products=fp32"},
    ),
    Question(
        "16384 + 16384 - 16384 - 16384 + 1",
        ((16384, 1), (16384, 1), (-16384, 1), (-16384, 1), (1, 1)),
        {np.inf: "products=q15.16", 1: "products=fp32"},
    ),
    Question(
        "16384 + 16384", ((16384, 1),) * 2, {np.inf: "product_cap=32768", 32768: "product_cap=0"}
    ),
    Question("32752", ((32752, 1),), {32752: ""}),
    Question("a subnormal 2^-15", ((T**-15, 1),), {T**-15: "denormals=keep", 0: "denormals=flush"}),
)  # fmt: skip


def sums(subject: Subject) -> Found:
    a, b = np.zeros((2, 1, 1, SIZE, SIZE), np.float16)
    for i, question in enumerate(QUESTIONS):
        for k, (x, y) in enumerate(question.terms):
            a[0, 0, i, k], b[0, 0, k, i] = x, y

    def lines(of: Dialect) -> list[str]:
        flag, no = of.scalar("bool"), f"{of.scalar('bool')}(false)"
        kind = of.type("fp16", a.shape)
        return [
            f"{flag} no = const()[name = {of.string('no')}, val = {no}];",
            f"{kind} z = matmul(transpose_x = no, transpose_y = no, x = a0, y = a1)"
            f"[name = {of.string('z')}];",
        ]

    text = subject.text({"a0": a.shape, "a1": b.shape}, lines, ["z"])
    results = np.diagonal(subject.run_text(text, {"a0": a, "a1": b})["z"][0, 0]).astype(float)
    pairs = zip(QUESTIONS, results, strict=False)
    found = switches((question.name, got, question.answers) for question, got in pairs)
    return Found(f"sums are as with --chip ...,{','.join(found)}", facts={"numbers": found})


def switches(told: Iterable[tuple[str, float, Mapping[float, str]]]) -> tuple[str, ...]:
    """The switches that follow from the answers. told: a question, its answer, the known answers.

    Raises Wrong where an answer is not among those, or two speak for different values.
    """
    found: dict[str, str] = {}
    odd: list[str] = []
    for name, got, answers in told:
        said = next((word for answer, word in answers.items() if same(answer, got)), None)
        if said is None:
            odd.append(f"{name} gives {got:g}, which no report has")
            continue
        key, _, value = said.partition("=")
        if key and found.setdefault(key, value) != value:
            odd.append(f"{name} speaks for {said}, others for {key}={found[key]}")
    if odd:
        raise Wrong("; ".join(odd))
    return tuple(f"{key}={value}" for key, value in found.items())


def same(a: float, b: float) -> bool:
    """True if both are equal or both are NaN."""
    return a == b or (a != a and b != b)


def checks() -> list[Check]:
    return [Check("sums", "probes", sums)]

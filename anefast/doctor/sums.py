"""How this device adds products, asked with sums whose results tell: what the study of an M6 asked.

One matmul has every question on its diagonal: row i of one operand by column i of the other. What
the answers speak for is said in the switches of `--chip` (anefast/chips.py), so that a chip nobody
has measured can be emulated by its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anefast.doctor.result import Check, Found, Wrong
from anefast.doctor.subject import Subject
from anefast.mil.spelling import Dialect

SIZE = 32
T = 2.0
SMALL = SIZE * float(np.float16(1.99 * T**-3)) * float(np.float16(1.99 * T**-14))


class Question(NamedTuple):
    """Terms to be summed, and what is spoken for by a result: answer -> switch."""

    name: str
    terms: tuple[tuple[float, float], ...]
    answers: dict[float, str]


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
    switches: list[str] = []
    told: list[str] = []
    for question, got in zip(QUESTIONS, results, strict=False):
        if got not in question.answers:
            told.append(f"{question.name} gives {got:g}, which no report has")
        elif said := question.answers[got]:
            switches.append(said)
    found = tuple(dict.fromkeys(switches))
    products = [s for s in found if s.startswith("products=")]
    if len(products) > 1:
        told.append("some sums speak for q15.16, others for fp32")
    if told:
        raise Wrong("; ".join(told))
    return Found(f"sums are as with --chip ...,{','.join(found)}", facts={"numbers": found})


def checks() -> list[Check]:
    return [Check("sums", "probes", sums)]

"""doctor asks a device how it adds, and hears what each emulated chip was told."""

from __future__ import annotations

import pytest

from anefast.chips.behaviour import CHIPS
from anefast.doctor import sums
from anefast.doctor.registry import everything
from anefast.doctor.result import Wrong
from anefast.doctor.subject import Subject


@pytest.mark.parametrize("chip", ["", *CHIPS])
def test_the_answers_are_the_switches_of_the_chip(chip):
    found = sums.sums(Subject("host", chip=chip)).facts["numbers"]
    said = dict(word.split("=") for word in found)
    known = CHIPS[chip].switches if chip else {}
    for key, exact in (("products", "fp32"), ("rounding", "even"), ("denormals", "keep")):
        assert said[key] == (known[key].value if chip else exact), (chip, key)


def test_an_answer_that_no_report_has_is_said(monkeypatch):
    odd = sums.Question("1 + 1", ((1, 1), (1, 1)), {3: "rounding=up"})
    monkeypatch.setattr(sums, "QUESTIONS", (odd,))
    with pytest.raises(Wrong, match=r"1 \+ 1 gives 2, which no report has"):
        sums.sums(Subject("host"))


def test_answers_that_contradict_each_other_are_said():
    two = [("one", 1.0, {1: "rounding=up"}), ("other", 2.0, {2: "rounding=down"})]
    with pytest.raises(Wrong, match="other speaks for rounding=down, others for rounding=up"):
        sums.switches(two)


def test_it_is_a_probe():
    assert "sums" in {check.name for check in everything()}

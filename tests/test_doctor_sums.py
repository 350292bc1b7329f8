"""doctor asks a device how it adds, and hears what each emulated chip was told."""

from __future__ import annotations

import json

import pytest

from anefast.chips import CHIPS, find_profile
from anefast.doctor import sums
from anefast.doctor.registry import everything
from anefast.doctor.result import Wrong
from anefast.doctor.subject import Subject
from anefast.files import FileError


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


def test_it_is_a_probe():
    assert "sums" in {check.name for check in everything()}


@pytest.mark.parametrize("asked", ["m6", "m1"])
def test_a_chip_is_emulated_by_what_doctor_wrote_of_it(tmp_path, asked):
    """A file of an M5 that adds as the asked chip does, by a probe of its emulation."""
    numbers = sums.sums(Subject("host", chip=asked)).facts["numbers"]
    document = {
        "asked": {"chip": ""},
        "device": {"description": "Apple M5, h17g"},
        "results": [{"facts": {}}, {"facts": {"numbers": list(numbers)}}],
    }
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps(document))
    profile = find_profile(f"{path},compiles=119")
    assert profile.chip is CHIPS["m5"] and profile.value("compiles") == "119"
    for key in ("products", "rounding", "denormals"):
        assert profile.value(key) == CHIPS[asked].switches[key].value, key
    assert sums.sums(Subject("host", chip=str(path))).facts["numbers"] == numbers


NO_SUMS = '{"asked": {"chip": ""}, "device": {"description": "Apple M5"}, "results": []}'


@pytest.mark.parametrize("text", ["[]", '{"asked": {}}', NO_SUMS, '{"asked": {"chip": 3}}'])
def test_a_file_that_is_not_doctors_is_refused(tmp_path, text):
    path = tmp_path / "doctor.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a file that anefast\.doctor --probe wrote"):
        find_profile(str(path))
    with pytest.raises(FileError, match=r"none\.json"):
        find_profile(str(tmp_path / "none.json"))

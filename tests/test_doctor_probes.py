"""doctor's probes of disputed facts: each hears what an emulated chip was told, and tells the twin
of an M4 from plain arithmetic; a file of doctor's makes a chip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anefast import Device, coverage
from anefast.chips.behaviour import CHIPS, Chip, find_chip, find_profile, unprobed
from anefast.chips.rates import assumptions, rates_of
from anefast.config import TrainConfig
from anefast.doctor import apart, forms, functions, limits, machine, rates, registry, report
from anefast.doctor.result import Result, Wrong
from anefast.doctor.subject import Subject
from anefast.fuse import find_plan
from anefast.fuse.count import Counter
from anefast.fuse.legal import crowded, seen_ports, target_of, target_of_chip
from anefast.fuse.timing import modelled
from anefast.mil.forms import known
from anefast.plan import PlanCommand
from anefast.plan import report as planned
from anefast.runtime.doctor_facts import Learned, recall, remember

SETTLES = ("sums", "single values", "tables", "sizes", "ways taken")


def heard(chip: str, *names: str) -> dict[str, str]:
    """What these probes say of a chip, or of the host as itself."""
    by_name = {check.name: check for check in registry.everything()}
    words: list[str] = []
    for name in names or SETTLES:
        words += by_name[name].run(Subject("host", chip=chip)).facts["numbers"]
    return dict(word.split("=") for word in words)


@pytest.mark.parametrize("chip", CHIPS)
def test_what_is_heard_is_what_the_chip_was_told(chip: str) -> None:
    switches = CHIPS[chip].switches
    for key, value in heard(chip).items():
        if key == "product_cap" or (chip == "m1-pro" and key == "inputs"):
            continue  # below; and nobody can tell `fp16` where fp32 ports are refused
        assert value == switches[key].value, key


@pytest.mark.parametrize(
    ("name", "of_m4", "exact"),
    [
        ("sums", {"products": "q15.16", "product_cap": "32768"},
         {"products": "fp32", "product_cap": "0"}),
        ("single values", {"rounding": "away", "nan": "coerce", "sums": "narrow"},
         {"rounding": "even", "nan": "keep", "sums": "wide"}),
        ("tables", {"tables": "sampled"}, {"tables": "off"}),
        ("sizes", {"axis": "65536", "terms": "16384"}, {"axis": "131072", "terms": "65536"}),
        ("ways taken", {"epsilon": "required", "zero_gain": "refuse"},
         {"epsilon": "optional", "zero_gain": "take"}),
    ],
)  # fmt: skip
def test_each_probe_tells_an_m4_from_plain_arithmetic(
    name: str, of_m4: dict[str, str], exact: dict[str, str]
) -> None:
    assert heard("m4", name).items() >= of_m4.items()
    assert heard("", name).items() >= exact.items()


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("slice_cap=4094", "single values"),
        ("tiny=7.63e-6", "single values"),
        ("nan=keep", "single values"),
        ("rounding=even", "single values"),
        ("tables=on", "tables"),
        ("axis=5000", "sizes"),
        ("channels=3000", "sizes"),
        ("terms=2048", "sizes"),
        ("rank=4", "sizes"),
        ("inputs=one", "ways taken"),
        ("inputs=fp16", "ways taken"),
        ("dtypes=fp16+bool", "ways taken"),
        ("after_reduce=refuse", "ways taken"),
        ("zero_gain=take", "ways taken"),
        ("epsilon=optional", "ways taken"),
    ],
)
def test_a_switched_chip_is_heard(switch: str, name: str) -> None:
    key, _, value = switch.partition("=")
    assert heard(f"m4,{switch}", name)[key] == value


def test_ports_are_counted() -> None:
    count = limits.port_count("inputs")
    assert count(Subject("host", chip="m4,inputs=one")).facts["numbers"] == ("most_inputs=1",)
    assert count(Subject("host")).facts["numbers"] == (f"most_inputs={limits.MOST_PORTS}",)


def test_a_limit_is_found_by_halving() -> None:
    subject, tried = Subject("host"), []

    def takes(_: Subject, n: int) -> bool:
        tried.append(n)
        return n <= 37

    assert limits.most(subject, takes, 3, 1000) == 37 and len(tried) < 14
    assert limits.most(subject, takes, 5, 1005, step=10) == 35
    assert limits.most(subject, takes, 40, 1000) == 0
    assert limits.most(subject, takes, 1, 30) == 30


def test_depths_are_taken_and_products_by_one_are_exact() -> None:
    for chip in ("", "m4", "m1"):
        found = limits.deep(64)(Subject("host", chip=chip))
        assert found.facts["numbers"] == ("depth=64",)


def test_a_table_with_larger_errors_than_any_report_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = functions.evaluated
    monkeypatch.setattr(functions, "evaluated", lambda *a: right(*a) + 0.01)
    with pytest.raises(Wrong, match=r"sigmoid is 0\.01 off"):
        functions.tables(Subject("host"))


def test_results_that_differ_from_place_to_place_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(functions, "evaluated", lambda *a: np.array([2048.0, 2050.0]))
    with pytest.raises(Wrong, match=r"2048 \+ 1 gives 2048 here and 2050 there"):
        functions.single(Subject("host"))


def test_every_form_of_ours_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [p for p in coverage.programs() if p[0] in ("layer", "unfused,recompute,weights=params")]
    monkeypatch.setattr(forms, "programs", lambda: iter(some))
    found = forms.forms(Subject("host"))
    assert set(found.facts["forms taken"]) <= set(known()) and not found.facts["forms not taken"]
    narrow = forms.forms(Subject("host", chip="m4,inputs=one"))
    assert "several inputs" in narrow.facts["forms not taken"]
    assert "refused (layer, unfused,recompute,weights=params)" in narrow.said
    assert "conv by weights" not in narrow.facts["forms taken"]


# A file of doctor's makes a chip.


def document(chip: str = "m4", label: str = "measured", **more: Any) -> dict[str, Any]:
    """What doctor would write of an Apple M5 that computes as `chip`."""
    words = [f"{k}={v}" for k, v in heard(chip).items()]
    seen = ["depth=256", "most_inputs=7", "most_outputs=64", *more.pop("numbers", ())]
    learned = {
        "dialects": ["ios16"],
        "weights": ["params"],
        "ports": ["several"],
        "seen": ["mixed"],
    }
    return {
        "device": {"description": "Apple M5, h17g", "label": label},
        "learned": learned,
        "results": [
            {"facts": {"numbers": words}},
            {"facts": {"numbers": seen}},
            {"facts": {"rates": ["dispatch_us=91", "tflops=13.5"]}},
        ],
        **more,
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps(document()))
    return path


def test_a_file_makes_a_chip_with_what_was_probed_and_says_the_rest(written: Path) -> None:
    chip = find_chip(str(written))
    assert chip.name == "m5" and chip.title == f"m5 by {written}"
    assert chip.max_depth is not None and chip.max_depth.value == 256
    assert chip.most_ports == (7, 64) and chip.max_axis.value == 65536
    assert chip.switches["products"].value == "q15.16"
    assert chip.switches["products"].source == "anefast doctor on Apple M5, h17g, measured"
    said = unprobed(chip)
    assert "kernel" in said and "refuse" in said and "products" not in said.partition("table:")[2]
    assert unprobed(CHIPS["m5"]) == ""
    found = rates_of(chip)
    assert (found.dispatch_us.value, found.tflops.value) == (91, 13.5)
    assert found.dispatch_us.source.startswith("anefast doctor")
    assert "as m5: product_us" in " ".join(assumptions(chip)), assumptions(chip)


def test_a_chip_of_a_file_runs_programs_and_its_run_needs_no_file(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device("host", chip=str(written))
    assert "Not measured" in caplog.text and device.fixed_point
    assert device.profile.startswith("m5,") and str(written) not in device.profile
    assert heard(device.profile) == heard(str(written)) == heard("m4")
    assert TrainConfig(chip=device.profile).chip == device.profile
    target = target_of(device)
    assert target.dialects == ("ios16",) and target.weights == ("params",)


def test_switches_behind_a_file_win(written: Path) -> None:
    profile = find_profile(f"{written},products=fp32,axis=100,slice_cap=0")
    assert profile.value("products") == "fp32"
    assert profile.chip.max_axis.value == 100 and profile.chip.slice_cap is None
    with pytest.raises(ValueError, match="a chip's name alone"):
        find_chip(f"{written},products=fp32")


def test_plans_are_weighed_for_a_file(written: Path) -> None:
    told = planned(PlanCommand(preset="stories15m", chip=str(written)))
    text = " ".join(" ".join(told).split())
    assert "m5 by " in told[1] and "Not measured, so taken from the table" in text
    assert "refused for its weights=const: anefast doctor" in text
    assert "no more than 7 and 64 were seen to work (anefast doctor, " in text


def test_times_of_an_emulation_are_no_rates(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps(document(label="emulated", numbers=("depth=512",))))
    chip = find_chip(str(path))
    assert not chip.rates and chip.max_depth is None
    assert rates_of(chip).dispatch_us.source.startswith("assumed, as m5")


@pytest.mark.parametrize(
    "change",
    [
        {"results": []},
        {"results": [{"facts": {"numbers": [3]}}]},
        {"results": [{"facts": {"numbers": ["products"]}}]},
        {"results": [{"facts": {"numbers": ["speed=high"]}}]},
        {"results": [{"facts": {"numbers": ["products=a b"]}}]},
        {"results": [{"facts": {"numbers": ["depth=deep"]}}]},
        {"results": [{"facts": {"numbers": ["rank=5"], "rates": ["tflops=x"]}}]},
        {"learned": {}},
        {"device": {"description": "host", "label": "measured on the host"}},
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "doctor.json"
    path.write_text(json.dumps({**document(), **change}))
    with pytest.raises(ValueError, match=r"a file on a chip that anefast\.doctor --probe wrote"):
        find_profile(str(path))


def test_a_crowded_program_of_a_seen_chip_is_no_risk(written: Path) -> None:
    """What doctor counted replaces what other people's texts had."""
    count = Counter(coverage.MODEL, 1, 64).count(find_plan("layer,recompute"))

    def said(chip: Chip) -> str:
        return crowded(count, target_of_chip(chip))

    assert "were seen to work (the texts" in said(CHIPS["m5"])
    assert "many ports" not in said(find_chip(str(written)))
    results = [Result("number of inputs", "probes", "passed", "", facts={"numbers": words})
               for words in (("most_inputs=7",), ("most_outputs=64",), ("axis=3",))]  # fmt: skip
    here = registry.probed(Learned(), results)
    assert (here.most_inputs, here.most_outputs) == (7, 64)
    path = written.with_name("learned.json")
    assert remember("Apple M5", here, path) and recall("Apple M5", path) == here
    device = SimpleNamespace(label="measured", description="Apple M5", chip=None, learned=here)
    assert seen_ports(target_of(device)) == ((7, 64), "anefast doctor, on this machine")


def test_rates_of_a_calibration_are_those_of_the_time_model() -> None:
    for name in ("m1-pro", "m4", "m6"):
        table = vars(rates_of(CHIPS[name]))
        for rate, value in rates.converted(modelled(CHIPS[name])).items():
            assert value == pytest.approx(table[rate].value), rate


# What doctor says of the system.


def test_a_private_path_that_is_refused_is_told_with_the_build() -> None:
    asked = {"chip": ""}
    device = {"name": "ane", "description": "Apple M4", "label": "measured"}
    machine_ = {"build": "27A123"}
    failed = Result("dialects", "programs", "failed", "Code=1 verifyBundleAtPath 10")
    found = report.Report(device, machine_, {}, [failed], Learned(("dialects",)), asked)
    assert report.private_path(found) == "refused: Code=1 verifyBundleAtPath 10"
    (line,) = report.verdict(found)
    assert "27.0 was reported to refuse it" in line and "build 27A123" in line
    assert report.private_path(
        report.Report({"name": "host"}, {}, {}, [failed], Learned(), asked)
    ) == ("not tried")


def test_the_daemons_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "darwin":
        assert machine.facts()["programs"] == "not macOS"
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine, "DAEMON_CACHE", str(tmp_path))
    assert machine.daemon_cache() == "in a plain folder, which can be read"
    monkeypatch.setattr(machine, "DAEMON_CACHE", str(tmp_path / "none"))
    assert machine.daemon_cache() == "no folder of the daemon's"

    def closed(_: str) -> list[str]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(machine, "DAEMON_CACHE", str(tmp_path))
    monkeypatch.setattr(machine.os, "listdir", closed)
    assert machine.daemon_cache() == "closed: Operation not permitted"


def test_the_probes_are_run_by_name_in_children(tmp_path: Path) -> None:
    """As doctor runs them: one that dies costs its own result."""
    words = [sys.executable, "-m", "anefast.doctor.apart", "host", "quick", "m4", *SETTLES]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    lines = [json.loads(line)["doctor"] for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == list(SETTLES), done.stderr
    assert {line["status"] for line in lines} == {"passed"}
    assert apart.of_plain(lines[0]).facts["numbers"][0].startswith("rounding=")

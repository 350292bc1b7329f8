"""A Mac build of the whole package, made on another system to check that it can be made.

zig compiles for arm64 macOS, with its own headers of libc and of the Objective-C runtime and ours
of the frameworks (include/); LLVM's linker makes the bundle against text stubs (stubs.py). What
comes out is looked at and thrown away: it has never run, and is never shipped. Read next: audit()
here, then tests/test_cross_build.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.macos import stubs

ROOT = Path(__file__).resolve().parents[2]
MACOS = "12.0"
TARGET = f"aarch64-macos.{MACOS}"
SHIPPED = ("csrc", "anefast", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
# What the runtime of a Mac provides: the names of std, operators new and delete, exceptions,
# complex division.
CXX = re.compile(
    r"__Z(N[KVO]*St|NKSt|St|T[ISVT]N?K?St|T[IS]P?K?[a-z]$|TVN10__cxxabiv1|n[wa]m|d[la]Pv)"
    r"|___(cxa|gxx)_|___dynamic_cast$|__Unwind_|___(mul|div)[sd]c3$"
)
DEBUGGING = 0xE0  # in a symbol's type: an entry for debuggers, neither defined nor needed


def missing() -> str:
    """Why there can be no cross build here; empty where there can."""
    for module in ("ziglang", "lief"):
        if importlib.util.find_spec(module) is None:
            return f"no {module}: pip install 'anefast[cross]'"
    return "" if linker() else "no ld64.lld of LLVM 15 or newer: apt install lld-19"


def linker() -> str:
    """LLVM's linker for Macs; older ones cannot read the stubs that zig brings."""
    names = [f"ld64.lld-{version}" for version in range(25, 14, -1)]
    return next((found for name in names if (found := shutil.which(name))), "")


def zig(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", *arguments, "-target", TARGET]


def environment(folder: Path) -> dict[str, str]:
    """The environment in which setup.py builds for a Mac; compilers and stubs go to `folder`."""
    import ziglang

    stubs.write(folder)
    system = Path(ziglang.__file__).parent / "lib" / "libc" / "darwin" / "libSystem.tbd"
    # An architecture of that file that no linker but zig's knows.
    plain = re.sub(r",\s*arm64e\.x1-\w+", "", system.read_text())
    (folder / "libSystem.tbd").write_text(plain)
    cc, cxx = (compiler(folder, name) for name in ("cc", "c++"))
    return {
        "ANEFAST_TARGET": "darwin",
        "CC": cc,
        "CXX": cxx,
        "CFLAGS": "",
        "LDSHARED": f"{cxx} -bundle",
        "LDCXXSHARED": f"{cxx} -bundle",
        "_PYTHON_HOST_PLATFORM": f"macosx-{MACOS}-arm64",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{sys.version_info[0]}{sys.version_info[1]}-darwin.so",
    }


def compiler(folder: Path, name: str) -> str:
    """A script that compiles by zig and, as setuptools wants one for both, links by LLVM's linker.

    Nobody runs what comes out, and unoptimised it takes a third of the time.

    To the linker go objects, the output, frameworks and libraries; whatever else this system's
    Python adds, such as its own library folder, would be of the wrong kind.
    """
    include = ROOT / "tests" / "macos" / "include"
    words = " ".join(f'"{word}"' for word in zig(name))
    return script(
        folder / name,
        f"""case " $* " in *" -bundle "*) ;; *)
    exec {words} -fno-sanitize=undefined -Werror=objc-method-access -I"{include}" "$@" -O0 -g0 ;;
esac
for word; do
    shift
    case "$word" in -o|-framework|-l*) ;; -*) continue ;; esac
    set -- "$@" "$word"
done
exec "{linker()}" -arch arm64 -platform_version macos {MACOS} {MACOS} -bundle \
    -undefined dynamic_lookup -F"{folder}" -L"{folder}" "$@" -lSystem""",
    )


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def build(folder: Path) -> Path:
    """The wheel of the tree as it is, built in `folder`. AssertionError with what compilers say."""
    tree, tools = folder / "tree", folder / "tools"
    tools.mkdir(parents=True)
    skip = shutil.ignore_patterns("*.so", "__pycache__", "_fused.c")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=skip)
        elif source.exists():
            shutil.copy(source, tree / name)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(folder / "dist")]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | environment(tools), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Audit:
    """What a bundle says of itself.

    kind: "BUNDLE arm64, macOS 12.0". libraries: install names. python, cxx: symbols left to the
    interpreter and to the compiler's and C++ runtime. strange: every other one that no library has;
    there should be none.
    """

    kind: str
    libraries: frozenset[str]
    exported: frozenset[str]
    python: frozenset[str]
    cxx: frozenset[str]
    strange: frozenset[str]


def audit(path: Path) -> Audit:
    """Reads a Mach-O file."""
    import lief

    binary: Any = lief.MachO.parse(str(path)).at(0)
    minimum = binary.build_version.minos
    kind = f"{binary.header.file_type.name} {binary.header.cpu_type.name.lower()}"
    # A symbol that names its library was found in a stub; others are looked up at load time.
    flat = {
        str(symbol.name)
        for symbol in binary.imported_symbols
        if not symbol.raw_type & DEBUGGING
        and not (symbol.has_binding_info and symbol.binding_info.has_library)
    }
    python = {name for name in flat if re.match(r"_+Py", name)}
    cxx = {name for name in flat - python if CXX.match(name)}
    return Audit(
        f"{kind}, macOS {minimum[0]}.{minimum[1]}",
        frozenset(str(library.name) for library in binary.libraries),
        frozenset(str(symbol.name) for symbol in binary.exported_symbols),
        frozenset(python),
        frozenset(cxx),
        frozenset(flat - python - cxx),
    )

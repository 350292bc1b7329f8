"""Builds anefast._C (csrc/).

Not here: metadata, which is in pyproject.toml. Switches, read from the environment:
ANEFAST_DEBUG_BUILD=1 (-O1 -g, assertions on),
ANEFAST_SANITIZE=address (and undefined behaviour, of all but the bindings) or thread,
ANEFAST_BUILD_JOBS=n (compilers at once; default: the CPUs this process may use),
ANEFAST_TARGET=darwin (sources and libraries of a Mac build on another system, with whatever CC and
CXX name: a check that tests/macos/cross.py makes, nothing to ship),
ANEFAST_FAKE_ANE=FOLDER (a Mac's Objective-C on Linux, by gobjc and GNUstep, against the fake system
that tests/ane/build.py put in that folder; such a build says so wherever it describes itself).

Objects live in build/ with their dependency files, so a second editable build compiles what changed
and nothing else.
"""

from __future__ import annotations

import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)

DARWIN = os.environ.get("ANEFAST_TARGET", sys.platform) == "darwin"
DEBUG = os.environ.get("ANEFAST_DEBUG_BUILD") == "1"
SANITIZE = os.environ.get("ANEFAST_SANITIZE", "")
FAKE = os.environ.get("ANEFAST_FAKE_ANE", "")
SHIM = "tests/ane"

# -ffp-contract=off: a fused multiply-add is written where it is meant, never found by the compiler,
# or the same graph would round differently on two machines. No -march: one wheel, run-time choice.
# Nobody reads errno or the exception flags, and keeping them right would forbid vector comparisons.
COMMON = [
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
]
COMMON += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"] if DEBUG else ["-O3", "-g0"]
LINK = ["-pthread"]
# -O1 and lines without variables, for what is checked is compiled once and hardly run.
# The bindings are pybind11's templates, which would take longer than all the rest if they were
# checked for undefined behaviour.
SANITIZERS = {
    "": ([], []),
    "address": (
        ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        ["-O0", "-g1", "-fsanitize=address"],
    ),
    "thread": (["-O1", "-g1", "-fsanitize=thread"], ["-O0", "-g1", "-fsanitize=thread"]),
}
if SANITIZE not in SANITIZERS:
    sys.exit(f"[setup] expected ANEFAST_SANITIZE to be address or thread, got {SANITIZE!r}.")
LINK += [flag for flag in SANITIZERS[SANITIZE][0] if flag.startswith("-fsanitize")]
# Per language, because clang stops at a C++ standard on a C file.
PER_SUFFIX = {
    ".c": ["-std=c11"],
    ".m": ["-std=gnu11", *["-fno-objc-arc"] * DARWIN],  # gobjc counts by hand only, and says so
    ".cpp": ["-std=c++17", "-fvisibility-inlines-hidden"],
}
if FAKE:
    PER_SUFFIX[".m"] += shlex.split(
        f"-isystem /usr/include/GNUstep -I{SHIM}/shim -DANEFAST_FAKE_ANE -D_GNU_SOURCE -DGNUSTEP "
        "-DGNUSTEP_BASE_LIBRARY=1 -DGNU_RUNTIME=1 -D_NATIVE_OBJC_EXCEPTIONS -fexceptions "
        "-fobjc-exceptions -fconstant-string-class=NSConstantString"
    )
# Files compiled as one, because the headers they share cost more than they do: pybind11 is 3 of the
# 4 seconds of a file of bindings. What decides or converts, and leaves the work to kernels, gains
# nothing from -O3. Names of such a file are known to the next, so each is taken once.
UNITS = {
    "bindings": ("-O1", ["csrc/bind.cpp", "csrc/bind/*.cpp"]),
    "mil": ("-O2", ["csrc/mil/*.cpp"]),
    "plans": (
        "-O2",
        [f"csrc/host/{name}.cpp" for name in "executor memory_plan chip/admit chip/profile".split()]
        + [f"csrc/host/fusion/{name}.cpp" for name in "def_use fusion tasks find_chains".split()]
        + [f"csrc/host/fusion/{name}.cpp" for name in "attach build block_program".split()],
    ),
}


def sources() -> list[str]:
    """Every C, C++ and, for a Mac, Objective-C file under csrc, in a stable order."""
    found = [p for s in (".c", ".cpp") for p in Path("csrc").rglob("*" + s)]
    if DARWIN or FAKE:
        found.remove(Path("csrc/ane/none.c"))
        found += Path("csrc/ane").glob("*.m")
    if FAKE:
        found.append(Path(SHIM, "objc_msgsend.c"))
    return sorted(p.as_posix() for p in found)


def united(sources: list[str], folder: Path) -> dict[str, str]:
    """What to compile for `sources`, each with its level of optimisation ("" for the usual one).

    The files of a unit are replaced by one that includes them, which is written to `folder`.
    """
    found = dict.fromkeys(sources, "")
    for name, (level, patterns) in UNITS.items():
        files = [s for s in sources if any(fnmatch(s, pattern) for pattern in patterns)]
        if not files:
            continue
        for file in files:
            del found[file]
        text = "".join(f'#include "{file.removeprefix("csrc/")}"\n' for file in files)
        unit = folder / f"{name}.cpp"
        folder.mkdir(parents=True, exist_ok=True)
        if not unit.exists() or unit.read_text() != text:
            unit.write_text(text)
        found[unit.as_posix()] = level
    return found


def extensions() -> list[Extension]:
    import pybind11

    link = list(LINK)
    if DARWIN:
        for framework in ("Foundation", "CoreFoundation", "IOSurface", "Accelerate"):
            link += ["-framework", framework]
        link += ["-lobjc"]
    if FAKE:
        link += [f"-L{FAKE}", f"-Wl,-rpath,{FAKE}", "-lfakeiosurface", "-lgnustep-base", "-lobjc"]
    native = Extension(
        "anefast._C",
        sources(),
        include_dirs=["csrc", pybind11.get_include()],
        language="c++",
        extra_link_args=link,
        depends=sorted(p.as_posix() for p in Path("csrc").rglob("*.h")),
    )
    return [native]


def is_fresh(obj: str, source: str) -> bool:
    """True where `obj` is newer than its source and than every file of ours it included."""
    try:
        built = os.path.getmtime(obj)
        words = Path(obj).with_suffix(".d").read_text().replace("\\\n", " ").split()[1:]
        # Headers from elsewhere (pybind11 in a build environment that is gone) do not count.
        ours = [w for w in words if not os.path.isabs(w)]
        return all(os.path.getmtime(w) < built for w in [source, *ours])
    except OSError:
        return False


class Build(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        tag = f"{sys.implementation.cache_tag}-{self.plat_name}"
        self.build_temp = os.path.join("build", tag + "-debug" * DEBUG)
        if SANITIZE:  # a tree of its own, for whoever builds next wants the plain objects
            self.build_temp += f"-{SANITIZE}"

    def build_extensions(self) -> None:
        compiler: Any = self.compiler
        jobs = int(os.environ.get("ANEFAST_BUILD_JOBS", "0")) or cpus()
        compile_one = compiler._compile

        def compile_all(  # the signature is setuptools'
            sources: list[str],
            output_dir: str | None = None,
            macros: Any = None,
            include_dirs: list[str] | None = None,
            debug: bool = False,
            extra_preargs: list[str] | None = None,
            extra_postargs: list[str] | None = None,
            depends: list[str] | None = None,
        ) -> list[str]:
            levels = united(sources, Path(self.build_temp, "units"))
            macros, objects, post, pp, build = compiler._setup_compile(
                output_dir, macros, include_dirs, list(levels), depends, extra_postargs
            )
            cc_args = compiler._get_cc_args(pp, debug, extra_preargs)

            def one(obj: str) -> None:
                source = build[obj][0]
                suffix = os.path.splitext(source)[1]
                flags = [*post, *COMMON, *PER_SUFFIX.get(suffix, []), "-MMD"]
                flags += [levels[source]] if levels[source] and not DEBUG else []
                flags += SANITIZERS[SANITIZE]["bindings" in source]
                stamp = Path(obj).with_suffix(".flags")
                said = shlex.join([*map(str, macros or []), *flags])
                if is_fresh(obj, source) and stamp.exists() and stamp.read_text() == said:
                    return
                compile_one(obj, source, suffix, cc_args, flags, pp)
                stamp.write_text(said)

            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(one, sorted(build, key=lambda o: "/units/" not in o)))
            return objects

        compiler.compile = compile_all
        super().build_extensions()


def cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})

"""Builds this project for a Mac that is not one: the package with device "ane" over a fake system.

What comes out, in one folder: `package/anefast` (to be PYTHONPATH of a child process), and the two
fakes as libraries, IOSurface and the AppleNeuralEngine framework, which holds a host executor of
its own to evaluate with. Nearly every object is the ordinary build's own, found in build/ and only
linked again; a sanitized build has objects of its own. By itself:
`python -m tests.ane.build FOLDER [--sanitize]`.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
GNUSTEP = Path("/usr/include/GNUstep/Foundation/Foundation.h")
OBJC = [
    *("-std=gnu11", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread"),
    *("-isystem", "/usr/include/GNUstep", f"-I{HERE / 'shim'}", "-D_GNU_SOURCE", "-DGNUSTEP"),
    *("-DGNUSTEP_BASE_LIBRARY=1", "-DGNU_RUNTIME=1", "-D_NATIVE_OBJC_EXCEPTIONS", "-fexceptions"),
    *("-fobjc-exceptions", "-fconstant-string-class=NSConstantString"),
]
LIBRARIES = ["-lgnustep-base", "-lobjc"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
NOT_IN_THE_FRAMEWORK = {"bind", "ane"}  # folders of csrc


def missing() -> str:
    """Why this machine cannot build it, or "" where it can."""
    if sys.platform != "linux":
        return "the fake system is for Linux"
    if not (ROOT / "setup.py").is_file():
        return "not a source tree"
    for module in ("setuptools", "pybind11"):
        if importlib.util.find_spec(module) is None:
            return f"no {module} (pip install 'anefast[native]')"
    if not shutil.which("gcc") or not printed("-print-prog-name=cc1obj").startswith("/"):
        return "no Objective-C compiler (Debian: gobjc)"
    if not GNUSTEP.is_file():
        return "no GNUstep Foundation (Debian: libgnustep-base-dev)"
    return ""


def printed(question: str) -> str:
    return subprocess.run(
        ["gcc", question], capture_output=True, text=True, check=True
    ).stdout.strip()


@dataclass(frozen=True)
class Fake:
    """A build: where it is and how to run Python in it."""

    folder: Path
    sanitized: bool = False

    @property
    def framework(self) -> Path:
        return self.folder / "libFakeAppleNeuralEngine.so"

    @property
    def objects(self) -> Path:
        """Where setup.py puts what it compiles for this build."""
        tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        return ROOT / "build" / (tag + "-address" * self.sanitized)

    @property
    def surfaces(self) -> Path:
        return self.folder / "libfakeiosurface.so"

    def environment(self, temporary: Path, **more: str) -> dict[str, str]:
        """For a child process. temporary: what stands for the system's temporary folder."""
        temporary.mkdir(mode=0o700, exist_ok=True)
        said = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ANEFAST_FAKE", "LD_"))},
            "PYTHONPATH": f"{self.folder / 'package'}{os.pathsep}{HERE}",
            "PYTHONSAFEPATH": "1",
            "ANEFAST_FAKE_ANE_PATH": str(self.framework),
            "ANEFAST_FAKE_LIBRARY": str(self.surfaces),
            "TEMP": str(temporary),  # where GNUstep looks, if nobody else may look there
            "TMPDIR": str(temporary),
            "ANEFAST_CACHE": str(temporary.parent / "cache"),
        }
        if self.sanitized:
            libraries = [printed(f"-print-file-name={n}.so") for n in ("libasan", "libstdc++")]
            said["LD_PRELOAD"] = " ".join(libraries)
            said["ASAN_OPTIONS"] = "abort_on_error=1:malloc_context_size=2"
            said["LSAN_OPTIONS"] = f"suppressions={HERE / 'lsan.supp'}:print_suppressions=0"
            said["UBSAN_OPTIONS"] = "print_stacktrace=1:abort_on_error=1"
            said["PYTHONMALLOC"] = "malloc"
        return {**said, **more}


def build(folder: Path, sanitize: bool = False) -> Fake:
    """Builds into `folder` what is not there yet. One builder at a time per kind of build."""
    made = Fake(folder, sanitize)
    made.objects.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "build" / "fake-ane.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            flags = ["-g", "-O1", *SANITIZERS * sanitize]
            fakes = [HERE / "fake_iosurface.m", HERE / "fake_control.m"]
            run([*OBJC, *flags, "-shared", *fakes, "-o", made.surfaces, *LIBRARIES])
            _package(made)
            _framework(made, flags)
            done.touch()
    return made


def _package(made: Fake) -> None:
    """The extension with the Mac's sources, and a copy of the Python beside it."""
    package = made.folder / "package"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.c")
    shutil.copytree(ROOT / "anefast", package / "anefast", ignore=ignored, dirs_exist_ok=True)
    switches = {
        "ANEFAST_FAKE_ANE": str(made.folder),
        "ANEFAST_SANITIZE": "address" * made.sanitized,
    }
    words = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(package)]
    environment = {"CC": "gcc", "CXX": "g++", **os.environ, **switches}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning:" not in done.stderr, done.stderr


def _has_source(made: Path, objects: Path) -> bool:
    """Whether an object is of a file that is still there. Those of several files are at the top."""
    place = made.relative_to(objects)
    suffixes = (".c", ".cpp", ".m")
    return len(place.parts) == 2 or any((ROOT / place).with_suffix(s).exists() for s in suffixes)


def _framework(made: Fake, flags: list[str]) -> None:
    """The fake framework and the executor inside it: the extension's own objects, linked again."""
    objects = made.objects
    executor = [
        p
        for p in sorted((objects / "csrc").rglob("*.o"))
        if p.relative_to(objects / "csrc").parts[0].split(".")[0] not in NOT_IN_THE_FRAMEWORK
        and _has_source(p, objects)
    ]
    executor += [p for p in sorted(objects.rglob("units/*.o")) if p.stem != "bindings"]
    fakes = ("ane", "compiler", "request", "sizes")
    mine = [objects / f"fake_{name}.o" for name in fakes]
    for made_of in mine:
        source = HERE / f"{made_of.stem}.m"
        run([*OBJC, *flags, "-fvisibility=hidden", "-c", source, "-o", made_of])
    link = [f"-L{made.folder}", f"-Wl,-rpath,{made.folder}", "-lfakeiosurface", *LIBRARIES]
    link += ["-lstdc++", "-lm", "-pthread", "-Wl,-z,defs" if not made.sanitized else "-pthread"]
    run([*flags, "-shared", *mine, *executor, "-o", made.framework, *link])


def run(words: list[str | Path]) -> None:
    """gcc with these arguments; its complaints are the failure's message."""
    done = subprocess.run(["gcc", *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve(), "--sanitize" in sys.argv))

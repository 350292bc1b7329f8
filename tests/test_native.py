"""csrc's instruction sets against its portable code, as programs of their own.

tests/native/*.c are compiled for this machine, where each instruction set is asked for by
ANEFAST_ISA, and for arm64, where NEON runs under qemu's user emulation. Correct under qemu is not
fast on a Mac: nothing here is timed. What is missing is skipped with its reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .sanitized import sees_races

ROOT = Path(__file__).parent.parent
FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-pthread"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
CPU = sorted((ROOT / "csrc/cpu/gemm").glob("*.cpp"))
CPU += [ROOT / "csrc/cpu/vecmath.cpp"]
POOL = [ROOT / "csrc/cpu" / name for name in ("pool.cpp", "cpus.cpp", "threads.cpp")]
POOL += [ROOT / "csrc" / name for name in ("span.cpp", "fork.cpp")]
CPU += POOL
# Of cpu_check.cpp, on every machine: change it when the check itself changes, never for a compiler.
CPU_DIGEST = "7a0d7281d01a6cc5"


def compiled(out: Path, cc: str, cxx: str, sources: list[Path], *flags: str) -> Path:
    """Compiles C and C++ `sources` and links them with the C++ driver."""
    objects = []
    for source in sources:
        c = source.suffix == ".c"
        objects.append(out.with_name(f"{out.name}-{source.stem}.o"))
        command = [cc if c else cxx, "-std=c11" if c else "-std=c++17", *FLAGS, *flags]
        made = subprocess.run(
            [*command, "-c", source, "-o", objects[-1]], capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
    linked = subprocess.run(
        [cxx, *flags, "-pthread", *objects, "-o", out], capture_output=True, text=True
    )
    assert linked.returncode == 0, linked.stderr
    return out


def native(out: Path, sources: list[Path], *flags: str) -> Path:
    if not (shutil.which("cc") and shutil.which("c++")):
        pytest.skip("no C and C++ compiler called cc and c++ on this machine")
    return compiled(out, "cc", "c++", sources, *flags)


def arm64(out: Path, sources: list[Path], *flags: str) -> list[str]:
    """The command that runs `sources`, compiled for arm64, under qemu."""
    cc, cxx = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"
    for tool in (cc, cxx, "qemu-aarch64-static"):
        if not shutil.which(tool):
            pytest.skip(
                f"no {tool}: apt install gcc-aarch64-linux-gnu g++-aarch64-linux-gnu "
                "qemu-user-static to test NEON here"
            )
    return ["qemu-aarch64-static", str(compiled(out, cc, cxx, sources, "-static", *flags))]


def said(command: list[str], isa: str = "") -> list[str]:
    """Words of a check's one line; its complaint is the assertion's."""
    env = os.environ | {"ANEFAST_ISA": isa, "ANEFAST_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


HALF = [ROOT / "tests/native/half_check.c", ROOT / "csrc/half.c", ROOT / "csrc/isa.c"]
PRODUCTS = [ROOT / "tests/native/cpu_check.cpp", *HALF[1:], *CPU]


def test_halves_of_every_instruction_set_here(tmp_path: Path) -> None:
    """All 65,536 halves, 33 million floats, rows, strides and transposes with guard words."""
    check = [str(native(tmp_path / "half_check", HALF)), "7"]
    seen = {isa: said(check, isa) for isa in ("portable", "avx2", "avx512", "neon")}
    assert seen["portable"][0] == "portable"
    assert {floats for _, floats, _ in seen.values()} == {str(1 << 25)}
    assert len({digest for *_, digest in seen.values()}) == 1, seen


def test_halves_on_neon(tmp_path: Path) -> None:
    isa, floats, digest = said([*arm64(tmp_path / "half_check", HALF), "7"])
    assert isa == "NEON" and int(floats) >= 30_000_000
    here = said([str(native(tmp_path / "here", HALF)), "7"], "portable")
    assert digest == here[2], "portable C itself differs between the two machines"


def test_a_planted_overrun_is_caught(tmp_path: Path) -> None:
    """The guard words do guard: a tail that stores one half too many is found."""
    broken = (ROOT / "csrc" / "half.c").read_text()
    for header in ("half.h", "isa.h"):
        broken = broken.replace(f'#include "{header}"', f'#include "{ROOT}/csrc/{header}"')
    row = "k->from_floats(x + r * x_stride, h + r * h_stride, columns);"
    assert broken.count(row) == 1
    broken = broken.replace(row, row[:-1] + ", h[r * h_stride + columns] = 0;")
    source = tmp_path / "broken.c"
    source.write_text(broken)
    check = native(tmp_path / "half_check", [HALF[0], source, HALF[2]])
    done = subprocess.run([check, "18"], capture_output=True, text=True)
    assert done.returncode == 1 and "words beside" in done.stdout


def test_products_and_functions_on_neon(tmp_path: Path) -> None:
    isa, digest = said(arm64(tmp_path / "cpu_check", PRODUCTS, "-O1"))
    assert (isa, digest) == ("NEON", CPU_DIGEST)


GROUPS = [
    ("0::/\n", {"cpu.max": "150000 100000"}, 2),  # a part of a CPU counts whole
    ("0::/\n", {"cpu.max": "max 100000"}, 0),
    ("0::/\n", {"cpu.max": "1000 100000"}, 1),
    ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),  # those above
    ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 50000"}, 3),
    ("0::/not/here\n", {"cpu.max": "200000 100000"}, 2),  # a container that knows its outer path
    ("9:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
     {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
    ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
    ("2:cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 0),
    ("nonsense\n\n:", {"cpu.max": "what is this"}, 0),
]  # fmt: skip


def test_quotas_of_control_groups(tmp_path: Path) -> None:
    sources = [ROOT / "tests/native/quota_check.cpp", *POOL]
    check = native(tmp_path / "quota_check", sources)
    for i, (groups, files, cpus) in enumerate(GROUPS):
        root = tmp_path / str(i)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        (root / "groups").write_text(groups)
        assert said([str(check), str(root / "groups"), str(root)]) == [str(cpus)], (groups, files)
    assert said([str(check), str(tmp_path / "none"), str(tmp_path)]) == ["0"]


@pytest.mark.slow
def test_products_and_functions_here(tmp_path: Path) -> None:
    check = [str(native(tmp_path / "cpu_check", PRODUCTS, "-O1"))]
    for isa in ("portable", "avx2", "avx512"):
        assert said(check, isa)[-1] == CPU_DIGEST, isa


@pytest.mark.slow
def test_all_floats(tmp_path: Path) -> None:
    """Every one of the 2^32, for each instruction set of this machine but the portable one."""
    check = [str(native(tmp_path / "half_check", HALF)), "0"]
    seen = {said([check[0], "18"], isa)[0]: isa for isa in ("avx2", "avx512", "neon")}
    for name, isa in seen.items():
        if name != "portable":
            assert said(check, isa)[1] == str(1 << 32)


def test_the_library_product(tmp_path: Path) -> None:
    """gemm/accelerate.cpp, run against a plain sgemm: layouts, halves, accumulation, the queue."""
    sources = [ROOT / "tests" / "native" / "accelerate_check.cpp", *PRODUCTS[1:]]
    check = [str(native(tmp_path / "check", sources, "-O0", f"-I{ROOT}/tests/macos/include"))]
    assert "Accelerate for any_order" in " ".join(said(check))


def test_no_child_of_a_fork_finds_scratch_memory_locked(tmp_path: Path) -> None:
    sources = [ROOT / "tests/native/fork_check.cpp", ROOT / "csrc/fork.cpp"]
    assert said([str(native(tmp_path / "fork_check", sources))]) == []


POOL_USERS = ("embed.cpp", "head.cpp", "update.cpp", "weight_grad.cpp", "weights.cpp")
FAILURES = [ROOT / "tests/native/pool_check.cpp", *[ROOT / "csrc/cpu" / n for n in POOL_USERS]]
FAILURES += PRODUCTS[1:]


def test_what_a_body_throws_reaches_its_caller(tmp_path: Path) -> None:
    """Exceptions, and every allocation failing once, on any thread: pool_check.cpp."""
    assert said([str(native(tmp_path / "pool_check", FAILURES, "-O1"))]) == []


@pytest.mark.slow
def test_the_pool_has_no_data_race(tmp_path: Path) -> None:
    sees_races(tmp_path)
    flags = ["-O1", "-g1", "-fsanitize=thread"]
    check = native(tmp_path / "pool_check", FAILURES, *flags)
    environment = os.environ | {"TSAN_OPTIONS": "die_after_fork=0"}
    done = subprocess.run([check, "300"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Matrix products on instruction sets this machine may lack: the same sources, built with a driver.

AMX runs over tests/isa/tiles.h, which does in plain C++ what the tile instructions do, AVX-512 over
SIMDe, or where amx.cpp packs its tiles over tests/isa/packing.h; everything else of both files
is executed as it ships. Packing uses the processor's own AVX-512 where there is one, except under
sanitizers, to which the stand-in shows each element it reads. That the bytes written for AMX are
its instructions is the disassembler's word. None of this shows any speed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CPU, ISA = ROOT / "csrc/cpu", ROOT / "tests/isa"
FLAGS = ["-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
SOURCES = [p for p in (CPU / "gemm").glob("*.cpp") if p.stem != "allowed"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
PACKING = {"avx512f", "avx512bw", "avx512vl", "avx512_bf16"}  # as /proc/cpuinfo calls them
SIMDE = Path("/usr/include/simde/x86/avx512.h").exists()

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86-64 paths"),
    pytest.mark.skipif(not shutil.which("g++"), reason="no g++ on this machine"),
]


def packs_natively() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and set(info.read_text().split()) >= PACKING


def build(folder: Path, *extra: str, packing: bool) -> Path:
    """The driver, multiplying with tiles that plain C++ stands in for, and `packing` them so."""
    pool = [CPU / name for name in ("pool.cpp", "cpus.cpp", "threads.cpp")]
    sources = [*SOURCES, *pool, ISA / "allowed.cpp", ISA / "products.cpp"]
    sources += [ROOT / "csrc" / name for name in ("span.cpp", "fork.cpp", "half.c", "isa.c")]

    def compiled(source: Path) -> Path:
        out = folder / f"{source.stem}.o"
        compiler = ["gcc", "-std=c11"] if source.suffix == ".c" else ["g++", "-std=c++17"]
        flags = [*FLAGS, "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", f"-I{ISA}"]
        flags += extra if source.parent != ISA else []  # what is tested, not what tests it
        if source.stem in ("amx", "avx512_bf16"):
            flags += ['-DANEFAST_TILES="tiles.h"', "-O3", *AVX2]
            flags += ['-DANEFAST_AVX512="packing.h"'] * packing
        if source.stem == "avx512" and SIMDE:
            flags += ['-DANEFAST_AVX512="avx512.h"', "-Wno-psabi", *AVX2]
        subprocess.run([*compiler, *flags, "-c", str(source), "-o", str(out)], check=True)
        return out

    with ThreadPoolExecutor(2) as pool:
        objects = [str(o) for o in pool.map(compiled, sources)]
    program = folder / "products"
    subprocess.run(["g++", "-pthread", *extra, *objects, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("isa"), packing=not packs_natively())


def run(products: Path, isa: str) -> str:
    """What it prints under ANEFAST_ISA=isa; after a "!", as if there were no tiles."""
    env = os.environ | {"ANEFAST_ISA": isa.rstrip("!")}
    env |= {"WITHOUT_TILES": "1"} if isa.endswith("!") else {}
    done = subprocess.run([products], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    "isa,said",
    [
        ("amx-fp16", "AMX-FP16"),
        ("amx-bf16", "AMX-BF16"),
        ("relaxed", "AMX-BF16 relaxed"),
        ("relaxed!", "AVX-512 BF16 relaxed"),
    ],
)
def test_pairs_are_summed_as_defined(products: Path, isa: str, said: str) -> None:
    assert re.fullmatch(rf"{said}: \d+ products, 0 wrong\n", run(products, isa))


@pytest.mark.skipif(not SIMDE, reason="no SIMDe: apt install libsimde-dev to run AVX-512 here")
def test_avx512_gives_the_references_bytes(products: Path) -> None:
    assert re.fullmatch(r"AVX-512: \d+ products, 0 wrong\n", run(products, "avx512"))


def test_a_path_that_is_not_here_is_said(products: Path) -> None:
    assert run(products, "neon").startswith("AMX-FP16, as there is no neon here: ")


@pytest.mark.skipif(not SIMDE, reason="no SIMDe: apt install libsimde-dev to run AVX-512 here")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_loops_of_every_width_give_the_same_bytes(tmp_path: Path, compiler: str) -> None:
    """Those of 16 lanes are lowered to this processor's vectors, their conversions to AVX2's."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} on this machine")
    c = tmp_path / "half.o"
    half = ["-Disa_allowed=isa_processor", "-c", str(ROOT / "csrc/half.c"), "-o", str(c)]
    subprocess.run(["gcc", "-std=c11", *FLAGS, f"-I{ROOT / 'csrc'}", *half], check=True)
    wished = tmp_path / "wished.o"
    stand_in = ["-c", str(ISA / "wished.c"), "-o", str(wished)]
    subprocess.run(["gcc", "-std=c11", *FLAGS, f"-I{ROOT / 'csrc'}", *stand_in], check=True)
    sources = [CPU / "halves.cpp", CPU / "vecmath.cpp", ISA / "loops.cpp"]
    words = [compiler, "-std=c++17", *FLAGS, "-Wno-psabi", *AVX2, '-DANEFAST_AVX512="avx512.h"']
    words += [f"-I{ROOT / 'csrc'}", f"-I{ISA}", *map(str, [*sources, c, wished])]
    loops = tmp_path / "loops"
    subprocess.run([*words, "-o", str(loops)], check=True)
    assert len({run(loops, isa) for isa in ("portable", "avx2", "avx512")}) == 1


@pytest.mark.slow
def test_odd_sizes_touch_nothing_outside(tmp_path: Path) -> None:
    """Every path under address and undefined-behaviour sanitizers."""
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    checked = build(tmp_path, *flags, packing=True)
    amx = ("amx-fp16", "amx-bf16", "relaxed")
    for isa in ("portable", "avx2", *amx, "relaxed!", *["avx512"] * SIMDE):
        assert run(checked, isa).endswith(" products, 0 wrong\n")


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump on this machine")
def test_the_bytes_are_amx_instructions(tmp_path: Path) -> None:
    out = tmp_path / "amx.o"
    source = str(CPU / "gemm/amx.cpp")
    subprocess.run(["g++", "-std=c++17", *FLAGS, "-c", source, "-o", str(out)], check=True)
    text = subprocess.run(["objdump", "-d", out], capture_output=True, text=True, check=True).stdout
    if "tdpbf16ps" not in text:
        pytest.skip("this objdump does not know AMX")
    found = set(re.findall(r"\b(?:tile\w+|ldtilecfg|tdp\w+)\b.*", text))
    at = "(%rax,%rcx,1)"
    expected = {"ldtilecfg (%rax)", "tilerelease"}
    expected |= {f"tileloadd {at},%tmm{t}" for t in range(8)}
    expected |= {f"tilestored %tmm{t},{at}" for t in range(4)}
    expected |= {f"tilezero %tmm{t}" for t in range(4)}
    names = ["tdpbf16ps"] + ["tdpfp16ps"] * ("tdpfp16ps" in text)
    for name in names:
        expected |= {f"{name} %tmm{6 + t % 2},%tmm{4 + t // 2},%tmm{t}" for t in range(4)}
    assert {re.sub(r"\s+", " ", f).strip() for f in found if "<" not in f} == expected

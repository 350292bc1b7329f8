"""What a training step would take on a processor with AMX, modelled on one that has the rest of it.

    python benchmarks/model_amx.py                 # some 3 minutes, one of them a build

The executor is built once more with tiles that take the time of real ones and compute nothing
(timed_tiles.h); everything around them runs as it ships: packing, splitting, softmax, AdamW, for
which the CPU must have AVX-512 and its bf16 instructions (Zen 4 or 5, Cooper Lake). So the time is
measured but for the multiplications, whose rate is a published one, and it is printed as
`modelled`. The numbers of such a step are garbage. Beside it stand PyTorch's times on a machine
with AMX, measured there: two machines, so their ratio is modelled too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TILE_FLOPS = 2 * 16 * 16 * 32  # of one multiplication
# Per core, of fp16 and bf16 alike: a register loop on Granite Rapids, 2 virtual cores, 2026-11-22.
# PyTorch 2.13 on the same machine, 2 threads: eager fp32, compiled fp32, compiled bf16; ms a step.
RATE = 2.9e12
PEERS = {
    ("stories15m", 1): (211, 178, 119),
    ("stories15m", 8): (1537, 1278, 484),
    ("stories110m", 1): (1189, 1049, 529),
}
TIMED = """
import statistics, sys, time
from benchmarks import bench_peers as bench
from anefast import _C
preset, batch = sys.argv[1], int(sys.argv[2])
config = bench.config_of(preset)
x, y = bench.tokens_of(config, batch)
ours = bench.Ours(config, bench.init_params(config, 0), batch)
taken, began = [], time.perf_counter()
while len(taken) < 5 or time.perf_counter() - began < 15:
    start = time.perf_counter()
    ours.step(x, y)
    taken.append(time.perf_counter() - start)
print(_C.gemm_isa(), statistics.median(taken[2:]) * 1e3, sep=";")
"""
WAIT = """
#include <chrono>
#include <cstdio>
int main() {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (int i = 0; i < 10000000; ++i)
        __asm__ volatile("vmulss %xmm31, %xmm31, %xmm31");
    std::printf("%g", std::chrono::duration<double>(Clock::now() - start).count() / 1e7);
}
"""


def run(*command: str, cwd: Path, **more: str) -> str:
    """What the command prints; exits with its last word where it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **more}, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}, no word said"]
        sys.exit(f"[model_amx] {command[0]} failed: {said[-1]}")
    return done.stdout


def multiply_waits(folder: Path) -> int:
    """How many dependent scalar multiplications take as long as one of a tile."""
    (folder / "wait.cpp").write_text(WAIT)
    run("c++", "-O2", "-mavx512f", "wait.cpp", "-o", "wait", cwd=folder)
    one = min(float(run("./wait", cwd=folder)) for _ in range(5))
    return round(TILE_FLOPS / RATE / one)


def build(folder: Path, waits: int) -> None:
    """The tree once more, its tiles timed and every processor allowed."""
    for name in ("anefast", "benchmarks", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "tests/isa/allowed.cpp", folder / "csrc/cpu/gemm/allowed.cpp")
    tiles = folder / "benchmarks/timed_tiles.h"
    macro = shlex.quote(f'-DANEFAST_TILES="{tiles}"')
    flags = f"{macro} -DMULTIPLY_WAITS={waits} -I{folder}/csrc"
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=folder, CXXFLAGS=flags)


def require_vectors() -> None:
    """Exits where what surrounds the tiles would not run."""
    needs = {"avx512f", "avx512bw", "avx512vl", "avx512_bf16"}  # as /proc/cpuinfo calls them
    info = Path("/proc/cpuinfo")
    lacks = needs.difference(info.read_text().split() if info.exists() else ())
    if lacks:
        sys.exit(f"[model_amx] this CPU lacks {', '.join(sorted(lacks))}: nothing was modelled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default="amx-fp16", choices=["amx-fp16", "amx-bf16", "relaxed"])
    isa = parser.parse_args().isa
    require_vectors()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waits = multiply_waits(folder)
        start = time.perf_counter()
        build(folder, waits)
        print(f"built in {time.perf_counter() - start:.0f} s; a tile's product is {waits} waits")
        for (preset, batch), peers in PEERS.items():
            said = run(sys.executable, "-c", TIMED, preset, str(batch), cwd=folder, ANEFAST_ISA=isa)
            path, ms = said.split(";")
            ratios = " / ".join(f"{peer / float(ms):.2f}" for peer in peers)
            print(
                f"{preset}, B {batch}: {float(ms):.1f} ms a step, modelled ({path}); PyTorch there "
                f"{' / '.join(map(str, peers))} ms: {ratios} x"
            )


if __name__ == "__main__":
    main()

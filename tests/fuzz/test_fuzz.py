"""Fuzzing: the linter and --fix by mutation in Python (always), the native readers by libFuzzer
under AddressSanitizer and UndefinedBehaviorSanitizer (slow: 20 seconds, where clang is).

For a long run: ANEFAST_FUZZ_RUNS=10000000 python -m pytest -m slow tests/fuzz.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from anefast import _C
from anefast.chips.behaviour import CHIPS
from anefast.mil.lint import Platform, lint
from anefast.mil.lint.fix import fixed
from anefast.mil.lint.report import as_json, as_sarif, as_text
from tests.conftest import ROOT
from tests.fuzz.seeds import corpus
from tests.lint_examples import EXAMPLES

FUZZ = Path(__file__).parent
SECONDS = 20
FLAGS = [
    "-O2", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=vptr",
    "-fno-sanitize-recover=undefined", "-fsanitize-coverage=inline-8bit-counters,pc-table",
    f"-I{ROOT / 'csrc'}",
]  # fmt: skip
# Allocations and thrown errors cost most under ASan: no stacks of allocations, no filling, small
# redzones and quarantine. 0.21 ms of CPU per execution (AMD EPYC), the same findings.
SANITIZER = (
    "malloc_context_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=16:max_redzone=16:"
    "max_malloc_fill_size=0:detect_stack_use_after_return=0"
)


def mutated(text: bytes, words: list[bytes], r: random.Random) -> bytes:
    """A few random changes: bytes, words, lines, and pieces of the text elsewhere."""
    out = bytearray(text)
    for _ in range(r.choice([1, 1, 2, 4])):
        i = r.randrange(len(out) + 1)
        j = min(len(out), i + r.choice([0, 1, 1, 4, 30]))
        k = r.randrange(len(out) + 1)
        new = [b"", bytes([r.randrange(256)]), r.choice(words), r.choice(words), out[k : k + 40]]
        out[i:j] = r.choice(new)
    return bytes(out)


@pytest.mark.parametrize("part", range(2))
def test_any_text_is_linted_and_fixed(part):
    """No exception, every finding has a place in the text, --fix ends and is idempotent."""
    r = random.Random(part)
    texts = [*corpus(part), *(e.bad.encode() for e in EXAMPLES.values())]
    texts = [t.partition(b"\xff")[0] for t in texts if len(t) < 3000]
    words = [
        w.encode() for t in texts[:20] for w in re.findall(r"\w+|[^\w\s]", t.decode("latin-1"))
    ]
    chips = [None, *CHIPS.values()]
    findings = fixes = 0
    for _ in range(600):
        text = mutated(r.choice(texts), words, r)
        target = Platform(r.choice(chips), r.choice(["", "15.1", "26.2"]))
        found = lint(text, None, target)
        lines = text.count(b"\n") + 1
        for finding in found:
            line, column = finding.at
            assert 1 <= line <= lines and 1 <= column, (finding, text)
        try:
            _C.check(text.decode("latin-1"))
        except _C.MILError:
            assert found or b"BLOBFILE" in text, text
        findings += len(found)
        if r.random() < 0.3:
            as_text(found, {None: text}), as_json(found, 1, target), as_sarif(found, {None: text})
            better, gone = fixed(text, None, target)
            assert fixed(better, None, target)[0] == better, text
            fixes += len(gone)
    assert findings > 1000 and fixes > 30


def test_any_weight_file_is_judged(tmp_path):
    r = random.Random(0)
    example = EXAMPLES["ANE083"]
    path = tmp_path / "model.mil"
    (tmp_path / "weights").mkdir()
    whole = example.files["weights/w.bin"]
    seen = set()
    for _ in range(150):
        offset = str(r.choice([0, 1, 63, 64, 128, 192, 256, 1 << 40, 2**64 - 1]))
        path.write_text(example.bad.replace("uint64(256)", f"uint64({offset})"))
        file = bytearray(whole[: r.choice([len(whole), len(whole), r.randrange(len(whole))])])
        for _ in range(r.randrange(4) if file else 0):
            at = r.choice([r.randrange(len(file)), r.randrange(min(100, len(file)))])
            file[at] = r.choice([0, 1, 255, r.randrange(256)])
        (tmp_path / "weights" / "w.bin").write_bytes(file)
        found = lint(path.read_bytes(), path, Platform(CHIPS["m5"]))
        seen |= {f.rule.id for f in found}
        try:
            device = _C.Device("host")
            device.compile(path.read_text(), {"@model_path/weights/w.bin": bytes(file)})
        except _C.MILError:
            assert found  # what our reader of weights refuses, the linter has words for
    assert {"ANE083", "ANE084", "ANE085", "ANE089"} <= seen


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The fuzz target, built; skips where there is no clang with libFuzzer."""
    names = ("clang", "clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14")
    found = next((n for n in names if shutil.which(n)), None)
    if found is None:
        pytest.skip("no clang: libFuzzer comes with it")
    folder = tmp_path_factory.mktemp("fuzz")
    objects = []
    # Operations are declared beside their kernels, so the readers come with the host executor.
    sources = [FUZZ / "fuzz_mil.cpp", *(ROOT / "csrc").glob("*.c")]
    sources += (ROOT / "csrc").glob("[!b]*.cpp")  # all but bind.cpp
    sources += [p for d in ("mil", "host", "cpu") for p in (ROOT / "csrc" / d).rglob("*.cpp")]
    for source in sources:
        kind = ["-std=c11"] if source.suffix == ".c" else ["-std=c++17"]
        objects.append(folder / f"{len(objects)}-{source.name}.o")
        built = subprocess.run(
            [found, *kind, *FLAGS, "-c", source, "-o", objects[-1]], capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr
    program = folder / "fuzz_mil"
    link = [found.replace("clang", "clang++"), "-fsanitize=fuzzer,address,undefined"]
    link += ["-static-libstdc++", "-static-libgcc", *objects]  # throwing is quicker
    linked = subprocess.run([*link, "-o", program], capture_output=True, text=True)
    if "libclang_rt" in linked.stderr:
        pytest.skip(f"{found} comes without libFuzzer: {linked.stderr[-200:]}")
    assert linked.returncode == 0, linked.stderr
    return program


@pytest.mark.slow
def test_native_readers(target, tmp_path):
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for i, seed in enumerate(corpus()):
        (seeds / f"{i:03}").write_bytes(seed)
    runs = os.environ.get("ANEFAST_FUZZ_RUNS")
    limit = f"-runs={runs}" if runs else f"-max_total_time={SECONDS}"
    fuzzed = subprocess.run(
        [
            target, limit, "-max_len=256", "-use_cmp=0", "-entropic=0", "-reduce_inputs=0",
            "-reload=0", "-timeout=120", "-print_final_stats=1", f"-dict={FUZZ / 'mil.dict'}",
            f"-artifact_prefix={tmp_path}/", tmp_path / "seeds",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": SANITIZER},
    )  # fmt: skip
    assert fuzzed.returncode == 0, fuzzed.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", fuzzed.stderr)
    assert executed and int(executed[1]) > (int(runs) - 1 if runs else 1000)
    print(f"{executed[1]} executions")

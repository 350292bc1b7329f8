"""What Apple's own compiler took and refused, against the linter and the host executor.

The corpus is another project's, joshuaswarren/mil-hwx-compiler (MIT); it lies beside a checkout and
not in it, so all but its distilled table is skipped where it is absent.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast import _C
from anefast.chips.behaviour import CHIPS, find_profile
from anefast.mil.lint import Finding, Platform, lint
from tests import distil
from tests.lint_examples import blob

CORPUS = Path(__file__).parent.parent.parent / "shared" / "data" / "apple_compiler"
TARGETS = {"h13": "m1", "h14": "m2", "h15": "m3", "h16": "m4", "h17": "m5", "h18": "m6"}
REFUSALS = ("parse", "compile")
WEIGHT = re.compile(
    r'tensor<fp16, \[([\d, ]+)\]>\(BLOBFILE\(path = string\("[^"]+"\), offset = uint64\(\d+\)'
)


@functools.cache
def rows() -> list[dict[str, Any]]:
    if not (CORPUS / "corpus.jsonl.gz").is_file():
        pytest.skip(f"no {CORPUS}")
    return distil.load(CORPUS / "corpus.jsonl.gz")


def test_our_table_of_verdicts_is_the_corpus_distilled():
    with (Path(_C.__file__).parent / "mil" / "verdicts.toml").open(encoding="utf-8") as file:
        assert file.read() == distil.table(rows())


@functools.cache
def refusals(text: str, chip: str) -> list[Finding]:
    """What the linter says of a refusal above a note."""
    found = lint(text, None, Platform(CHIPS[chip]))
    return [f for f in found if f.rule.severity in REFUSALS and f.level != "note"]


def test_nothing_that_was_taken_is_accused():
    taken = [row for row in rows() if row["accepted"]]
    assert len(taken) > 2000
    accused = [(r["case"], r["target"], refusals(r["mil"], TARGETS[r["target"]])) for r in taken]
    assert [(c, t, [f.message for f in fs]) for c, t, fs in accused if fs] == []


def test_everything_that_was_refused_is_said(tmp_path):
    refused = [row for row in rows() if not row["accepted"]]
    assert len(refused) > 200
    silent = []
    for row in refused:
        chip = TARGETS[row["target"]]
        if refusals(row["mil"], chip):
            continue
        # Nothing is wrong with the text: its weight record had the size where the dtype belongs.
        spoilt = "blob record malformed" in row["note"]
        if not (spoilt and any(f.rule.id == "ANE086" for f in beside_a_bad_record(row, tmp_path))):
            silent.append((row["case"], row["target"]))
    assert silent == []


def beside_a_bad_record(row: dict[str, Any], folder: Path) -> list[Finding]:
    text, files = with_weights(row["mil"])
    for name, record in files.items():
        spoilt = bytearray(record)
        struct.pack_into("<I", spoilt, 68, len(record) - 128)
        path = folder / name.removeprefix("@model_path/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(spoilt)
    return lint(text, folder / "model.mil", Platform(CHIPS[TARGETS[row["target"]]]))


def with_weights(text: str) -> tuple[str, dict[str, bytes]]:
    """The text with a weight file of zeros for every constant: rebuilt texts have one for all."""
    files: dict[str, bytes] = {}

    def named(match: re.Match[str]) -> str:
        name = f"@model_path/weights/w{len(files)}.bin"
        files[name] = zeros(math.prod(map(int, match[1].split(","))))
        return f'tensor<fp16, [{match[1]}]>(BLOBFILE(path = string("{name}"), offset = uint64(64)'

    return WEIGHT.sub(named, text), files


@functools.cache
def zeros(n: int) -> bytes:
    return blob(np.zeros(n, np.float16))


@pytest.mark.parametrize("name", ["clip_fp32", "mm128_8192", "pad_noval", "rename", "typed_list"])
def test_small_refused_programs_are_warned_of(name):
    rows()
    text = (CORPUS / "refused" / f"{name}.mil").read_text("utf-8")
    assert refusals(text, "m1") and refusals(text, "m4")


def test_the_host_takes_what_was_taken_as_itself_and_as_each_chip():
    """But for programs of more than 2^22 weights, which differ from others in size alone."""
    told, compiled = [], set()
    for row in rows():
        chip = TARGETS[row["target"]]
        elements = [math.prod(map(int, n.split(","))) for n in WEIGHT.findall(row["mil"])]
        if not row["accepted"] or sum(elements) > 1 << 22:
            continue
        text, files = with_weights(row["mil"])
        for options in ("", find_profile(chip).options):
            if (options, text) in compiled:
                continue
            compiled.add((options, text))
            try:
                _C.Device("host", options).compile(text, files).unload()
            except (_C.MILError, _C.CompileError) as error:
                told.append((row["case"], row["target"], str(error)))
    assert len(compiled) > 1500 and told == []

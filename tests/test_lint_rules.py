"""Every rule: the program that breaks it is found out, its rewrite is clean, and --fix finds a
rewrite that computes the same. Also under the host executor's chip profiles."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from anefast import _C
from anefast.chips.behaviour import CHIPS, find_profile
from anefast.mil.lint import Finding, Platform, catalogue, lint
from anefast.mil.lint.fix import fixed
from tests.lint_examples import EXAMPLES, OF_SETS, Example, portable

RULES = catalogue()
OLD = {id for id, e in EXAMPLES.items() if CHIPS[e.on].dialect == "ios16"}


def findings(text: str, files: dict[str, bytes], example: Example, folder: Path) -> list[Finding]:
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1, 1))  # a compile folder: nothing is newer than anything
    path = folder / "model.mil"
    path.write_text(text)
    beside = bool(files or example.good_files)
    return lint(text, path if beside else None, target(example))


def target(example: Example) -> Platform:
    return Platform(CHIPS[example.on], example.os)


def test_every_rule_has_an_example():
    assert set(EXAMPLES) | OF_SETS == set(RULES)


@pytest.mark.parametrize("id", EXAMPLES)
def test_rule(id, tmp_path):
    example = EXAMPLES[id]
    found = findings(example.bad, example.files, example, tmp_path / "bad")
    mine = [f for f in found if f.rule.id == id]
    assert mine, [(f.rule.id, f.message) for f in found]
    unexpected = {f.rule.id for f in found} - {id} - example.also
    assert not unexpected & {i for i in RULES if RULES[i].level == "error"}, unexpected
    for finding in mine:
        line, column = finding.at
        assert 1 <= line <= example.bad.count("\n") + 1
        assert 1 <= column <= len(example.bad.split("\n")[line - 1]) + 1
        assert finding.message and finding.rule.severity
    good = portable(example.good) if id in OLD else example.good
    files = example.good_files if example.good_files is not None else example.files
    left = findings(good, files, example, tmp_path / "good")
    assert [(f.rule.id, f.message) for f in left if f.level != "note" or f.rule.id == id] == []


FIXED = [id for id, rule in RULES.items() if rule.fix]


@pytest.mark.parametrize("id", FIXED)
def test_fix(id, tmp_path):
    """What --fix writes is clean of the rule and of new faults, stays as it is, and computes the
    same wherever the program ran before."""
    example = EXAMPLES[id]
    findings(example.bad, example.files, example, tmp_path / "bad")
    path = tmp_path / "bad" / "model.mil" if example.files else None
    before = lint(example.bad, path, target(example))
    text, gone = fixed(example.bad.encode(), path, target(example))
    assert id in {f.rule.id for f in gone}
    after = lint(text, path, target(example))
    assert not [f for f in after if f.rule.id == id or f.edits]
    assert {f.rule.id for f in after} <= {f.rule.id for f in before} - {id}
    assert fixed(text, path, target(example)) == (text, [])
    blobs = {"@model_path/" + n: data for n, data in example.files.items()}
    try:
        wanted = run(example.bad, blobs)
    except (_C.MILError, _C.CompileError):
        return  # it never ran: that it runs now is all there is to say
    finally:
        result = run(text.decode(), blobs)
    assert list(wanted) == list(result)
    for port, y in wanted.items():
        spacing = np.spacing(np.abs(y).astype(np.float16)).astype(np.float64)
        assert (np.abs(result[port] - y) <= 2 * spacing).all(), port


def run(text: str, blobs: dict[str, bytes], device: str = "") -> dict[str, np.ndarray]:
    """Results by port of a program on the host, its inputs in [0.25, 4)."""
    host = _C.Device("host", device)
    program = host.compile(text, blobs)
    r = np.random.default_rng(0)
    surfaces = {}
    for port in program.inputs:
        surfaces[port.name] = host.surface(port.nbytes)
        kind = {"fp16": np.float16, "fp32": np.float32}[port.dtype]
        data = surfaces[port.name].lock()
        data[:] = r.uniform(0.25, 4, data.nbytes // kind().nbytes).astype(kind).view(np.uint8)
        surfaces[port.name].unlock()
    outputs = [host.surface(port.nbytes) for port in program.outputs]
    program.evaluate([surfaces[port.name] for port in program.inputs], outputs)
    results = {}
    for port, surface in zip(program.outputs, outputs, strict=True):
        kind = {"fp16": np.float16, "fp32": np.float32}[port.dtype]
        results[port.name] = surface.lock(True).view(kind).astype(np.float64).copy()
        surface.unlock(True)
    return results


def runs(text: str) -> bool:
    """Whether the host executor compiles it where it plays no chip."""
    try:
        _C.Device("host").compile(text, {})
    except (_C.MILError, _C.CompileError):
        return False
    return True


@pytest.mark.parametrize("chip", CHIPS)
def test_profiles_and_linter_agree(chip):
    """What the host runs and refuses under a chip's profile, the linter has words for."""
    device, told = _C.Device("host", find_profile(chip).options), 0
    for id, example in EXAMPLES.items():
        if example.files or example.good_files or "BLOBFILE" in example.bad:
            continue
        for text in (example.bad, example.good):
            if not runs(text):
                continue
            try:
                device.compile(text, {})
            except (_C.MILError, _C.CompileError) as error:
                heard = lint(text, None, Platform(CHIPS[chip], example.os))
                heard = [f for f in heard if f.level != "note" or f.rule.id == "ANE025"]
                assert heard, f"{id} on {chip}: {error}\n{text}"
                told += 1
    assert told > 10

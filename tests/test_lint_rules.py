"""Every rule: the program that breaks it is found out, its rewrite is clean, and --fix finds a
rewrite that computes the same. Also under the host executor's chip profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anefast.chips import CHIPS
from anefast.mil.lint import Finding, Target, catalogue, lint
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


def target(example: Example) -> Target:
    return Target(CHIPS[example.on], example.os)


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

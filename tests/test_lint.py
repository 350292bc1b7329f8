"""The linter: what anefast writes is clean, findings have a place, the command its contract."""

from __future__ import annotations

import json
import re

import pytest

from anefast import lint as command
from anefast import mil
from anefast.chips import CHIPS
from anefast.mil.lint import Target, catalogue, lint
from anefast.mil.lint.catalogue import CONFIDENCE, SEVERITIES, THEMES
from tests.test_mil_emit import DIALECTS, layer
from tests.test_mil_parse import MODERN


def test_the_catalogue_is_whole():
    rules = catalogue()
    assert len(rules) >= 40
    assert list(rules) == [f"ANE{i:03}" for i in range(1, len(rules) + 1)]
    assert len({r.name for r in rules.values()}) == len(rules)
    for rule in rules.values():
        assert rule.severity in SEVERITIES and rule.confidence in CONFIDENCE, rule
        assert rule.sources and rule.why and rule.rewrite and rule.title, rule
        assert rule.theme in THEMES
        assert all(any(c == f or c.startswith(f + "-") for c in CHIPS) for f in rule.chips), rule
        assert not (rule.disputed and rule.level == "error") or rule.given_level, rule


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_layer_is_clean(dialect):
    text = mil.emit(layer(), dialect).text
    chip = CHIPS["m5" if dialect == "ios18" else "m1"]
    assert [f for f in lint(text, None, Target(chip)) if f.level != "note"] == []


def test_the_command_says_where_and_why(tmp_path, capsys):
    path = tmp_path / "model.mil"
    path.write_text(MODERN.replace("groups = gr, ", "bias = W, groups = gr, "))
    with pytest.raises(SystemExit) as leave:
        command.main([str(path), "--format", "json"])
    assert leave.value.code == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    (bias,) = [f for f in found if f["rule"] == "ANE032"]
    line = path.read_text().split("\n")[bias["line"] - 1]
    assert line[bias["column"] - 1 :].startswith("W, groups")
    with pytest.raises(SystemExit) as leave:
        command.main(["--list"])
    assert leave.value.code == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{id} ", listed, re.M) for id in catalogue())

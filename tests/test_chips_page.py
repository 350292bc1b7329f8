"""docs/chips.md says what the tables of the package say."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import pytest

from anefast.bench.held_out import errors
from anefast.chips.behaviour import CHIPS
from anefast.doctor import registry
from tests.tolerances import DESCRIBED

TEXT = (Path(__file__).parent.parent / "docs" / "chips.md").read_text("utf-8")


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_arithmetic_of_a_chip_is_that_of_its_switches(name: str) -> None:
    switches = CHIPS[name].switches
    cells = [switches[k].value for k in ("products", "rounding", "denormals", "tables")]
    cap = switches["slice_cap"].value
    row = [name, *cells, "-" if cap == "0" else cap, switches["products"].sure]
    assert f"| {' | '.join(row)} |" in TEXT


def test_held_out_errors_are_those_of_the_time_model() -> None:
    for chip, sizes in errors().items():
        row = f"| {chip} | {len(sizes)} | {100 * median(sizes):.0f} % | {100 * max(sizes):.0f} % |"
        assert row in TEXT


def test_every_disputed_fact_has_a_probe_and_every_such_probe_a_fact() -> None:
    section = TEXT.partition("## Disputed facts")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")][2:]
    asked = {name for row in rows for name in re.findall(r"`([^`]+)`", row[3])}
    checks = {check.name for check in registry.everything()}
    assert asked <= checks
    settling = {check.name for check in registry.probing() if check.name in checks}
    published = {name for name in settling if name.startswith("probe ")}
    depths = {name for name in settling if name.startswith("depth ")}
    assert settling - published - depths <= asked and len(rows) > 20
    switches = {key for chip in CHIPS.values() for key in chip.switches}
    answered = {word for row in rows for word in re.findall(r"`([^`]+)`", row[4])}
    assert answered - {"private_path"} <= switches

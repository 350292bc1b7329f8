"""`anefast plan` as a user meets it."""

from __future__ import annotations

import re

import pytest

from anefast import _C
from anefast.config import ConfigError
from anefast.plan import Pairs, PlanCommand, main, report

WIDTH = 120


def lines(**asked):
    return report(PlanCommand(**asked))


def test_stories110m_on_a_chip_that_is_not_here():
    told = lines(preset="stories110m", chip="m1-pro")
    assert "modelled" in told[2] and "measured" not in " ".join(told)
    header = next(i for i, line in enumerate(told) if line.startswith("  plan "))
    assert "ms" in told[header + 1] and "MB" in told[header + 1]
    rows = {line[2:].split()[0]: line for line in told[header + 2 :] if line[2:3].isalnum()}
    assert rows["unfused"].split()[-11:][:1] == ["72"]
    assert rows["all"].split()[-11:][:1] == ["2"]
    refused = [line for line in told if "refused: " in line]
    assert any("axis 111616 > 16384" in line for line in refused)
    assert sum(line.startswith("* plan") for line in told) == 1
    assert all(len(line) <= WIDTH for line in told), max(told, key=len)


def test_tasks_per_layer_are_estimated_for_a_chip_and_their_source_is_said():
    text = " ".join(" ".join(lines(preset="stories110m", chip="m4")).split())
    found = re.search(r"tasks per layer, estimated: forward (\d+) to (\d+), backward", text)
    assert found and 24 < int(found[1]) < int(found[2])
    assert "a plain block elsewhere 24 to 29 (laws of joshuaswarren/mil-hwx-compiler" in text
    assert "ports: at most 1 in and 1 out in a program; all,weights=params has 229 and" in text
    host = lines(preset="tiny", device="host")
    assert not any("tasks per layer" in line or "ports: at most" in line for line in host)


def test_what_modelled_times_leave_out_is_said_beside_what_was_published():
    told = lines(preset="stories110m", chip="m1-pro")
    whole = " ".join(told)
    assert "published unfused: 169.4 ms, 3.15 steps/s" in whole and "left out of the times" in whole
    assert re.search(r"modelled here 1[0-9] and\s+1[0-9] % less", whole)
    other = " ".join(lines(preset="stories15m", chip="m1-pro"))
    assert "left out of the times" in other and "published unfused" not in other


@pytest.mark.parametrize("chip", ["m1", "m1-pro", "m2", "m3", "m4", "m4-max", "m5", "m6"])
def test_many_and_mixed_ports_are_a_caution_on_every_chip(chip):
    told = lines(preset="stories15m", chip=chip)
    cautions = [line for line in told if line.startswith("? ") and ":" in line]
    assert any("many ports" in line for line in cautions), told
    winner = next(line for line in told if line.startswith("* plan"))
    assert "ports=packed" in winner


def test_what_planning_costs(monkeypatch):
    """Writing programs is what takes time: none is written twice, whatever the number of layers."""
    measure, written = _C.scratch_bytes, []
    monkeypatch.setattr(_C, "scratch_bytes", lambda text: written.append(text) or measure(text))
    counts = []
    for model in ("stories15m", "stories110m"):  # 6 layers, 12 layers
        written.clear()
        lines(preset=model, chip="m1-pro")
        assert written and len(set(written)) == len(written)
        counts.append(len(written))
    assert counts[1] < 1.5 * counts[0]


def test_limits_are_named_once_with_their_source():
    told = lines(preset="stories110m", chip="m1-pro")
    assert sum(line.startswith("  refused for its axis: sbryngelson") for line in told) == 1
    assert "  refused for its packed weights: anefast.fuse.lower" in lines(
        preset="bytes", chip="m3"
    )


def test_rates_that_nobody_published_are_called_assumed():
    told = " ".join(lines(preset="bytes", chip="m2")[2:6])
    assert "assumed, 20 of 21 rates of m2, as m1: dispatch_us; as m1-pro: product_us" in told
    assert "fill_gb_s" in told and "fill_mb" not in told
    one = " ".join(lines(preset="bytes", chip="m1-pro")[2:6])
    assert "assumed, 4 of 21 rates of m1-pro, as m1: tflops" in one


def test_this_device(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEFAST_CACHE", str(tmp_path))
    told = lines(preset="bytes", device="host")
    assert told[1].startswith("host") and "measured on the host" in told[2]
    assert "assumed" not in " ".join(told)
    assert (tmp_path / "calibration.json").exists()
    assert told == lines(preset="bytes", device="host")  # remembered, so the same table


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--preset", "stories11m"], "did you mean stories1"),
        (["--chip", "m1pro"], "did you mean m1-pro"),
        (["--chip", "m1,inputs=one"], "a chip's name alone"),
        (["--seq-len", "100"], "use 128"),
        (["--batch", "-1"], "must not be negative"),
        (["--plan", "all"], "start with auto"),
        (["--plan", "auto,asyn"], "did you mean 'async'"),
        (["--model", "tiny"], "did you mean --preset"),
        (["--chip", "m3", "--max-compiles", "1"], "no plan can run on m3"),
    ],
)
def test_requests_that_make_no_sense(flags, hint, capsys):
    with pytest.raises(SystemExit) as left:
        main([*flags] if "--chip" in flags else [*flags, "--chip", "m1"])
    told = capsys.readouterr()
    assert left.value.code == 2
    assert told.out == "" and told.err.count("\n") == 1 and hint in told.err


@pytest.mark.parametrize("chip", ["m1-pro", "m4"])
def test_lora_is_weighed_beside_full_training(chip):
    told = lines(preset="stories15m", chip=chip, lora=Pairs(rank=8))
    ms, mb = {}, {}
    for line in told[4:]:
        if found := re.match(r"(LoRA|full): .* ([\d.]+) ms .* (\d+) MB, (\d+) compiles per", line):
            ms[found[1]], mb[found[1]] = float(found[2]), int(found[3])
            assert "0.26M numbers trained" in line or found[1] == "full"
    forms = re.search(r"device, ([\d.]+) ms .* CPU in fp32 ([\d.]+) ms", "\n".join(told))
    assert forms and abs(float(forms[1]) / ms["LoRA"] - 1) < 0.01 and float(forms[2]) > 0
    assert ms["LoRA"] < ms["full"] and 2 * mb["LoRA"] < mb["full"]
    rows = [line[2:].split() for line in told if re.match(r"[ ?*] (all|layer|unfused)\b", line)]
    assert {row[-6] for row in rows if "refused:" not in row} == {"0"}
    assert all(len(line) <= WIDTH for line in told), max(told, key=len)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (Pairs(rank=-1), "lora.rank must lie between"),
        (Pairs(targets="wq"), "--lora.targets needs an adapter"),
        (Pairs(layers=2), "--lora.layers needs an adapter"),
        (Pairs(rank=8, layers=7), "expected lora.layers of a model with 6 layers, got 7"),
        (Pairs(rank=8, targets="wx"), "lora.targets expected patterns"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(pairs, said):
    with pytest.raises(ConfigError, match=said):
        lines(preset="stories15m", chip="m1", lora=pairs)

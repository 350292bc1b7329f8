"""The linter around its rules: what anefast writes is clean, the command keeps its contract, and
what a published report found out the hard way is said beforehand."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from anefast import _C, ir, mil
from anefast import lint as command
from anefast.chips.behaviour import CHIPS
from anefast.fuse import find_plan, lower_all
from anefast.fuse.count import Counter
from anefast.fuse.legal import Target as Target
from anefast.fuse.legal import caution, check
from anefast.ir import ShapeError
from anefast.mil.lint import Platform, catalogue, lint
from anefast.mil.lint.catalogue import CONFIDENCE, SEVERITIES, THEMES
from tests.lint_examples import BAKED, EXAMPLES, blob, op, portable, program
from tests.test_cut_law import PLANS
from tests.test_judges import CONFIGS
from tests.test_mil_parse import MODERN

M1_PRO = Platform(CHIPS["m1-pro"], "26.2")


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


# What anefast writes


@cache
def counter(model: str) -> Counter:
    return Counter(CONFIGS[model], 1, 64)


def emitted_is_clean(model: str, chip: str, plans: list[str]) -> None:
    """Programs of every plan that is legal on the chip lint clean for it, but for what the planner
    itself is cautious about."""
    goal, seen = Target(chip, CHIPS[chip]), set()
    for spec in plans:
        plan = goal.fitted(find_plan(spec))
        broken, count = check(plan, counter(model), goal)
        if broken or count is None:
            continue
        wary = caution(count, goal)
        for lowered in lower_all(counter(model).schedule(plan), plan):
            text = mil.emit(lowered.program, plan.dialect).text
            if text in seen:
                continue
            seen.add(text)
            found = [f for f in lint(text, None, Platform(CHIPS[chip])) if f.level != "note"]
            if "packed ports" in wary or plan.weights == "packed":
                found = [f for f in found if f.rule.id != "ANE061"]  # M1, M2: large values
            assert found == [], f"{spec} on {chip}"
    assert seen


SOME = [p for i, p in enumerate(PLANS) if i % 10 == 0] + ["all,weights=packed", "all"]


@pytest.mark.parametrize("chip", CHIPS)
def test_what_is_emitted_is_clean(chip):
    emitted_is_clean("gqa", chip, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("model,chip", [*product(CONFIGS, CHIPS)])
def test_everything_emitted_is_clean(model, chip):
    emitted_is_clean(model, chip, PLANS)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("norm", ["rms_norm", "layer_norm"])
def test_a_wide_norm_with_a_small_epsilon_is_clean(norm, chip):
    """What is squared was divided by its largest magnitude: ANE072 sees that it cannot overflow.
    The epsilon that a scaled residual stream needs would be 0 in fp16; its root is not (ANE076)."""
    x, dy = (ir.input(name, (1, 4096, 1, 32)) for name in ("a0", "a1"))
    y = getattr(ir, norm)(x, 1e-12)
    (dx,) = ir.gradients([y], [dy], [x])
    graph = ir.simplify(ir.Graph([x, dy], {"z0": y, "z1": dx}))
    inputs = [(str(t.name), t) for t in graph.inputs]
    program = ir.Program.cut("norm", inputs, list(graph.outputs.items()))
    mil.rules.check(program)
    text = mil.emit(program, CHIPS[chip].dialect).text
    assert [f for f in lint(text, None, Platform(CHIPS[chip])) if f.level != "note"] == []


def test_a_rule_stops_the_build_with_its_hint():
    x, y = (ir.input(n, (1, 8, 1, 32)) for n in "xy")
    with pytest.raises(ShapeError, match=r"sort in order.*Hint: .*\(ANE018\)"):
        mil.rules.check(ir.Program.cut("p", [("b", x), ("a", y)], [("z", x + y)]))


# A published report: maderix/ANE issue 24, negative results on M1 Pro, macOS 26.2


def rules_of(text: str, path: Path | None = None) -> dict[str, str]:
    return {f.rule.id: f.rule.severity for f in lint(text, path, M1_PRO) if f.level != "note"}


def test_report_weights_as_inputs():
    """Several inputs, fp32 of rank 3: descriptor nil."""
    assert rules_of(portable(EXAMPLES["ANE025"].bad))["ANE025"] == "parse"


def test_report_weights_in_the_channels():
    """conv by a weight that was sliced and reshaped out of the input: rejected at parse time."""
    assert rules_of(portable(EXAMPLES["ANE034"].bad)) == {"ANE034": "parse"}


def test_report_file_overwritten_after_the_compile(tmp_path):
    """A weight file changed under a compiled program: no effect, in silence."""
    weights = tmp_path / "weights" / "w.bin"
    weights.parent.mkdir()
    weights.write_bytes(blob(np.full((8, 8, 1, 1), 0.5, np.float16)))
    model = tmp_path / "model.mil"
    text = portable(BAKED)
    model.write_text(text)
    assert rules_of(text, model) == {}
    (tmp_path / "net.plist").write_bytes(b"what the compiler leaves")
    os.utime(tmp_path / "net.plist", ns=(0, weights.stat().st_mtime_ns + 1))
    assert rules_of(text, model) == {}
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 2))  # written again
    assert rules_of(text, model) == {"ANE088": "silent"}


# The command


def run(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as leave:
        command.main([str(a) for a in argv])
    code = leave.value.code
    assert isinstance(code, int)
    return code


def test_places_are_exact(tmp_path, capsys):
    path = tmp_path / "model.mil"
    path.write_text(MODERN.replace("groups = gr, ", "bias = W, groups = gr, "))
    assert run(path, "--format", "json", "--fail-on", "note") == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    (bias,) = [f for f in found if f["rule"] == "ANE032"]
    line = path.read_text().split("\n")[bias["line"] - 1]
    assert line[bias["column"] - 1 :].startswith("W, groups")
    assert bias["sources"] and bias["rewrite"] and bias["path"] == str(path)


def test_exit_codes(tmp_path, capsys):
    clean, bad = tmp_path / "clean.mil", tmp_path / "bad.mil"
    clean.write_text(EXAMPLES["ANE007"].good)
    bad.write_text(EXAMPLES["ANE008"].bad)  # a warning
    assert run(clean, "--chip", "m5") == 0
    assert run(bad, "--chip", "m5") == 1
    assert run(bad, "--chip", "m5", "--fail-on", "error") == 0
    assert run(tmp_path, "--fail-on", "never") == 0
    for wrong in (["nowhere.mil"], [bad, "--chip", "m9"], [bad, "--os", "x"], [], [tmp_path / "e"]):
        (tmp_path / "e").mkdir(exist_ok=True)
        capsys.readouterr()
        assert run(*wrong) == 2, wrong
        assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "raw").write_bytes(bytes(range(256)))
    assert run(tmp_path / "raw") == 2
    (tmp_path / "half.mil").write_bytes(b"\xffprogram(1.3) {")
    assert run(tmp_path / "half.mil") == 1  # text that cannot be read is a finding, with a place
    assert "half.mil:1:1: error ANE001" in capsys.readouterr().out


def test_a_dialect_nobody_has_seen():
    text = EXAMPLES["ANE007"].good
    for old, new, at in (("1.3", "2.0", (1, 9)), ("ios18", "ios15", (4, 15))):
        (found,) = [f for f in lint(text.replace(old, new)) if f.level != "note"]
        assert (found.rule.id, found.level, found.at) == ("ANE095", "warning", at)


@pytest.mark.parametrize("wrong", ["4294967296", "-8", "0"])
def test_parameters_that_cannot_be_read_are_one_finding(wrong):
    text = program("relu;", params=f"tensor<fp16, [1, {wrong}, 1, 32]> x")
    assert [f.rule.id for f in lint(text)] == ["ANE001"]


def test_a_byte_order_mark_is_taken_away(tmp_path, capsys):
    path = tmp_path / "m.mil"
    path.write_bytes(b"\xef\xbb\xbf" + EXAMPLES["ANE030"].bad.encode())
    assert run(path, "--chip", "m5") == 1
    assert "ANE098 a byte-order mark; what follows was not read" in capsys.readouterr().out
    assert run(path, "--chip", "m5", "--fix") == 0
    assert path.read_bytes().startswith(b"program")


def test_columns_of_characters_and_bytes(tmp_path, capsys):
    """Text counts bytes, as compilers do, its caret and SARIF count characters."""
    path = tmp_path / "m.mil"
    call = 'string("\u65e5\u672c")]; ' + op("rsqrt(x = r)")
    path.write_text(program(op("relu(x = x)", "r").replace('string("r")];', call)), "utf-8")
    assert run(path, "--chip", "m5") == 1
    place, line, caret, *_ = capsys.readouterr().out.split("\n")
    assert line[caret.index("^") :].startswith("rsqrt(x = r)")
    assert run(path, "--chip", "m5", "--format", "sarif") == 1
    (result,) = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    column = result["locations"][0]["physicalLocation"]["region"]["startColumn"]
    assert path.read_text("utf-8").split("\n")[4][column - 1 :].startswith("rsqrt(x = r)")
    assert int(place.split(":")[2]) == column + 4


def test_text_shows_the_line(tmp_path, capsys):
    path = tmp_path / "m.mil"
    path.write_text(EXAMPLES["ANE030"].bad)
    assert run(path, "--chip", "m5") == 1
    shown = capsys.readouterr().out.split("\n")
    assert re.match(rf"{path}:5:\d+: error ANE030 rsqrt has no epsilon \[epsilon\]", shown[0])
    assert shown[1][shown[2].index("^") :].startswith("rsqrt(x = x)")
    assert "refused at compile (every chip)" in shown[3] and "(--fix does)" in shown[4]


def test_fix_rewrites_files(tmp_path, capsys):
    paths = []
    for id in ("ANE006", "ANE030", "ANE008", "ANE047"):
        paths.append(tmp_path / f"{id}.mil")
        paths[-1].write_text(EXAMPLES[id].bad)
    os.chmod(paths[0], 0o640)
    assert run(tmp_path, "--chip", "m5", "--fix") == 0
    assert re.search(r"4 programs: clean; \d+ rewritten", capsys.readouterr().out)
    assert paths[0].stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    before = [p.stat().st_mtime_ns for p in paths]
    assert run(tmp_path, "--chip", "m5", "--fix") == 0
    assert before == [p.stat().st_mtime_ns for p in paths]  # nothing left to write


def test_a_compiled_model_folder(tmp_path):
    folder = tmp_path / "small.mlmodelc"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "w.bin").write_bytes(blob(np.ones((8, 8, 1, 1), np.float16)))
    (folder / "model.mil").write_text(BAKED)
    assert run(folder, "--chip", "m5") == 0
    (folder / "weights" / "w.bin").unlink()
    assert run(folder, "--chip", "m5") == 1


def test_folders_and_links_that_are_called_mil(tmp_path, capsys):
    (tmp_path / "a.mil").mkdir()
    (tmp_path / "a.mil" / "b.mil").write_text(EXAMPLES["ANE007"].good)
    assert run(tmp_path, "--chip", "m5") == 0
    (tmp_path / "c.mil").symlink_to("nowhere")
    assert run(tmp_path, "--chip", "m5") == 2
    assert capsys.readouterr().err.endswith("c.mil, a link to none.\n")


def test_sets_of_programs(tmp_path, capsys):
    text = EXAMPLES["ANE007"].good
    for i in range(121):
        (tmp_path / f"p{i:03}.mil").write_text(text)
    assert run(tmp_path, "--chip", "m5", "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [f["rule"] for f in found] == ["ANE092", "ANE093"]
    assert run(*sorted(tmp_path.iterdir())[:119], "--chip", "m5") == 0


def test_sarif(tmp_path, capsys):
    """The structure that SARIF 2.1.0 asks of a log, so far as code hosts read it."""
    path = tmp_path / "m.mil"
    path.write_text(EXAMPLES["ANE030"].bad)
    assert run(path, "--format", "sarif") == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    (one,) = log["runs"]
    driver = one["tool"]["driver"]
    assert driver["name"] and [r["id"] for r in driver["rules"]] == list(catalogue())
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] and rule["fullDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert one["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert one["results"]
    for result in one["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note") and result["message"]["text"]
        (place,) = result["locations"]
        region = place["physicalLocation"]["region"]
        assert region["startLine"] >= 1 and region["startColumn"] >= 1
        assert place["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")


def test_list_prints_every_rule_with_its_sources(capsys):
    assert run("--list") == 0
    listed = capsys.readouterr().out
    for id, rule in catalogue().items():
        assert re.search(rf"^{id} {rule.name}: ", listed, re.M)
        assert all(source in listed for source in (*rule.sources, *rule.against))


def test_outline_agrees_with_check():
    text = program(*EXAMPLES["ANE007"].good.split("\n")[4:6])
    (main,) = _C.check(text)["functions"]
    (seen,) = _C.outline(text.encode())["functions"]
    assert [op for op, _ in main["operations"]] == [o["op"] for o in seen["operations"]]
    for name, dtype, shape in main["outputs"]:
        (value,) = [v for v in seen["values"] if v["name"] == name]
        assert (value["dtype"], value["shape"]) == (dtype, shape)


# Small inputs of every kind that coremlc and others write

CASES = Path(__file__).parent.parent.parent / "shared" / "cases" / "mil"


@pytest.mark.parametrize(
    ("name", "chip", "wanted", "refused"),
    [
        ("function-attributes", "m4", set(), ""),
        ("op-attributes-dict-list", "m4", set(), ""),
        ("two-functions", "m4", set(), ""),
        ("mask-ops", "m4", set(), ""),
        ("sdpa-causal", "m4", set(), ""),
        ("matmul-32000-terms", "m4", set(), ""),
        ("matmul-32000-terms", "m3", {("ANE028", "error"), ("ANE038", "warning")}, ""),
        ("state-input", "m4", {("ANE060", "error"), ("ANE060", "warning")}, "state ports are not"),
        ("flexible-shape", "m4", {("ANE011", "error")}, "compile with fixed shapes"),
        ("op-opset-suffix-tensor-buffer", "m4", {("ANE001", "error")}, "not the tensor_buffer"),
    ],
)
def test_a_case(name, chip, wanted, refused):
    path = CASES / f"{name}.mil"
    if not path.is_file():
        pytest.skip(f"no {path}")
    text = path.read_bytes()
    found = lint(text, None, Platform(CHIPS[chip]))
    assert {(f.rule.id, f.level) for f in found if f.level != "note"} == wanted
    device = _C.Device("host")
    if refused:
        with pytest.raises(_C.MILError, match=refused):
            device.compile(text.decode(), {})
    else:
        device.compile(text.decode(), {}).unload()


def test_a_product_that_is_too_wide_for_a_conv_only():
    def found(terms: int, chip: str, call: str) -> list[tuple[str, str]]:
        text = f"""program(1.3)
{{
    func main<ios18>(tensor<fp16, [1, 1, 32, {terms}]> a, tensor<fp16, [1, 1, {terms}, 32]> b) {{
        bool n = const()[name = string("n"), val = bool(false)];
        tensor<fp16, [1, 1, 32, 32]> c = {call}[name = string("c")];
    }} -> (c);
}}
"""
        all_found = lint(text.encode(), None, Platform(CHIPS[chip]))
        return [(f.rule.id, f.level) for f in all_found if f.rule.id == "ANE038"]

    call = "matmul(transpose_x = n, transpose_y = n, x = a, y = b)"
    assert found(16384, "m1", call) == [] == found(32768, "m4", call)
    assert found(16416, "m1", call) == [("ANE038", "warning")]
    assert found(32800, "m4", call) == [("ANE038", "error")]


def test_uneven_ports_are_told_by_order():
    def level(params: str) -> list[str]:
        text = f"""program(1.3)
{{
    func main<ios18>({params}) {{
        tensor<fp16, [1, 8, 1, 32]> z = mul(x = a, y = b)[name = string("z")];
    }} -> (z);
}}
"""
        found = lint(text.encode(), None, Platform(CHIPS["m1"]))
        return [f.level for f in found if f.rule.id == "ANE094"]

    small, large = "tensor<fp16, [1, 1, 1, 32]>", "tensor<fp16, [1, 8, 1, 32]>"
    assert level(f"{small} a, {large} b") == ["note"]
    assert level(f"{large} a, {small} b") == ["warning"]
    assert level(f"{large} b, {small} a") == ["note"]  # bound as a, b
    assert level(f"{large} a, {large} b") == []

"""Cheaper spellings of a plan: the values of exact arithmetic, the cut law, and what they save."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast import ir
from anefast.chips.behaviour import CHIPS, find_chip
from anefast.config import ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.fuse.choose import weigh
from anefast.fuse.cost import modelled
from anefast.fuse.count import Counter
from anefast.fuse.legal import Target
from anefast.fuse.tasks import Tasks, of_nodes, per_layer
from anefast.mil import emit
from anefast.models import training_graph
from anefast.presets import preset_settings
from tests.test_cut_law import outcome
from tests.test_judges import CONFIGS

SPELLINGS = {
    "norm=row": ir.Spelling(norm="row"),
    "rope=conv": ir.Spelling(rope="conv"),
    "scale=early": ir.Spelling(scale="early"),
    "norm=row,rope=conv,scale=early": ir.Spelling("conv", "row", "early"),
}
DOCS = Path(__file__).parent.parent / "docs" / "chips.md"


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("config", CONFIGS)
def test_values_and_gradients_are_the_same_in_float64(name: str, config: str) -> None:
    """The judge is the composites' own meaning, which knows no spelling."""
    rng, found = np.random.default_rng(3), []
    usual = training_graph(CONFIGS[config], 2, 32)
    feeds = {str(t.name): rng.standard_normal(t.shape) for t in (*usual.inputs, *usual.parameters)}
    for spelling in (ir.USUAL, SPELLINGS[name]):
        graph = training_graph(CONFIGS[config], 2, 32, spelling)
        device = [t for t in graph.outputs if not t.startswith("grad.")]
        part = ir.Graph(graph.inputs, {t: graph.outputs[t] for t in device})
        found.append(ir.interpret(part, feeds, np.float64))
    for output, values in found[0].items():
        off = np.abs(found[1][output] - values).max()
        assert off <= 1e-12 * np.abs(values).max(), output


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "spec",
    [
        "layer", "all", "all,recompute", "layer,ports=packed,weights=packed",
        "all/unfused,weights=params",
    ],
)  # fmt: skip
def test_a_root_in_a_row_gives_the_same_bytes_under_any_cut(config: str, spec: str) -> None:
    loss, grads, _ = outcome(CONFIGS[config], find_plan("unfused,norm=row"))
    other_loss, other, _ = outcome(CONFIGS[config], find_plan(f"{spec},norm=row"))
    assert np.isfinite(loss) and other_loss == loss
    assert [name for name in grads if other[name] != grads[name]] == []


def test_a_root_in_a_row_is_near_the_scaled_one_and_is_not_the_default() -> None:
    config = CONFIGS["gqa"]
    usual, row = (outcome(config, find_plan(s)) for s in ("all", "all,norm=row"))
    assert usual == outcome(config, find_plan("all,norm=scaled"))
    assert usual[0] == pytest.approx(row[0], rel=1e-3) and usual[1] != row[1]
    for name, grad in usual[1].items():
        ours, theirs = (np.frombuffer(g, np.float32) for g in (grad, row[1][name]))
        assert np.linalg.norm(theirs - ours) <= 0.02 * np.linalg.norm(ours), name


def test_the_text_has_square_mean_sum_and_root_in_a_row() -> None:
    counter = Counter(CONFIGS["mha"], 1, 32)
    text = emit(counter.count(find_plan("layer,norm=row")).programs[0].lowered.program).text
    ops = [op for op in re.findall(r"> \w+ = (\w+)\(", text) if op != "const"]
    at = ops.index("square")
    assert ops[at : at + 4] == ["square", "reduce_mean", "add", "rsqrt"]
    assert "reduce_max(" not in text and "pow(" not in text


def test_an_epsilon_that_is_no_half_keeps_the_scaled_root() -> None:
    x = ir.input("x", (1, 8, 1, 32))
    made = [
        ir.simplify(ir.Graph([x], {"y": ir.rms_norm(x, epsilon, "row")}))
        for epsilon in (1e-5, 1e-9)
    ]
    assert [any(t.op == "square" for t in graph.nodes) for graph in made] == [True, False]


def test_an_early_scale_gives_the_same_bytes_where_it_is_a_power_of_two() -> None:
    sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96}
    config = ModelConfig(**sizes, vocab_size=48)
    assert config.head_dim == 16
    usual = outcome(config, find_plan("all"))
    assert outcome(config, find_plan("layer,scale=early"))[:2] == usual[:2]
    counter = Counter(config, 1, 32)
    text = emit(counter.count(find_plan("layer,scale=early")).programs[0].lowered.program).text
    product = re.search(r"> (\w+) = conv\(", text)
    assert product and f"= mul(x = {product[1]}, y = c_0_25)" in text


def test_a_run_learns_with_it(tmp_path: Path) -> None:
    small = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    losses = []
    for plan in ("all", "all,norm=row"):
        config = TrainConfig.from_preset("bytes", steps=25, plan=plan, out=str(tmp_path / plan))
        config = config.replace(
            model=config.model.replace(**small), sample_tokens=0, eval_every=0, eval_batches=2
        )
        config = config.replace(data=config.data.replace(source="stories:200", seq_len=64, batch=4))
        losses.append(anefast.fit(config).val_losses[-1][1])
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]


def test_plans_with_it_are_weighed_with_a_caution() -> None:
    chip, counter = find_chip("m4"), Counter(CONFIGS["mha"], 1, 32)
    found = weigh("layer,norm=row", counter, Target("m4", chip), modelled(chip))
    assert "a norm of such a stream is 0" in found.caution
    assert "norm=row" not in weigh("layer", counter, Target("m4", chip), modelled(chip)).caution


# What it saves.

STORIES110M = ModelConfig(**preset_settings("stories110m")["model"]).replace(n_layers=2)
ALL_THREE = "layer,norm=row,rope=conv,scale=early"
PLANS = ("layer", "layer,scale=early", "layer,rope=conv", "layer,norm=row", ALL_THREE)


def test_tasks_before_and_after_are_those_in_the_docs() -> None:
    counter, text = Counter(STORIES110M, 1, 256), DOCS.read_text("utf-8")
    forward: list[Tasks] = []
    for spec in PLANS:
        count = counter.count(find_plan(spec))
        m1, m4 = (per_layer(count, CHIPS[chip]) for chip in ("m1", "m4"))
        cells = [str(t) for found in (m1, m4) for t in found.values()]
        assert f"| `{spec}` | {' | '.join(cells)} |" in text
        forward.append(m4["forward"])
    assert [t.most for t in forward] == sorted((t.most for t in forward), reverse=True)
    assert forward[0].most - forward[-1].most >= 30


# The laws, each as the other project's records have it, by whole programs.


def tasks(y: ir.Tensor, *inputs: ir.Tensor, h13: bool = False) -> Tasks:
    """Of the program that computes y."""
    named = [(str(t.name), t) for t in inputs]
    return of_nodes(ir.Program.cut("law", named, [("z", y)]), h13)


X, Y = ir.input("x", (1, 1024, 1, 256)), ir.input("y", (1, 1024, 1, 256))
ROW = ir.input("row", (1, 1, 1, 256))
W = ir.parameter("w", (1024, 1024, 1, 1))
BIAS = ir.parameter("b", (1, 1024, 1, 1))


def layer_norm_like(x: ir.Tensor) -> ir.Tensor:
    return ir.reduce_mean(ir.square(x), 1) + 0.5


@pytest.mark.parametrize(
    ("value", "inputs", "law"),
    [
        (X + Y, (X, Y), 1),
        (X * 0.5, (X,), 1),
        (X / Y, (X, Y), 2),
        (X * ROW, (X, ROW), 2),
        (X * BIAS, (X,), 2),
        (ir.sigmoid(X), (X,), 1),
        (ir.reduce_sum(X, 1), (X,), 2),
        (ir.reduce_max(X, 1), (X,), 1),
        (ir.reduce_max(X, 3), (X,), 1),
        (ir.reduce_max(ir.abs(X), 1), (X,), 1),
        (layer_norm_like(X), (X,), 2),
        (ir.conv(X, W), (X,), 2),
        (ir.relu(ir.conv(X, W)), (X,), 2),
        (ir.conv(X, W) * 0.5, (X,), 2),
        (ir.conv(X, W) + BIAS, (X,), 2),
        (ir.conv(X, W) + Y, (X, Y), 3),
        (ir.relu(ir.conv(X, W) * 0.5), (X,), 3),
    ],
)
def test_a_law_of_single_operations(
    value: ir.Tensor, inputs: tuple[ir.Tensor, ...], law: int
) -> None:
    assert tasks(value, *inputs) == Tasks(law, law)


def test_what_others_read_is_not_fused() -> None:
    y = ir.conv(X, W)
    both = ir.Program.cut("law", [("x", X)], [("y", y), ("z", ir.relu(y))])
    assert of_nodes(both, h13=False) == Tasks(3, 3)


@pytest.mark.parametrize(("heads", "h13", "law"), [(1, False, 9), (8, False, 9), (8, True, 30)])
def test_attention_costs_what_its_law_says(heads: int, h13: bool, law: int) -> None:
    """9 tasks at 128 positions, on h13 three more for each further head."""
    q, k, v = (ir.input(n, (1, heads, 64, 128)) for n in "qkv")
    probs = ir.softmax(ir.matmul(q, k, transpose_x=True), -1)
    found = tasks(ir.matmul(v, probs, transpose_y=True), q, k, v, h13=h13)
    assert found.least <= law <= found.most and found.most - found.least < 8


def test_layers_share_what_is_counted() -> None:
    found = []
    for n in (1, 2):
        count = Counter(replace(STORIES110M, n_layers=n), 1, 256).count(find_plan("layer"))
        found.append(per_layer(count, CHIPS["m4"]))
    assert found[0] == found[1]

"""The cut law: the same graph cut and lowered in any way gives identical bytes on the host."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

import anefast
from anefast.fuse import cut, find_plan, lower_all
from anefast.models import shapes, training_graph
from anefast.runtime import TrainingStep
from tests.test_judges import CONFIGS, random_case

DEPTHS = ["unfused", "layer", "2", "all", "all/unfused", "unfused/all"]
PLANS = [
    ",".join(words)
    for words in product(
        DEPTHS,
        ["save", "recompute"],
        ["ports=several", "ports=packed"],
        ["weights=const", "weights=packed", "weights=params"],
    )
]


def outcome(config, plan, threads=2, batch=1):
    """(loss, gradients as bytes, evaluations) of one micro-step under a plan."""
    params, x, y = random_case(config, batch=batch, seed=5)
    device = anefast.Device("host", f"threads={threads}")
    step = TrainingStep(config, params, device, *x.shape, plan)
    loss, _ = step.micro_step(x, y, 32.0)
    step.wait()
    grads = {name: g.tobytes() for name, g in step.grads.items()}
    evaluations = step.compiled.evaluations
    step.close()
    return loss, grads, evaluations


@pytest.fixture(scope="module", params=list(CONFIGS))
def baseline(request):
    config = CONFIGS[request.param]
    loss, grads, _ = outcome(config, find_plan("unfused"))
    assert np.isfinite(loss)
    return config, loss, grads


@pytest.mark.parametrize("spec", PLANS)
def test_any_plan_gives_the_same_bytes(baseline, spec):
    config, loss, grads = baseline
    other_loss, other, _ = outcome(config, find_plan(spec))
    assert other_loss == loss
    assert [name for name in grads if other[name] != grads[name]] == []


@pytest.mark.parametrize(
    "words",
    [f"weights={w},norms={n}" for w, n in permutations(("const", "packed", "params"), 2)]
    + ["weights=params,norms=params"],
)
@pytest.mark.parametrize("way", ["layer,recompute", "all,ports=packed"])
def test_gains_may_lie_elsewhere_than_matrices(baseline, way, words):
    config, loss, grads = baseline
    assert outcome(config, find_plan(f"{way},{words}"))[:2] == (loss, grads)


@pytest.mark.parametrize("norms", ["const", "packed", "params"])
@pytest.mark.parametrize("weights", ["const", "packed", "params"])
def test_each_weight_lies_where_the_plan_says(weights, norms):
    config = CONFIGS["gqa"]
    graph = training_graph(config, 1, 64)
    plan = find_plan(f"all,weights={weights},norms={norms}")
    for low in lower_all(cut(graph, plan.key), plan):
        baked = {str(t.name) for t in low.program.nodes if t.op == "parameter"}
        held = {r.value.name for port in low.inputs for r in port.regions if not port.shared}
        held &= shapes(config).keys()
        for name in baked | held:
            place = norms if name.endswith("norm") else weights
            assert (name in baked) == (place == "const") != (name in held), name
        gains = [
            p for p in low.inputs if {r.value.shape for r in p.regions} == {(1, config.dim, 1, 1)}
        ]
        gains = [p for p in gains if not p.shared]
        assert len(gains) == (norms == "params")  # all of one length are one port
        assert low.changes == ("const" in (weights, norms))


@pytest.mark.parametrize("spec", ["layer", "all,recompute", "all,ports=packed,weights=params"])
def test_any_plan_gives_the_same_bytes_for_several_sequences(spec):
    config = CONFIGS["gqa"]
    assert (
        outcome(config, find_plan(spec), batch=3)[:2]
        == outcome(config, find_plan("unfused"), batch=3)[:2]
    )


def test_both_dialects_give_the_same_bytes():
    from dataclasses import replace

    config, plan = CONFIGS["gqa"], find_plan("unfused")
    assert outcome(config, plan) == outcome(config, replace(plan, dialect="ios16"))


def test_thread_count_changes_nothing():
    config, plan = CONFIGS["gqa"], find_plan("unfused")
    assert outcome(config, plan, threads=1) == outcome(config, plan, threads=2)


@pytest.mark.parametrize("words", ["", ",recompute"])
def test_evaluations_per_micro_step(words):
    config = CONFIGS["mha"]
    forward, backward = 2, 4 if not words else 2  # redoing attention joins its three parts
    layers = config.n_layers
    assert outcome(config, find_plan("unfused" + words))[2] == (forward + backward) * layers
    assert outcome(config, find_plan("layer" + words))[2] == 2 * layers
    assert outcome(config, find_plan("all" + words))[2] == 2


def test_packed_weights_need_one_sequence():
    with pytest.raises(ValueError, match=r"\[plan\] weights=packed needs a batch of one sequence"):
        outcome(CONFIGS["gqa"], find_plan("unfused,weights=packed"), batch=2)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [("unfusd", "unfused"), ("all,recompote", "recompute"), ("0", "one of"), ("", "one of")],
)
def test_unknown_plans_are_refused_with_a_hint(spec, hint):
    with pytest.raises(ValueError, match=hint):
        find_plan(spec)

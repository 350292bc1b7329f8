"""Frozen parameters: no gradient, no buffer, no compile; what is trained has the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import anefast
from anefast import checkpoint
from anefast.config import ConfigError, from_settings
from anefast.formats.safetensors import read_safetensors
from anefast.fuse import find_plan
from anefast.models import GRAD, init_params, matching, shapes, training_graph
from anefast.runtime import TrainingStep
from tests.test_judges import CONFIGS, random_case

CONFIG = CONFIGS["gqa"]
UNTIED = CONFIGS["wide heads, untied, scaled"]


def step_of(config, trained, spec="layer", batch=2):
    params, x, y = random_case(config, batch=batch, seed=5)
    plan = replace(find_plan(spec), trained=trained)
    return TrainingStep(config, params, anefast.Device("host"), *x.shape, plan), x, y


def gradients(config, trained, spec="layer"):
    step, x, y = step_of(config, trained, spec)
    loss, _ = step.micro_step(x, y, 32.0)
    step.wait()
    found = {name: g.tobytes() for name, g in step.grads.items()}
    step.close()
    return loss, found


@pytest.mark.parametrize("spec", ["unfused", "layer,recompute", "all", "all,weights=params"])
@pytest.mark.parametrize(
    ("config", "patterns"),
    [
        (CONFIG, "layers.1.*"),
        (CONFIG, "layers.0.attn.wq,norm"),
        (CONFIG, "tok_embeddings"),
        (CONFIG, "norm"),
        (UNTIED, "output"),
        (UNTIED, "output,layers.1.ffn.norm"),
        (UNTIED, "tok_embeddings,layers.1.attn.wo"),
    ],
)
def test_what_is_trained_has_the_same_gradients_and_nothing_else_has_any(config, patterns, spec):
    trained = matching(patterns, shapes(config), "train")
    full_loss, full = gradients(config, None, spec)
    loss, found = gradients(config, trained, spec)
    assert loss == full_loss
    assert set(found) == trained
    assert [name for name in found if found[name] != full[name]] == []


def test_backward_ends_at_the_lowest_trained_layer():
    every = shapes(CONFIG)
    graph = training_graph(CONFIG, 1, 32, trained=matching("layers.1.*", every, "train"))
    assert "dx" not in graph.outputs
    assert {n.scope.split(".")[1] for n in graph.nodes if n.direction == "backward"} == {"1"}
    step, *_ = step_of(CONFIG, matching("layers.1.*", every, "train"))
    assert [k.name for k in step.compiled.kernels] == [
        "forward.layers.0", "forward.layers.1", "backward.layers.1",
    ]  # fmt: skip
    full, *_ = step_of(CONFIG, None)
    assert (
        len(step.compiled.bound[0].made) == 1 < len(full.compiled.bound[0].made)
    )  # what the next layer reads, no more
    step.close()
    full.close()


def test_nothing_is_computed_backward_for_what_the_cpu_ends_the_model_with():
    graph = training_graph(CONFIG, 1, 32, trained=frozenset({"norm"}))
    assert list(graph.outputs) == ["h"]


def test_weight_gradients_are_those_of_the_trained():
    trained = matching("layers.1.*", shapes(CONFIG), "train")
    graph = training_graph(CONFIG, 1, 32, trained=trained)
    made = {n for n in graph.nodes if n.dtype == "fp32"}
    assert len(made) == len(trained) == len([n for n in graph.outputs if n.startswith(GRAD)])


def test_only_programs_with_changed_weights_are_compiled_again():
    step, *_ = step_of(CONFIG, matching("layers.1.ffn.*", shapes(CONFIG), "train"), "unfused")
    compiles = [k.compiles for k in step.compiled.kernels]
    step.params["layers.1.ffn.w1"] += 1
    step.update_weights()
    again = {
        k.name
        for k, before in zip(step.compiled.kernels, compiles, strict=True)
        if k.compiles > before
    }
    assert again == {"forward.layers.1.ffn", "backward.layers.1.ffn"}
    step.close()


@pytest.mark.parametrize("words", ["", ",recompute"])
def test_frozen_weights_are_baked_whatever_the_plan_does_with_others(words):
    trained = matching("layers.*.norm", shapes(CONFIG), "train")
    step, x, y = step_of(CONFIG, trained, f"all{words},weights=params")
    compiles = step.device.programs.counters.compiles
    first = step.micro_step(x, y, 32.0)[0]
    step.wait()
    for name in trained:
        step.params[name] *= np.float32(1.5)
    step.update_weights()
    assert step.micro_step(x, y, 32.0)[0] != first
    assert step.device.programs.counters.compiles == compiles == 2
    step.close()


def test_patterns_that_fit_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"train expected patterns .* got layers.7.\*, which"):
        matching("norm,layers.7.*", shapes(CONFIG), "train")


@pytest.mark.parametrize("words", [{}, {"optim": {"clip": 0.0, "accumulation": 1}}])
def test_a_run_trains_what_it_names_and_resumes_to_the_byte(tmp_path, words):
    def settings(steps, **more):
        values = {"model": {"dim": 32, "n_layers": 2, "n_heads": 2}, "train": "layers.1.*"}
        values |= {"data": {"source": "stories:20", "seq_len": 32, "batch": 2}, "steps": steps}
        values |= {
            "optim": {
                "accumulation": 2,
                "warmup_steps": 0,
                "min_lr_ratio": 1.0,
                **words.get("optim", {}),
            }
        }
        return from_settings({**values, "eval_every": 0, "sample_tokens": 0, **more})

    whole = anefast.fit(settings(4, out=str(tmp_path / "whole")))
    part = anefast.fit(settings(2, out=str(tmp_path / "part")))
    before = init_params(whole.model.config, 0)
    changed = {n for n, p in whole.model.params.items() if p.tobytes() != before[n].tobytes()}
    assert changed == matching("layers.1.*", before, "train")
    again = anefast.fit(settings(4, resume=str(part.run_dir)))
    assert again.losses == whole.losses
    for name, p in whole.model.params.items():
        assert p.tobytes() == again.model.params[name].tobytes(), name
    moments = read_safetensors(whole.run_dir / "step_000004" / checkpoint.OPTIM)
    assert {name.partition(".")[2] for name in moments} == changed

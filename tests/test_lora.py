"""LoRA: an adapter beside a baked base, in every plan, against float64, and without compiling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import anefast
from anefast.chips.behaviour import CHIPS
from anefast.fuse import find_plan
from anefast.fuse.choose import choose
from anefast.fuse.cost import modelled
from anefast.fuse.count import Counter
from anefast.fuse.legal import HOST, Target
from anefast.models import training_graph
from anefast.models.adapter import A, Adapter, B, Base, adaptable
from anefast.models.lora import Lora, draw
from anefast.runtime import Inference, TrainingStep
from tests.reference import loss_and_grads, relative_error
from tests.test_families import SMALL, awake
from tests.test_judges import CONFIGS, SCALE, random_case

CONFIG = CONFIGS["gqa"]
PLANS = [
    "unfused", "unfused,recompute", "unfused,ports=packed", "layer", "layer,recompute",
    "layer,ports=padded", "2,weights=params", "all", "all,recompute", "all,ports=packed",
    "all/unfused", "unfused/all,recompute",
]  # fmt: skip


def adapter_of(config, rank=4, alpha=6.0, rslora=False, awake=True, seed=0, names=""):
    """A drawn adapter; awake: B is not zero either."""
    targets = {n: s for n, s in adaptable(config).items() if names in n}
    adapter = draw(rank, alpha, rslora, targets, Base(), seed)
    rng = np.random.default_rng(seed + 1)
    for _, b in adapter.pairs.values():
        b += awake * (0.1 * rng.standard_normal(b.shape)).astype(np.float32)
    return adapter


def step_of(config, adapter, spec="layer", batch=2, device=None, seq=64):
    params, x, y = random_case(config, batch=batch, seq=seq, seed=5)
    lora = Lora.of(adapter)
    on = device or anefast.Device("host")
    return TrainingStep(config, params, on, *x.shape, find_plan(spec), lora=lora), x, y


def outcome(spec, adapter, config=CONFIG, batch=2):
    step, x, y = step_of(config, adapter, spec, batch)
    loss, tokens = step.micro_step(x, y, SCALE)
    step.end_update()
    grads = {name: grad.copy() for name, grad in step.grads.items()}
    step.close()
    return loss, grads, tokens


@pytest.mark.parametrize("gradients", ["device", "cpu"])
def test_any_plan_gives_the_same_bytes(gradients):
    adapter = adapter_of(CONFIG)
    loss, grads, _ = outcome(f"unfused,gradients={gradients}", adapter)
    for spec in PLANS:
        other_loss, other, _ = outcome(f"{spec},gradients={gradients}", adapter)
        assert other_loss == loss, spec
        assert {n: g.tobytes() for n, g in other.items()} == {
            n: g.tobytes() for n, g in grads.items()
        }, spec


def test_packed_weights_too():
    adapter = adapter_of(CONFIG)
    loss, grads, _ = outcome("layer", adapter, batch=1)
    packed_loss, packed, _ = outcome("layer,weights=packed,ports=packed", adapter, batch=1)
    assert packed_loss == loss
    assert all(packed[name].tobytes() == grad.tobytes() for name, grad in grads.items())


@pytest.mark.parametrize("gradients", ["device", "cpu"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("rank", "rslora"), [(4, False), (8, True), (11, False)])
def test_loss_and_gradients_against_float64(name, rank, rslora, gradients):
    """dA = s B^T dW and dB = s dW A^T of the merged model's dW, by the chain rule."""
    config, adapter = CONFIGS[name], adapter_of(CONFIGS[name], rank, 2.0 * rank, rslora)
    loss, grads, tokens = outcome(f"layer,gradients={gradients}", adapter, config)
    params, x, y = random_case(config, batch=2, seed=5)
    merged = {
        name: (p + adapter.scale * pair.b.astype(float) @ pair.a if pair else p)
        for name, p in params.items()
        for pair in [adapter.pairs.get(name)]
    }
    want_loss, dw, _ = loss_and_grads(merged, config, x, y)
    assert abs(loss - want_loss) / tokens < 1e-3
    assert grads.keys() == adapter.tensors().keys()
    got = Lora.of(adapter).plain(grads)
    for name, (a, b) in adapter.pairs.items():
        for end, want in ((A, b.T @ dw[name]), (B, dw[name] @ a.T)):
            error = relative_error(got[name + end] / SCALE, adapter.scale * want)
            assert error < 1e-2, (name + end, error)


def test_rows_that_pad_the_rank_stay_zero():
    step, x, y = step_of(CONFIG, adapter_of(CONFIG, rank=3))
    step.micro_step(x, y, SCALE)
    step.end_update()
    for name, grad in step.grads.items():
        assert len(grad) == 8 and grad[:3].any(), name
        assert not grad[3:].any() and not step.params[name][3:].any(), name
    step.close()


def test_micro_steps_add_up():
    step, x, y = step_of(CONFIG, adapter_of(CONFIG))
    step.micro_step(x, y, SCALE)
    step.wait()
    once = {name: grad.copy() for name, grad in step.grads.items()}
    step.micro_step(x, y, SCALE)
    step.wait()
    for name, grad in step.grads.items():
        assert np.array_equal(grad, 2 * once[name]), name
    step.begin_update()
    step.micro_step(x, y, SCALE)
    step.wait()
    assert all(np.array_equal(grad, once[name]) for name, grad in step.grads.items())
    step.close()


@pytest.mark.parametrize("family", SMALL)
def test_a_new_adapter_changes_no_bit_of_any_family(family):
    config = SMALL[family]
    params, device = awake(config), anefast.Device("host")
    tokens = [1, 5, 2, 7] * 10
    plain = Inference(config, params, device, find_plan("layer")).logits(tokens)
    new = Lora.of(adapter_of(config, awake=False))
    beside = Inference(config, params, device, find_plan("layer"), new).logits(tokens)
    assert np.array_equal(plain, beside)
    other = Lora.of(adapter_of(config))
    changed = Inference(config, params, device, find_plan("layer"), other).logits(tokens)
    assert not np.array_equal(plain, changed)


@pytest.mark.parametrize("family", SMALL)
def test_a_merged_model_is_the_model_and_its_adapter_within_rounding(family):
    config, device = SMALL[family], anefast.Device("host")
    params, adapter = awake(config), adapter_of(SMALL[family], alpha=2.0)
    tokens = [1, 5, 2, 7] * 10
    beside = Inference(config, params, device, find_plan("all"), Lora.of(adapter)).logits(tokens)
    merged = Inference(config, adapter.merged(params), device, find_plan("all")).logits(tokens)
    base = Inference(config, params, device, find_plan("all")).logits(tokens)
    assert relative_error(beside, merged) < 5e-3 < relative_error(base, merged)


THOUSAND = pytest.param(1000, marks=pytest.mark.slow)


@pytest.mark.parametrize("spec", ["unfused", "layer,recompute", "all", "all,recompute"])
@pytest.mark.parametrize("updates", [5, THOUSAND])
def test_no_update_compiles_anything(spec, updates):
    step, x, y = step_of(CONFIG, adapter_of(CONFIG), spec, batch=1, seq=32)
    compiled = step.device.programs.counters.compiles
    assert 0 < compiled <= len(step.compiled.kernels)  # those without weights are shared
    losses = []
    for _ in range(updates):
        step.begin_update()
        losses.append(step.micro_step(x, y, SCALE)[0])
        step.end_update()
        for name, grad in step.grads.items():
            step.params[name] -= np.float32(1e-5) * grad
        step.update_weights()
    assert losses[:5] == sorted(losses[:5], reverse=True) and losses[-1] < losses[0] - 0.5
    assert step.device.programs.counters.compiles == compiled
    assert step.compiler.per_update == 0
    step.close()


def test_a_second_run_on_the_same_base_compiles_nothing():
    device = anefast.Device("host")
    first, *_ = step_of(CONFIG, adapter_of(CONFIG, rank=5), device=device)
    first.close()
    compiled = device.programs.counters.compiles
    second, *_ = step_of(CONFIG, adapter_of(CONFIG, rank=8, seed=3), device=device)
    second.close()
    assert device.programs.counters.compiles == compiled


def test_adapters_are_swapped_without_compiling():
    adapters = [adapter_of(CONFIG, rank, alpha) for rank, alpha in ((4, 6.0), (8, 1.0), (4, 60.0))]
    device, params = anefast.Device("host"), random_case(CONFIG, seed=5)[0]
    tokens = list(range(40))
    inference = Inference(CONFIG, params, device, find_plan("layer"), Lora.of(adapters[0]))
    first = inference.logits(tokens)
    step, x, y = step_of(CONFIG, adapters[0], device=device)
    compiled = device.programs.counters.compiles
    for adapter in [*adapters[1:], adapters[0]]:
        inference.adapt(Lora.of(adapter))
        step.adapt(Lora.of(adapter))
        swapped, loss = inference.logits(tokens), step.micro_step(x, y, SCALE)[0]
        assert device.programs.counters.compiles == compiled
        alone = Inference(CONFIG, params, anefast.Device("host"), find_plan("layer"))
        assert not np.array_equal(swapped, alone.logits(tokens))
        fresh, *_ = step_of(CONFIG, adapter, device=anefast.Device("host"))
        assert fresh.micro_step(x, y, SCALE)[0] == loss
        fresh.close()
    assert np.array_equal(swapped, first)
    for adapts in (inference.adapt, step.adapt):
        with pytest.raises(ValueError, match=r"expected an adapter of the matrices and ranks"):
            adapts(Lora.of(adapter_of(CONFIG, rank=9)))
    step.close()
    inference.close()


def test_layers_below_the_lowest_pair_are_forward_only():
    config = CONFIG.replace(n_layers=4)
    lora = Lora.of(adapter_of(config, names="layers.2."))
    trained = frozenset(lora.params)
    graph = training_graph(config, 1, 32, trained=trained, ranks=lora.ranks)
    layers = {n.scope.split(".")[1] for n in graph.nodes if n.direction == "backward"}
    assert layers == {"2", "3"} and "dx" not in graph.outputs


def test_taps_of_adapters_are_not_kept_where_the_device_multiplies():
    sizes = {}
    for gradients in ("device", "cpu"):
        step, *_ = step_of(CONFIG, adapter_of(CONFIG), f"all,recompute,gradients={gradients}")
        sizes[gradients] = sum(2 * t.size for t in step.compiled.surfaces)
        step.close()
    assert 3 * sizes["device"] < sizes["cpu"]


def test_one_port_for_all_rows_of_a_length():
    step, *_ = step_of(CONFIG, adapter_of(CONFIG), "all,recompute")
    forward, backward = step.compiled.bound
    lengths = {size for shape in adaptable(CONFIG).values() for size in shape}
    assert len(forward.inputs) == 1 + len(lengths)  # x
    assert len(backward.inputs) == 2 + len(lengths)  # x, dh
    assert len(backward.outputs) == len(lengths)
    step.close()


def test_an_adapter_survives_the_layout_of_programs():
    adapter = adapter_of(CONFIG, rank=5, rslora=True)
    back = Lora.of(adapter).adapter()
    assert back.settings() == adapter.settings()
    assert all(np.array_equal(back.tensors()[n], a) for n, a in adapter.tensors().items())


def test_new_adapters_are_drawn_as_peft_draws_them():
    adapter = draw(64, 8.0, False, adaptable(CONFIG), Base(), 7)
    for name, (a, b) in adapter.pairs.items():
        bound = 1 / np.sqrt(a.shape[1])
        assert not b.any() and abs(a).max() <= bound, name
        assert abs(a.std() * np.sqrt(3) / bound - 1) < 0.05
    assert isinstance(adapter, Adapter)
    assert replace(adapter, rank=64).scale == 8 / 64


def test_a_chip_that_takes_one_input_has_the_adapter_ride_in_it():
    target = Target("m1", CHIPS["m1"], ports=("packed",))
    ranks = dict.fromkeys(adaptable(CONFIG), 8)
    rates = modelled(CHIPS["m1"])
    choice = choose(Counter(CONFIG, 1, 32, ranks=ranks), 1, target, rates)
    assert "weights=packed" in choice.spec and choice.winner.cost.count.compiles_per_update == 0
    assert max(len(p.lowered.inputs) for p in choice.winner.cost.count.programs) == 1
    with pytest.raises(
        ValueError, match=r"adapters as inputs of their own. Hint: with data.batch 1"
    ):
        choose(Counter(CONFIG, 2, 32, ranks=ranks), 1, target, rates)


@pytest.mark.parametrize("quicker", ["device", "cpu"])
def test_who_makes_gradients_is_what_takes_less_time_as_measured(quicker):
    counter = Counter(CONFIG, 1, 64, ranks=dict.fromkeys(adaptable(CONFIG), 8))
    slow = {"cpu_pair_flops" if quicker == "device" else "pair_flops": 1e6}
    rates = replace(modelled(CHIPS["m4"]), **slow)
    choice = choose(counter, 1, HOST, rates)
    assert find_plan(choice.spec).gradients == quicker
    costs = {c.spec: c.cost.per_micro_step(1) for c in choice.candidates if c.cost}
    assert costs[choice.spec] == min(costs.values())
    cut = choice.spec.removesuffix(",gradients=cpu")
    pairs = sum(p.pair_flops for p in counter.count(find_plan(cut)).programs)
    weights = [n for n, s in choice.winner.cost.count.trained_shapes.items()]
    assert pairs == sum(
        2 * 64 * np.prod(choice.winner.cost.count.trained_shapes[n]) for n in weights
    )
    assert abs(costs[f"{cut},gradients=cpu"] - costs[cut]) > 0.9 * pairs / 1e6
    for words in ("gradients=device", "gradients=cpu"):  # what was asked for stays
        asked = choose(counter, 1, HOST, rates, f"auto,{words}")
        assert words in asked.spec and all(words in c.spec for c in asked.candidates)

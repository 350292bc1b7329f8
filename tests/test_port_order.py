"""Ports as chips were seen to want them: in order of size, of one size, few, and what is tried
where a device refuses."""

from __future__ import annotations

import json
import logging
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast import _C, Model
from anefast.chips.behaviour import find_chip
from anefast.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.fuse.choose import choose
from anefast.fuse.cost import modelled
from anefast.fuse.count import Counter
from anefast.fuse.legal import HOST, Target, crowded, unseen
from anefast.fuse.level import level
from anefast.ir import Program
from anefast.presets import preset_settings
from anefast.runtime import Device
from anefast.runtime.doctor_facts import Learned
from anefast.tokenizer import open_tokenizer

CONFIG = ModelConfig(dim=96, n_layers=2, n_heads=6, n_kv_heads=2, hidden_dim=224, vocab_size=64)
SPECS = [
    "unfused", "layer", "all", "layer,recompute", "all,weights=params", "layer,weights=packed",
    "layer,recompute,weights=params", "all,ports=packed", "unfused,ports=padded,weights=packed",
]  # fmt: skip


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter(CONFIG, 1, 64)


def sizes(program: Program, side: str) -> list[int]:
    return [int(np.prod(t.shape)) for _, t in getattr(program, side)]


@pytest.mark.parametrize("spec", SPECS)
def test_inputs_rise_and_outputs_fall_in_bytes_as_in_names(counter: Counter, spec: str) -> None:
    mixed = 0
    for p in counter.count(find_plan(spec)).programs:
        program = p.lowered.program
        rising, falling = sizes(program, "inputs"), sizes(program, "outputs")
        assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
        for side in (program.inputs, program.outputs):
            names = [name for name, _ in side]
            assert names == sorted(names)
        mixed += len({*rising}) + len({*falling}) > 2
        weights = [port.regions[0].value.op == "parameter" for port in p.lowered.inputs]
        for same in {*rising}:  # of one size, weights come before activations
            of_size = [w for w, n in zip(weights, rising, strict=True) if n == same]
            assert of_size == sorted(of_size, reverse=True)
    assert mixed or "packed" in spec or "padded" in spec


def test_surfaces_of_a_side_are_as_large_as_the_largest_of_all_they_meet() -> None:
    sizes = {"a": 1, "b": 5, "c": 2, "d": 3, "e": 9}
    assert level([["a", "b"], ["b", "c"], ["d"]], sizes) == {"a": 5, "b": 5, "c": 5, "d": 3, "e": 9}


def test_what_equal_surfaces_cost_is_counted_where_they_are_equal(counter: Counter) -> None:
    def held(spec: str, target: Target) -> tuple[int, int]:
        count = counter.count(target.fitted(find_plan(spec)))
        return count.room_bytes, count.surface_bytes

    unseen = Target("m4", find_chip("m4"))
    looked_at = Target("m4", find_chip("m4"), seen=("exact",))
    for spec in SPECS:
        room, whole = held(spec, unseen)
        assert held(spec, looked_at) == held(spec, HOST) == (0, whole - room)
    assert held("layer", unseen)[0] > 0


def test_every_chip_is_cautious_of_many_and_of_mixed_ports_until_doctor_looked(
    counter: Counter,
) -> None:
    of = {spec: counter.count(find_plan(spec)) for spec in ("all", "layer", "unfused,ports=packed")}
    for name in ("m1", "m1-pro", "m2", "m3", "m4", "m4-max", "m5", "m6"):
        chip = find_chip(name)
        assert "many ports" in crowded(of["layer"], Target(name, chip))
        assert not crowded(of["unfused,ports=packed"], Target(name, chip))
        looked_at = Target(name, chip, ports=("several",), seen=("mixed",))
        assert not crowded(of["layer"], looked_at)
        assert "many ports" in crowded(of["all"], looked_at)
        assert not crowded(of["all"], Target(name, chip, seen=("mixed", "many")))
    assert not crowded(of["all"], HOST)


@pytest.mark.parametrize("name", ["m1", "m1-pro", "m3", "m4", "m5"])
def test_a_chip_nobody_looked_at_gets_the_fewest_ports(name: str) -> None:
    config, chip = ModelConfig(**preset_settings("stories15m")["model"]), find_chip(name)

    def chosen(target: Target) -> tuple[str, int, list[str]]:
        choice = choose(Counter(config, 1, 256), 100, target, modelled(chip))
        assert choice.winner.cost is not None
        programs = choice.winner.cost.count.programs
        ports = [len(side) for p in programs for side in (p.lowered.inputs, p.lowered.outputs)]
        return choice.spec, max(ports), choice.fallbacks

    spec, ports, fallbacks = chosen(Target(name, chip))
    assert "ports=packed" in spec and ports <= 2
    assert any("ports=padded" in f for f in fallbacks) and any("ports" not in f for f in fallbacks)
    assert len({*fallbacks}) == len(fallbacks) > 2
    seen = chosen(Target(name, chip, ("ios18",), ("const",), ("several",), ("mixed", "many")))
    assert "packed" not in seen[0] and not any("padded" in f for f in seen[2])


def refusing(pattern: str) -> Device:
    """An emulated chip that refuses programs whose text matches."""
    device = Device(chip="m4")
    device.learned = Learned()
    inner = device.programs._compile

    def compile(text: str, blobs: object, *key: str) -> object:
        if re.search(pattern, text):
            raise _C.CompileError("[m4] _ANECompiler : ANECCompile() FAILED")
        return inner(text, blobs, *key)

    device.programs._compile = compile  # type: ignore[assignment]
    return device


@pytest.fixture
def model() -> Model:
    tokenizer = open_tokenizer("bytes")
    return Model.from_config(CONFIG.replace(vocab_size=tokenizer.vocab_size), tokenizer)


def test_a_refused_plan_gives_way_to_the_next_with_a_warning(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    device = refusing(r"concat\(axis = axis_1\b")
    with caplog.at_level(logging.WARNING, "anefast"):
        step = model.training_step(device, 1, 64, "auto")
    first = caplog.messages[0]
    assert "ports=packed" in first and "was refused" in first and "ANECCompile" in first
    assert step.plan.ports == "padded" and f"Trying {step.plan.name}" in caplog.messages[-1]
    step.close()
    assert device.programs.live == len(device.programs._idle)  # the refused plans hold none


def test_a_plan_that_was_asked_for_is_not_exchanged(model: Model) -> None:
    with pytest.raises(_C.CompileError, match="ANECCompile"):
        model.training_step(refusing(r"concat\("), 1, 64, "layer")


def test_the_last_refusal_is_the_one_raised(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(_C.CompileError, match="ANECCompile"):
        model.training_step(refusing("program"), 1, 64, "auto")
    assert 2 < len(caplog.messages) < 8


GRADIENTS = ["layer", "all,rope=axis3", "layer,rope=conv", "all,recompute,rope=conv,ports=padded"]


def test_forms_of_rope_and_of_joining_give_the_same_bytes(model: Model) -> None:
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 1, 64), np.int32)
    found = []
    for spec in GRADIENTS:
        step = model.training_step(Device("host"), 1, 64, spec)
        text = "".join(kernel.text for kernel in step.compiled.kernels)
        if "padded" in spec:
            assert "concat(" not in text and "pad(" in text
        assert ("axis = axis_2" in text) == ("rope" not in spec)
        loss = step.micro_step(*tokens, 64.0)
        step.wait()
        found.append((loss, {name: grad.tobytes() for name, grad in step.grads.items()}))
        step.close()
    assert all(other == found[0] for other in found[1:])


def test_a_chip_without_concat_is_trained_on_all_the_same(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """mechramc/Orion lists concat among what its M4 Max refuses."""
    step = model.training_step(Device(chip="m4,refuse=concat"), 1, 64, "auto")
    assert step.plan.ports == "padded" and step.plan.rope == "conv"
    assert all("expected an operation this chip runs" in message for message in caplog.messages)
    step.close()


def test_what_doctor_saw_of_rope_is_what_plans_write() -> None:
    target = Target("m4", find_chip("m4"), seen=("rope=conv", "rope=axis3"))
    assert target.fitted(find_plan("layer")).rope == "conv"
    assert target.fitted(find_plan("layer,rope=axis3")).rope == "axis3"
    asked = target.fitted(find_plan("layer,rope=slices"))
    assert [v.limit for v in unseen(asked, target)] == ["rope=slices"]
    assert HOST.fitted(find_plan("layer")).rope == "slices"


def test_a_run_records_the_plan_that_was_taken(tmp_path: Path) -> None:
    """On a chip without concat, which auto's choice has."""
    config = TrainConfig(
        steps=1, eval_every=0, eval_batches=1, sample_tokens=0, plan="auto", out=str(tmp_path),
        model=ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=64),
        data=DataConfig(source="stories:40", seq_len=64, batch=1),
        optim=OptimConfig(accumulation=1),
    )  # fmt: skip
    result = anefast.fit(config, device=Device(chip="m4,refuse=concat"))
    recorded = tomllib.loads((result.run_dir / "config.toml").read_text())["plan"]
    assert "ports=padded" in recorded and "rope=conv" in recorded
    session = json.loads((result.run_dir / "env.json").read_text())["sessions"][0]
    assert session["surfaces"] == "exact"  # the host does not mind

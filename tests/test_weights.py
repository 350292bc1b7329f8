"""Weights that are read when somebody asks: what a loaded model keeps, and that nothing differs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import anefast
from anefast.files import FileError
from anefast.formats import save_folder, save_gguf
from anefast.models.adapter import Base, adaptable, fingerprint
from anefast.models.lora import draw
from anefast.models.weights import Weights, held, peeked, shapes_in
from anefast.tokenizer import ByteTokenizer

from .test_families import SMALL, awake

CONFIG = SMALL["llama"].replace(
    vocab_size=259, attention_bias=False, mlp_bias=False, sliding_window=0, rope_scaling=""
)
OWN = {"tok_embeddings", "norm", "output"}  # what the CPU computes with, at every step


@pytest.fixture(params=["hf", "gguf"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of others' formats."""
    to = tmp_path / request.param
    if request.param == "hf":
        save_folder(to, CONFIG, awake(CONFIG), tokenizer=ByteTokenizer())
    else:
        save_gguf(to, CONFIG, awake(CONFIG), "F32", ByteTokenizer())
    return to


def adapted(model: anefast.Model) -> anefast.Model:
    model.adapt(draw(4, 8.0, False, adaptable(model.config), Base(), 0))
    return model


def losses(model: anefast.Model, **of_step: object) -> list[float]:
    """Of two micro-steps, the second after weights have been taken over anew."""
    step = model.training_step(anefast.Device("host"), 1, 32, "layer", **of_step)
    x = np.arange(32, dtype=np.int32)[None]
    found = []
    for _ in range(2):
        found.append(step.micro_step(x, x, 64.0)[0])
        step.end_update()
        step.update_weights()
    step.close()
    return found


def test_an_adapter_leaves_its_base_in_the_file(path: Path) -> None:
    model = adapted(anefast.Model.load(path))
    assert fingerprint(model.params) == fingerprint(awake(CONFIG)) and not held(model.params)
    assert "259" in repr(model) and model.summary().weights and not held(model.params)
    found = losses(model)
    assert held(model.params).keys() == OWN & model.params.keys()
    eager = adapted(anefast.Model(CONFIG, awake(CONFIG), ByteTokenizer()))
    assert found == losses(eager)


def test_text_is_that_of_weights_in_memory(path: Path) -> None:
    lazy, eager = anefast.Model.load(path), anefast.Model(CONFIG, awake(CONFIG), ByteTokenizer())
    texts = [adapted(m).generate("Once", 12, temperature=0) for m in (lazy, eager)]
    assert texts[0] == texts[1]
    assert held(lazy.params).keys() == {"norm"}  # the tied table is kept in fp16 alone


def test_training_a_whole_model_reads_it_all_and_one_layer_that_layer(path: Path) -> None:
    eager = anefast.Model(CONFIG, awake(CONFIG), ByteTokenizer())
    whole, part = anefast.Model.load(path), anefast.Model.load(path)
    assert losses(whole) == losses(eager)
    assert held(whole.params).keys() == eager.params.keys()
    trained = frozenset(n for n in part.params if n.startswith("layers.1."))
    losses(part, trained=trained)
    assert held(part.params).keys() == trained | (OWN & part.params.keys())


def test_what_is_changed_in_a_weight_stays_and_is_computed_with(path: Path) -> None:
    lazy, eager = anefast.Model.load(path), anefast.Model(CONFIG, awake(CONFIG), ByteTokenizer())
    before = lazy.generate("Once", 12, temperature=0)
    for model in (lazy, eager):
        model.params["layers.0.ffn.w2"] *= -4
    texts = [model.generate("Once", 12, temperature=0) for model in (lazy, eager)]
    assert texts[0] == texts[1] != before
    assert fingerprint(lazy.params) == fingerprint(eager.params)


def test_a_change_after_the_programs_were_made_reaches_them(path: Path) -> None:
    model = adapted(anefast.Model.load(path))
    step = model.training_step(anefast.Device("host"), 1, 32, "layer")
    x = np.arange(32, dtype=np.int32)[None]
    first, _ = step.micro_step(x, x, 64.0)
    step.end_update()
    model.params["norm"][...] *= 2
    assert step.params["norm"] is model.params["norm"]
    assert step.micro_step(x, x, 64.0)[0] != first
    step.close()


def test_a_file_that_was_written_to_is_told_and_one_put_in_its_place_does_no_harm(
    path: Path, tmp_path: Path
) -> None:
    file = path / "model.safetensors" if path.is_dir() else path
    one, other = anefast.Model.load(path), anefast.Model.load(path)
    content = file.read_bytes()
    (tmp_path / "new").write_bytes(content)
    os.replace(tmp_path / "new", file)
    for name, value in peeked(one.params).items():
        assert np.array_equal(value, awake(CONFIG)[name])
    other = anefast.Model.load(path)
    file.write_bytes(content[:-64] + bytes(64))
    os.utime(file, ns=(1, 1))
    with pytest.raises(FileError, match="to stay as it was opened, it was written to since"):
        _ = other.params["norm"]


def test_tables_over_tables() -> None:
    a, b, c = (np.full(n, n, np.float32) for n in (1, 2, 3))
    below = Weights.of({"a": a, "b": b})
    above = below.over({"b": c, "c": c})
    assert list(above) == ["a", "b", "c"] and len(above) == 3 and "d" not in above
    assert above["b"] is c and below["b"] is b and shapes_in(above)["b"] == (3,)
    above["d"] = a
    del above["d"]
    assert list(below) == ["a", "b"]
    with pytest.raises(KeyError):
        above["d"]

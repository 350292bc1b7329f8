"""Ids that stand for nothing, tokens that begin documents, tokenizers that fit their models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anefast.config import ModelConfig
from anefast.formats import llama2c
from anefast.generate import GenerateConfig, generate
from anefast.loading import check_tokenizer
from anefast.model import Model
from anefast.models import init_params
from anefast.tokenizer import BPETokenizer, ByteTokenizer, drawable, open_tokenizer

CONFIG = ModelConfig(dim=32, n_layers=1, n_heads=2, vocab_size=512, max_seq_len=64)


def a_tokenizer_json(
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **changes: Any
) -> str:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra bpe is not installed")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.train_from_iterator(
        ["once upon a time"] * 9,
        tokenizers.trainers.BpeTrainer(
            vocab_size=290, special_tokens=list(special), show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    description = json.loads(inner.to_str())
    for name, value in changes.items():
        description[name] = value
    return json.dumps(description)


@pytest.mark.parametrize(
    "beside,bos,eos",
    [
        ({}, "<|endoftext|>", "<|endoftext|>"),
        ({"tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}},
         "<|im_start|>", "<|im_end|>"),
        ({"tokenizer_config.json": {"bos_token": {"content": "<|im_end|>", "lstrip": False}}},
         "<|im_end|>", "<|endoftext|>"),
        ({"tokenizer_config.json": {"bos_token": None, "eos_token": "<|im_end|>"}},
         "<|endoftext|>", "<|im_end|>"),
        ({"tokenizer_config.json": {"model_max_length": 9},
          "special_tokens_map.json": {"bos_token": "<|im_start|>"}},
         "<|im_start|>", "<|endoftext|>"),
        ({"tokenizer_config.json": {"bos_token": "<|endoftext|>"},
          "special_tokens_map.json": {"bos_token": "<|im_start|>"}},
         "<|endoftext|>", "<|endoftext|>"),
        ({"generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 0]}},
         "<|im_start|>", "<|im_end|>"),
        ({"config.json": {"bos_token_id": 0, "eos_token_id": 2}}, "<|endoftext|>", "<|im_end|>"),
        ({"state.json": {}}, "<|im_start|>", "<|endoftext|>"),  # a checkpoint of before
    ],
)  # fmt: skip
def test_marks_are_what_the_files_say(
    beside: dict[str, Any], bos: str, eos: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(a_tokenizer_json())
    for name, content in beside.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = open_tokenizer(tmp_path)
    assert isinstance(found, BPETokenizer)
    again = found
    for _ in range(2):
        names = [again._inner.id_to_token(i) for i in (again.bos_id, again.eos_id)]
        assert names == [bos, eos]
        assert again.encode("once", eos=True)[:: len(again.encode("once"))] == [
            again.bos_id,
            again.eos_id,
        ]
        found.save(tmp_path / "run")  # as a checkpoint has it
        (tmp_path / "run" / "state.json").write_text("{}")
        again = open_tokenizer(tmp_path / "run")  # type: ignore[assignment]


def test_marks_of_another_tokenizer_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(a_tokenizer_json())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<bos>"}')
    with pytest.raises(ValueError, match=r"'<bos>' that the files beside .* belong to another"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": ')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        open_tokenizer(tmp_path)
    only_end = tmp_path / "b"
    only_end.mkdir()
    (only_end / "tokenizer.json").write_text(a_tokenizer_json(special=("[SEP]",)))
    with pytest.raises(ValueError, match="a mark before each document"):
        open_tokenizer(only_end)
    (only_end / "config.json").write_text('{"eos_token_id": 0}')  # documents end in it
    assert open_tokenizer(only_end).bos_id == open_tokenizer(only_end).eos_id == 0


def test_what_a_file_asks_for_its_model_changes_no_text() -> None:
    """Truncation would drop the rest of each document, dropout draw other ids each time."""
    text = "once upon a time " * 40
    plain = BPETokenizer(a_tokenizer_json())
    model = {**json.loads(a_tokenizer_json())["model"], "dropout": 0.5}
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 999}, "direction": "Right", "pad_to_multiple_of": None,
           "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}  # fmt: skip
    for changes in ({"truncation": cut}, {"padding": pad}, {"model": model}):
        assert BPETokenizer(a_tokenizer_json(**changes)).encode(text) == plain.encode(text)


def with_holes() -> BPETokenizer:
    """A vocabulary that ends in a token far behind its others."""
    description = json.loads(a_tokenizer_json())
    extra = {**description["added_tokens"][0], "content": "<|far|>", "id": 400}
    vocabulary = {**description["model"]["vocab"], "<|far|>": 400}
    model = {**description["model"], "vocab": vocabulary}
    return BPETokenizer(
        a_tokenizer_json(model=model, added_tokens=[*description["added_tokens"], extra])
    )


def test_a_vocabulary_with_holes_counts_to_its_last_id() -> None:
    tok = with_holes()
    have = len(json.loads(a_tokenizer_json())["model"]["vocab"])
    assert tok.vocab_size == 401
    assert tok.unused == set(range(have, 400))
    assert drawable(tok, 512).tolist() == [*range(have), 400]
    assert drawable(tok, 300).tolist() == list(range(have))


def test_ids_that_stand_for_nothing_are_never_generated() -> None:
    for tokenizer in (ByteTokenizer(), with_holes()):
        params = init_params(CONFIG, 1)
        real = drawable(tokenizer, 512)
        padding = np.setdiff1d(np.arange(512), real)
        params["tok_embeddings"][padding] *= 40  # far likelier than any real id
        model = Model(CONFIG, params, tokenizer)
        choices = model.choices()
        assert choices is not None and choices.ids.tolist() == real.tolist()
        ids = list(model.stream("a", tokens=40, temperature=2.0, seed=3))
        assert ids and set(ids) <= set(real.tolist())
        model.generate("a", tokens=20, temperature=1.0)
    exact = CONFIG.replace(vocab_size=259)
    assert Model(exact, init_params(exact, 1), ByteTokenizer()).choices() is None


def test_a_tokenizer_of_another_size_needs_a_yes(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "m.bin"
    llama2c.save(path, CONFIG, init_params(CONFIG, 1))
    with pytest.raises(ValueError, match=r"tokenizer of 512 ids.*bytes has 259.*--padded"):
        Model.load(path, "bytes")
    assert Model.load(path, "bytes", padded=True).choices() is not None
    assert Model.load(path, str(data_dir / "tok512.bin")).choices() is None
    with pytest.raises(ValueError, match=r"expected a tokenizer for .*m\.bin"):
        Model.load(path)
    with pytest.raises(ValueError, match="tokenizer of 258 ids"):
        check_tokenizer(ByteTokenizer(), 258, padded=True)
    with pytest.raises(ValueError, match="bytes has 259"):
        generate(GenerateConfig(str(path), tokenizer="bytes", tokens=1, device="host"))


def test_generate_takes_the_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.bin"
    llama2c.save(path, CONFIG, init_params(CONFIG, 1))
    generate(
        GenerateConfig(
            str(path), prompt="Once", tokens=8, tokenizer="bytes", padded=True, device="host"
        )
    )
    assert capsys.readouterr().out.startswith("Once")

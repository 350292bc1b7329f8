"""Prompts with completions and chats: what is learnt, what is padded, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anefast
from anefast.data import DataError, open_data
from anefast.data.examples import IGNORED, Example, Examples
from anefast.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()


def written(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIRS = [{"prompt": f"{i}+{i}=", "completion": f"{2 * i}"} for i in range(40)]


def test_only_completions_are_learnt(tmp_path: Path) -> None:
    data = open_data(written(tmp_path, PAIRS), "bytes", val_fraction=0.25)
    x, y = data.batches(2, 32, order="sequential").batch(0)
    for i, (row, targets) in enumerate(zip(x, y, strict=True)):
        prompt, completion = (
            BYTES.encode(f"{i}+{i}="),
            BYTES.encode(f"{2 * i}", bos=False, eos=True),
        )
        ids = prompt + completion
        assert row[: len(ids)].tolist() == ids and (row[len(ids) :] == ids[-1]).all()
        wanted = [IGNORED] * (len(prompt) - 1) + completion
        assert targets[: len(wanted)].tolist() == wanted
        assert (targets[len(wanted) :] == IGNORED).all()
    assert len(data.train) + len(data.validation) == sum(
        len(BYTES.encode(p["prompt"] + p["completion"], eos=True)) for p in PAIRS
    )


def test_an_epoch_takes_every_example_once(tmp_path: Path) -> None:
    data = open_data(written(tmp_path, PAIRS), "bytes", val_fraction=0.25)
    batches = data.batches(5, 32, seed=3)
    assert batches.windows_per_epoch == 30
    seen = [tuple(row) for step in range(6) for row in batches.batch(step)[0]]
    assert len(set(seen)) == 30
    again = [tuple(row) for step in range(6, 12) for row in batches.batch(step)[0]]
    assert set(again) == set(seen) and again != seen


def test_validation_takes_every_example_and_pads_the_last_batch(tmp_path: Path) -> None:
    data = open_data(written(tmp_path, PAIRS), "bytes", val_fraction=0.25)
    batches = list(data.validation_batches(4, 32))
    assert [x.shape for x, _ in batches] == [(4, 32)] * 3
    answers = sum(int((y >= 0).sum()) for _, y in batches)
    assert answers == sum(len(p["completion"]) + 1 for p in PAIRS[30:])
    assert (batches[-1][1][2:] == IGNORED).all()
    assert len(list(data.validation_batches(4, 32, limit=1))) == 1


def test_what_does_not_fit_is_cut_or_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        *PAIRS,
        {"prompt": "p" * 40, "completion": "late"},
        {"prompt": "a", "completion": "b" * 90},
    ]
    data = open_data(written(tmp_path, [*rows, *PAIRS]), "bytes", val_fraction=0.01)
    with caplog.at_level(logging.WARNING, "anefast"):
        batches = data.batches(1, 32, order="sequential")
    assert "2 of 81 examples are cut after 33 tokens" in caplog.text
    assert "1 of 81 examples are skipped: no target within 32 tokens" in caplog.text
    x, y = batches.batch(40)
    assert BYTES.decode(x[0]) == "a" + "b" * 30 and (y[0, 1:] == BYTES.encode("b")[1]).all()
    data = open_data(written(tmp_path, [{"prompt": "p" * 40, "completion": "x"}] * 4), "bytes")
    with pytest.raises(DataError, match=r"examples whose answer begins within 32 tokens.*seq_len"):
        data.batches(1, 32)


def test_examples_do_not_see_each_other_or_their_padding(tmp_path: Path) -> None:
    """The loss of an example is the same whatever stands beside it and behind it."""
    config = anefast.TrainConfig.from_preset("bytes").model.replace(
        dim=32, n_layers=1, vocab_size=259
    )
    model = anefast.Model.from_config(config, BYTES)
    data = open_data(written(tmp_path, PAIRS), "bytes")
    found = []
    for batch, seq in ((1, 32), (2, 64)):
        step = model.training_step(anefast.Device("host"), batch=batch, seq=seq, plan="all")
        step.evaluate(*data.batches(batch, seq, order="sequential").batch(0))
        found.append(step.nll[0, :32].copy())
        step.close()
    assert found[0].tobytes() == found[1].tobytes() and found[0].any()


@pytest.mark.parametrize(
    "row,said",
    [
        ({"prompt": "a"}, "line 2 has prompt"),
        ({"prompt": 3, "completion": "b"}, "prompt and completion as strings"),
        ({"prompt": "a", "completion": ""}, "line 2 has an empty completion"),
        ({"text": "a"}, "line 2 has text.*rows of one file are alike"),
        (["a"], "line 2 has neither"),
        ({"messages": [{"role": "user", "content": "a"}]}, "bytes has none"),
    ],
)
def test_rows_that_are_no_examples_are_named(tmp_path: Path, row: Any, said: str) -> None:
    path = written(tmp_path, [PAIRS[0], row])
    with pytest.raises(DataError, match=said) as caught:
        open_data(path, "bytes")
    assert "\n" not in str(caught.value)


def test_an_edited_mask_is_other_data(tmp_path: Path) -> None:
    """The same ids, of which more is learnt."""
    moved = [{"prompt": p["prompt"][:-1], "completion": "=" + p["completion"]} for p in PAIRS]
    a, b = (open_data(written(tmp_path, rows), "bytes") for rows in (PAIRS, moved))
    assert a.train.read(0, len(a.train)).tobytes() == b.train.read(0, len(b.train)).tobytes()
    assert a.fingerprint != b.fingerprint and not a.matches(b.fingerprint)


def test_sums_are_learnt(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i % 10}+1=", "completion": f"{i % 10 + 1}."} for i in range(200)]
    config = anefast.TrainConfig.from_preset("bytes", steps=60, out=str(tmp_path / "run"))
    config = config.replace(
        data=config.data.replace(source=str(written(tmp_path, rows)), seq_len=32, batch=16),
        model=config.model.replace(dim=64, n_layers=1), eval_every=0, sample_tokens=0,
    )  # fmt: skip
    result = anefast.fit(config)
    assert result.val_losses[-1][1] < 0.1
    assert result.model.generate("4+1=", tokens=2, temperature=0) == "4+1=5."


def test_epochs_are_of_examples_and_rates_of_answers(tmp_path: Path) -> None:
    """Padding and prompts are read, but no token of them is trained on."""
    out, lines = tmp_path / "run", list[str]()
    config = anefast.TrainConfig.from_preset("bytes", steps=12, out=str(out))
    config = config.replace(
        data=config.data.replace(source=str(written(tmp_path, PAIRS)), seq_len=32, batch=4),
        model=config.model.replace(dim=32, n_layers=1), eval_batches=1, sample_tokens=0,
    )  # fmt: skip
    result = anefast.fit(config, show=lines.append)
    assert any(
        line.startswith("epochs: 1.3, as 12 updates of 4 examples read 36") for line in lines
    )
    answers = sum(len(BYTES.encode(p["completion"], bos=False, eos=True)) for p in PAIRS[:36])
    read = sum(len(BYTES.encode(p["prompt"] + p["completion"], eos=True)) for p in PAIRS[:36])
    assert any(f"; {answers} of {read:,} tokens are learnt" in line for line in lines)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    trained, seconds = 0, 0.0
    for before, row, timing in zip(rows[:-1], rows[1:], timings[1:], strict=True):
        now = row["tokens"] - before["tokens"]
        assert timing["tok_per_s"] * timing["ms"] / 1e3 == pytest.approx(now)
        trained, seconds = trained + now, seconds + timing["ms"] / 1e3
    assert 12 * 4 * 2 <= trained <= 12 * 4 * 3
    assert result.tokens_per_second == pytest.approx(trained / seconds, rel=1e-6)


def test_windows_of_one_long_example() -> None:
    examples = Examples([Example(range(3, 13), [False] * 4 + [True] * 6)], np.uint16)
    x, y = examples.window([0], 8)
    assert x[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert y[0].tolist() == [-1, -1, -1, 7, 8, 9, 10, 11]
    assert examples.fitting(3).tolist() == [] and examples.fitting(4).tolist() == [0]


# Chats.

TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    return chatty_in(tmp_path / "tokenizer")


def chatty_in(folder: Path) -> Path:
    """A new folder with a byte-level tokenizer, three marks and a template."""
    library = pytest.importorskip("tokenizers", reason="install anefast[bpe]")
    pytest.importorskip("jinja2", reason="install anefast[chat]")
    inner = library.Tokenizer(library.models.BPE())
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=259, initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(["a"], trainer)
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def talk(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def test_turns_of_the_assistant_are_learnt(tmp_path: Path, chatty: Path) -> None:
    rows = [talk("Hi", "Hello", "More", "Yes")] * 4
    data = open_data(written(tmp_path, rows), str(chatty))
    x, y = data.batches(1, 128).batch(0)
    text = data.tokenizer.decode([i for i in y[0] if i >= 0])
    assert text == "Hello\nYes\n"  # the marks, which are learnt as well, are no text
    assert (y == data.tokenizer.eos_id).sum() == 2
    assert (x[0] == data.tokenizer.bos_id).sum() == 4


@pytest.mark.parametrize(
    "row,said",
    [
        (talk("Hi"), "a turn of the assistant, .*line 2 has none"),
        (talk("Hi", "a<|im_end|>b"), r"turn 2 has <\|im_end\|>"),
        ({"messages": []}, "messages as a list of turns"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "line 2, turn 1 has"),
        ({"messages": [{"role": "user", "content": None}]}, "a content that is a string"),
    ],
)
def test_chats_that_are_none_are_named(tmp_path: Path, chatty: Path, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_data(written(tmp_path, [talk("Hi", "Ho"), row]), str(chatty))


@pytest.mark.parametrize(
    "template,said",
    [
        ("{% for %}", "expected a chat template"),
        ("{{ raise_exception('roles must alternate') }}", "line 1: roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|not safe|access"),
        ("{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "more than 4,194,304"),
        ("{{ 'ab' * 3000000000 }}", "more than 4,194,304"),
        ("{{ 3000000000 * messages }}", "more than 4,194,304"),
        ("{{ 9 ** (9 ** 9) }}", "a power of 387420489"),
        ("{{ messages | length }}", "only adds to what it wrote"),
    ],
)
def test_templates_that_go_wrong(tmp_path: Path, chatty: Path, template: str, said: str) -> None:
    settings = json.loads((chatty / "tokenizer_config.json").read_text())
    (chatty / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": template})
    )
    with pytest.raises(ValueError, match=said) as caught:
        open_data(written(tmp_path, [talk("Hi", "Ho")] * 3), str(chatty))
    assert "\n" not in str(caught.value)


def test_templates_get_what_transformers_gives_them(chatty: Path) -> None:
    """Its tag around what the assistant says, tools that are None, its `tojson`."""
    transformers = pytest.importorskip("transformers")
    from anefast.tokenizer import open_tokenizer
    from anefast.tokenizer.chat import Chat

    template = (
        "{% if tools is none and documents is none %}{% for m in messages %}{{ m.role }}: "
        "{% generation %}{{ m | tojson(sort_keys=true, separators=(',', ':')) }}\n"
        "{%- endgeneration %}|{% endfor %}{% endif %}"
    )
    settings = json.loads((chatty / "tokenizer_config.json").read_text())
    (chatty / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": template})
    )
    chat = Chat.of(open_tokenizer(chatty))
    judge = transformers.PreTrainedTokenizerFast.from_pretrained(chatty)
    turns = talk("Hi <b>é</b>", "Hello")["messages"]
    assert chat is not None
    assert chat.write(turns) == judge.apply_chat_template(turns, tokenize=False) != ""


def test_a_template_goes_with_the_run(tmp_path: Path, chatty: Path) -> None:
    """Into checkpoints and exports, and back out of them."""
    from anefast.tokenizer import open_tokenizer
    from anefast.tokenizer.gguf import pairs_of, tokenizer_of
    from anefast.tokenizer.huggingface import files_of

    tokenizer = open_tokenizer(chatty)
    tokenizer.save(tmp_path / "checkpoint")
    for name, content in files_of(tokenizer).items():
        (chatty / name).write_bytes(content)
    again = [open_tokenizer(tmp_path / "checkpoint"), open_tokenizer(chatty)]
    again.append(tokenizer_of(pairs_of(tokenizer), "m.gguf"))
    assert [t.chat_template for t in again] == [TEMPLATE] * 3

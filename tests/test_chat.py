"""Answers by a model's chat template: what is sent, what ends them, what is refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

import anefast
from anefast.config import ModelConfig
from anefast.formats import save_folder
from anefast.generate import GenerateConfig, generate
from anefast.loading import ModelError
from anefast.model import Model
from anefast.tokenizer import TokenizerError, open_tokenizer
from anefast.tokenizer.bpe import BPETokenizer
from anefast.tokenizer.chat import Chat

from .test_instruct import TEMPLATE, chatty, talk, written  # noqa: F401 - a fixture

SHAPE = ModelConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_seq_len=128)


@pytest.fixture
def tokenizer(chatty: Path) -> BPETokenizer:  # noqa: F811
    found = open_tokenizer(chatty)
    assert isinstance(found, BPETokenizer)
    return found


def with_template(tokenizer: BPETokenizer, template: str) -> Chat:
    return Chat(tokenizer, template)


def test_a_message_becomes_a_chat(tokenizer: BPETokenizer) -> None:
    ids = with_template(tokenizer, TEMPLATE).prompt("Hi")
    start, end = tokenizer.bos_id, tokenizer.eos_id
    assert ids.count(start) == 2 and ids.count(end) == 1 and ids[0] == start
    assert tokenizer.decode(ids) == "user\nHi\nassistant\n"


@pytest.mark.parametrize(
    "behind,mark",
    [
        ("'<|im_end|>'", "<|im_end|>"),
        ("'\n' + '<|endoftext|>' + '<|im_end|>'", "<|endoftext|>"),
        ("'\n'", None),
        ("raise_exception('no')", None),
    ],
)
def test_what_ends_an_answer_is_what_the_template_writes_behind_one(
    tokenizer: BPETokenizer, behind: str, mark: str | None
) -> None:
    template = TEMPLATE.replace("'<|im_end|>'", behind)
    wanted = {tokenizer.eos_id}
    wanted |= set(tokenizer.encode_marked(mark)) if mark else set()
    assert with_template(tokenizer, template).ends == wanted


def test_a_message_with_a_mark_is_refused(tokenizer: BPETokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"without marks of the template, got <\|im_end\|>"):
        with_template(tokenizer, TEMPLATE).prompt("a<|im_end|>b")


def test_a_model_without_a_template_says_so() -> None:
    model = Model.from_config(SHAPE, open_tokenizer("bytes"))
    with pytest.raises(ModelError, match="with a chat template, bytes has none"):
        model.reply("Hi")


def test_templates_ask_for_the_date(tokenizer: BPETokenizer) -> None:
    """As those of Llama 3.1 to 3.3 do."""
    from datetime import datetime

    years = {str(datetime.now().year)}
    said = with_template(tokenizer, "{{ strftime_now('%Y') }}").write([])
    assert said in years | {str(datetime.now().year)}


@pytest.fixture
def taught(tmp_path: Path, chatty: Path) -> Any:  # noqa: F811
    """A run that learnt to answer every message with "Yes", and the lines it printed."""
    rows = [talk(f"Q{i % 7}", "Yes") for i in range(40)]
    folder = tmp_path / "base"
    tokenizer = open_tokenizer(chatty)
    shape = SHAPE.replace(vocab_size=tokenizer.vocab_size)
    save_folder(folder, shape, Model.from_config(shape, tokenizer).params, "F32", tokenizer)
    config = anefast.TrainConfig.from_preset("bytes", steps=120, out=str(tmp_path / "run"))
    config = config.replace(
        data=config.data.replace(source=str(written(tmp_path, rows)), seq_len=32, batch=8),
        init=str(folder), model=ModelConfig(), eval_every=0, sample_tokens=20,
        optim=config.optim.replace(lr=0.01),
    )  # fmt: skip
    lines: list[str] = []
    result = anefast.fit(config, show=lines.append)
    return tmp_path / "run", result, lines


def test_a_chat_that_was_learnt_is_answered(taught: Any, capsys: pytest.CaptureFixture) -> None:
    """By the run, by the command, and in the closing sample: each ends where the turn does."""
    run, result, lines = taught
    assert result.sample.startswith("user\nQ") and result.sample.endswith("\nassistant\nYes")
    assert lines[-1].endswith(f'generate {run} --chat --prompt "Hello"')
    model = Model.load(run)
    assert model.reply("Q3", temperature=0) == "Yes"
    generate(GenerateConfig(str(run), prompt="Q3", chat=True, temperature=0))
    out, err = capsys.readouterr()
    assert out == "Yes\n" and "chat template" not in err
    generate(GenerateConfig(str(run), prompt="Q3", temperature=0, tokens=1))
    out, err = capsys.readouterr()
    assert out.startswith("Q3") and "--chat has it answer the prompt" in err


def test_a_named_prompt_of_the_closing_sample_is_a_message(tmp_path: Path, taught: Any) -> None:
    run, *_ = taught
    config = anefast.TrainConfig.from_preset("bytes", steps=1, init=str(run), prompt="Q5")
    config = config.replace(
        data=config.data.replace(source=str(tmp_path / "rows.jsonl"), seq_len=32, batch=8),
        model=ModelConfig(), out=str(tmp_path / "again"), sample_tokens=4, eval_every=0,
        optim=config.optim.replace(lr=0.0, warmup_steps=0),
    )  # fmt: skip
    assert anefast.fit(config).sample == "user\nQ5\nassistant\nYes"


def test_pairs_are_sampled_from_the_first_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(20)]
    config = anefast.TrainConfig.from_preset("bytes", steps=1, out=str(tmp_path / "run"))
    config = config.replace(
        data=config.data.replace(source=str(written(tmp_path, rows)), seq_len=32, batch=2),
        model=config.model.replace(dim=32, n_layers=1), sample_tokens=3, eval_every=0,
    )  # fmt: skip
    assert anefast.fit(config).sample.startswith("18+1=")


def test_warnings_of_a_file_come_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer that is learnt reads the text three times."""
    from anefast.data import open_data

    pytest.importorskip("tokenizers", reason="install anefast[bpe]")
    texts = {
        "table.txt": "a,b\n" * 400,
        "page.txt": "<!DOCTYPE html>\n<html>" + "<p>word</p>\n" * 400,
        "row.txt": json.dumps({"text": "a"}) + "\n" + "prose and more\n" * 400,
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "anefast"):
            open_data(path, "bpe:260")
        assert len(caplog.messages) == 1, (name, caplog.messages)
        assert re.search("(read as plain|learnt as) text", caplog.messages[0])

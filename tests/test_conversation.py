"""The command that talks: messages of several lines, history, and a context that is full."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from anefast.chat import ChatConfig, Conversation, read_message, talk
from anefast.model import Model
from anefast.runtime import Device
from anefast.tokenizer import open_tokenizer

from .test_chat import SHAPE
from .test_instruct import chatty  # noqa: F401 - a fixture


def lines(*given: str):
    rest = iter(given)

    def next_line() -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return next_line


def test_a_message_may_have_several_lines() -> None:
    given = lines("one", "a\\", "b\\", "c", '"""', "x", "", 'y"', '"""', "a\\")
    assert [read_message(given) for _ in range(3)] == ["one", "a\nb\nc", 'x\n\ny"']
    with pytest.raises(EOFError):
        read_message(given)


@pytest.fixture
def model(chatty: Path) -> Model:  # noqa: F811
    tokenizer = open_tokenizer(chatty)
    return Model.from_config(SHAPE.replace(vocab_size=tokenizer.vocab_size), tokenizer)


def test_answers_go_on_from_what_was_said(model: Model) -> None:
    device = Device("host")
    config = ChatConfig("a model", system="Be brief.", tokens=5, temperature=0)
    talked, parts = Conversation(config, model, device), []
    first = talked.answer("Hi", parts.append)
    assert "".join(parts) == first
    second = talked.answer("And?", parts.append)
    roles = [turn["role"] for turn in talked.turns]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    chat = model.chat()
    ids = chat.encode(chat.write(talked.turns[:4], answer=True))
    alone = model.stream(ids, 5, temperature=0, device=device, ends=chat.ends)
    assert model.tokenizer.decode(list(alone)) == second
    talked.reset()
    assert [turn["role"] for turn in talked.turns] == ["system"]


def test_a_full_context_forgets_the_oldest_and_says_so(
    model: Model, capsys: pytest.CaptureFixture
) -> None:
    talked = Conversation(ChatConfig("a model", tokens=8), model, Device("host"))
    for number in range(6):
        talked.answer(f"message {number} of some length", lambda _: None)
    assert "the context of 128 tokens is full: the oldest 1 were forgotten" in (
        capsys.readouterr().err
    )
    assert talked.turns[-2]["content"].startswith("message 5")
    assert talked.turns[0]["role"] == "user" and len(talked.turns) < 8


def test_the_command_reads_messages_and_prints_answers(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Model, "load", lambda *_: model)
    given = "Hi\n\n/new\na<|im_end|>b\nAgain\\\nand again\n/quit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    talk(ChatConfig("a model", tokens=4, temperature=0, device="host"))
    out, err = capsys.readouterr()
    assert err.count(" tok/s; ") == err.count("MiB of cache") == 2  # two answers
    assert "(4 tokens in " in err and "; cut off by --tokens 4)" in err
    assert "(a new conversation)" in err and "got <|im_end|>" in err
    assert out.endswith("\n") and "never" not in out

"""Chats as a model's own template writes them.

Templates are Jinja programs in a tokenizer's files, so they run in Jinja's sandbox, which gives
them neither attributes of Python objects nor files. The settings are those of transformers'
apply_chat_template. Jinja is the extra `chat`, imported on use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from anefast.errors import shown

from .base import Tokenizer, TokenizerError
from .bpe import BPETokenizer

LONGEST = 1 << 22  # characters of one chat
_ANSWER = "zqxj"  # what no template writes of itself


class Chat:
    """A tokenizer and its template."""

    def __init__(self, tokenizer: BPETokenizer, template: str) -> None:
        self.tokenizer = tokenizer
        self._marks = tokenizer.marks()
        self._template = _compiled(template, tokenizer.name)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Chat | None:
        """The chat of a tokenizer; None where its files have no template."""
        if not isinstance(tokenizer, BPETokenizer) or not tokenizer.chat_template:
            return None
        return cls(tokenizer, tokenizer.chat_template)

    def write(
        self, turns: Sequence[Mapping[str, str]], where: str = "", answer: bool = False
    ) -> str:
        """The text of some turns; answer: and how the assistant's next one begins.

        TokenizerError where the template refuses them, with what it says.
        """
        own = self.tokenizer
        bos, eos = own.text_of(own.bos_id), own.text_of(own.eos_id)
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(
                messages=list(turns), tools=None, documents=None,
                add_generation_prompt=answer, bos_token=bos, eos_token=eos,
            ):  # fmt: skip
                parts.append(part)
                size += len(part)
                if size > LONGEST:
                    raise ValueError(f"it wrote more than {LONGEST:,} characters")
        except Exception as error:  # a template may raise anything
            at = f" for {where}" if where else ""
            raise TokenizerError(
                f"[chat] expected the template of {self.tokenizer.name} to write the chat{at}: "
                f"{shown(error)}. Hint: mend the turns, their roles or their order."
            ) from None
        return "".join(parts)

    def encode(self, text: str, begins: bool = True) -> list[int]:
        """Ids of a part of what `write` gave; marks are whole tokens. begins: it is the first."""
        return self.tokenizer.encode_marked(text, begins)

    def prompt(self, message: str) -> list[int]:
        """Ids of a chat in which the user says `message`, up to where the answer begins.

        TokenizerError for a message that spells a mark, which would end the turn.
        """
        return self.ids([{"role": "user", "content": message}])

    def ids(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a chat of several turns; see `prompt`."""
        for turn in turns:
            if mark := self.mark_in(turn["content"]):
                raise TokenizerError(
                    f"[chat] expected a message without marks of the template, got {shown(mark)}. "
                    "Hint: the template writes them; give the words alone."
                )
        return self.encode(self.write(turns, answer=True))

    @cached_property
    def ends(self) -> frozenset[int]:
        """The ids that end an answer: EOS, and the mark that the template writes behind one."""
        turns = [("user", "a"), ("assistant", _ANSWER)]
        try:
            written = self.write([{"role": role, "content": text} for role, text in turns])
        except TokenizerError:  # it wants chats of another form
            written = ""
        rest = written.rpartition(_ANSWER)[2]
        places = {mark: at for mark in self._marks if (at := rest.find(mark)) >= 0}
        first = min(places, key=lambda mark: (places[mark], -len(mark)), default="")
        return frozenset([self.tokenizer.eos_id, *self.tokenizer.encode_marked(first)])

    def mark_in(self, text: str) -> str | None:
        """A special token that a text spells, or None."""
        return next((mark for mark in self._marks if mark in text), None)


def _compiled(template: str, name: str) -> Any:
    try:
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError(
            "[chat] chat templates need Jinja, which is not installed. "
            "Hint: pip install 'anefast[chat]'."
        ) from None

    class Generation(Extension):  # transformers' mark of what the assistant writes
        tags: set[str] = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):  # and no text or number of gigabytes
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            for times, part in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(part, "__len__"):
                    if times * len(part) > LONGEST:
                        raise ValueError(f"it makes more than {LONGEST:,} characters")
            if operator == "**" and isinstance(right, int) and right > 64:
                raise ValueError(f"it takes a power of {right}")
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return environment.from_string(template)
    except Exception as error:  # constants are computed now, which may fail in any way
        raise TokenizerError(
            f"[chat] expected a chat template in the files of {name}: "
            f"{shown(error) or type(error).__name__}. "
            "Hint: fetch them again."
        ) from None


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _now(form: str) -> str:
    """Today, for templates that tell the model the date."""
    return datetime.now().strftime(form)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)

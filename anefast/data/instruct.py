"""Prompts with completions, and chats, as examples: only what the model is to say is learnt.

    {"prompt": "2 + 2 =", "completion": " 4"}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

A chat is written by the template of the model's own tokenizer files, where each turn of the
assistant, its end mark included, is learnt. Marks of a template are whole tokens; a message that
spells one is refused, because it would end a turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anefast.data.error import DataError
from anefast.data.examples import Example
from anefast.data.rows import cleaned
from anefast.data.source import File
from anefast.data.text import opened
from anefast.errors import shown
from anefast.tokenizer import Tokenizer
from anefast.tokenizer.base import Cuts, prompt_ids
from anefast.tokenizer.chat import Chat

PROMPT, COMPLETION, MESSAGES = "prompt", "completion", "messages"
ROLES = ("system", "user", "assistant", "tool")
ANSWERS = "assistant"


def fields(file: File) -> set[str]:
    """The example fields that a file's first row has; none if the file is text."""
    if file.kind is not None:
        return set()
    reader, blocks = opened(file)
    row, _ = next(reader(blocks), (None, "")) if reader else (None, "")
    return row.keys() & {PROMPT, COMPLETION, MESSAGES} if isinstance(row, dict) else set()


def examples(file: File, tokenizer: Tokenizer) -> Iterator[Example]:
    """The examples of a file. DataError names file, line and reason if a row is not one."""
    reader, blocks = opened(file)
    if reader is None:
        raise DataError("rows of JSON", f"{file} is prose", "keep it in a folder of its own")
    chat: Chat | None = None
    for row, where in reader(blocks):
        if isinstance(row, dict) and MESSAGES in row:
            chat = chat or _chat_of(tokenizer, where)
            yield _turns(_messages(row[MESSAGES], where, chat), chat, where)
        else:
            yield _pair(row, where, tokenizer)


def _pair(row: Any, where: str, tokenizer: Tokenizer) -> Example:
    found = row if isinstance(row, dict) else {}
    texts = [found.get(PROMPT), found.get(COMPLETION)]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{PROMPT} and {COMPLETION} as strings, or {MESSAGES}",
            f"{where} has {', '.join(map(shown, sorted(map(str, found)))) or 'neither'}",
            "rows of one file are alike",
        )
    prompt, completion = (cleaned(str(text), where) for text in texts)
    if not completion:
        raise DataError("something to learn", f"{where} has an empty {COMPLETION}", "take it out")
    begun = prompt_ids(tokenizer, prompt)
    if isinstance(tokenizer, Cuts):
        told = [*tokenizer.encode_rest(completion), tokenizer.eos_id]
    else:
        told = tokenizer.encode(completion, bos=False, eos=True)
    return Example([*begun, *told], [False] * len(begun) + [True] * len(told))


def _chat_of(tokenizer: Tokenizer, where: str) -> Chat:
    found = Chat.of(tokenizer)
    if found is None:
        raise DataError(
            "a tokenizer with a chat template",
            f"{where} is a chat and {tokenizer.name} has none",
            f"write rows of {PROMPT} and {COMPLETION}, or use the model's own tokenizer files",
        )
    return found


def _messages(found: Any, where: str, chat: Chat) -> list[dict[str, str]]:
    """The turns of a chat, checked."""
    if not isinstance(found, list) or not found:
        raise DataError(f"{MESSAGES} as a list of turns", f"{where} has another", "mend that row")
    turns = []
    for number, turn in enumerate(found, 1):
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"a role ({', '.join(ROLES)}) and a content that is a string",
                f"{where}, turn {number} has {shown(turn, 80)}",
                "mend that row",
            )
        content = cleaned(content, where)
        if mark := chat.mark_in(content):
            raise DataError(
                "messages without marks of the template",
                f"{where}, turn {number} has {shown(mark)}",
                "take it out; it would end the turn",
            )
        turns.append({"role": role, "content": content})
    if all(turn["role"] != ANSWERS for turn in turns):
        raise DataError(f"a turn of the {ANSWERS}", f"{where} has none", "take it out")
    return turns


def _turns(turns: list[dict[str, str]], chat: Chat, where: str) -> Example:
    """A chat as its template writes it; the assistant's turns are the targets."""
    whole, at = chat.write(turns, where), 0
    ids: list[int] = []
    learnt: list[bool] = []

    def take(end: int, is_learnt: bool) -> None:
        nonlocal at
        found = chat.encode(whole[at:end], begins=at == 0)
        ids.extend(found)
        learnt.extend([is_learnt] * len(found))
        at = end

    for i, turn in enumerate(turns):
        if turn["role"] != ANSWERS:
            continue
        before = chat.write(turns[:i], where, answer=True)
        behind = chat.write(turns[: i + 1], where)
        if not (whole.startswith(behind) and behind.startswith(before) and at <= len(before)):
            raise DataError(
                "a chat template that only adds to what it wrote",
                f"that of {chat.tokenizer.name} writes turns anew when more follow ({where})",
                "train on one answer per row, or on rows of prompt and completion",
            )
        take(len(before), False)
        take(len(behind), True)
    take(len(whole), False)
    return Example(ids, learnt)

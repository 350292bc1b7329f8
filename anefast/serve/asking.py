"""Parses requests: bodies of OpenAI's endpoints become a `Wish`, or a refusal in their form.

What is left out is as on the command line. What is asked for and not done here is refused by name,
so nothing is ignored that would change the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from anefast.errors import AnefastError, shown
from anefast.model import Model
from anefast.sampling import TEMPERATURE, TOP_K, TOP_P, Choice

STOPS = 16  # strings that may end a text
TOP_OF_TEXT, TOP_OF_CHAT = 5, 20  # likeliest tokens per position, as OpenAI has it
SEEDS = 1 << 31

# What is of no effect on the text, and what this server does not do unless it asks for nothing.
IDLE = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
NOTHING: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "reasoning_effort": (None, "none"),
}


class Refusal(AnefastError):
    """A refused request: an HTTP status, and the reason in OpenAI's form."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's libraries read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


@dataclass(frozen=True)
class Wish:
    """A checked request: `n` texts behind each prompt, with seeds from choice.seed on.

    logs: whether log-probabilities are wanted, and top: of how many of the likeliest as well.
    """

    prompts: list[list[int]]
    choice: Choice
    tokens: int
    n: int
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    logs: bool
    top: int
    chat: bool


class Body:
    """A JSON object, read key by key; `close` refuses keys that were not read."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise Refusal(400, f"[serve] expected a JSON object, got {shown(repr(value), 60)}.")
        self._value: dict[str, Any] = value
        self._read: set[str] = set()

    def get(self, key: str, kind: Callable[[Any], bool], what: str, default: Any) -> Any:
        """The checked value of a key; the default if it is missing or null."""
        self._read.add(key)
        value = self._value.get(key)
        if value is None:
            return default
        if not kind(value):
            refuse(key, what, value)
        return value

    def whole(self, key: str, least: int, most: int, default: int) -> int:
        """The integer of a key, within a range."""
        found: int = self.get(
            key, lambda v: is_whole(v) and least <= v <= most, f"{least} to {most}", default
        )
        return found

    def number(self, key: str, least: float, most: float, default: float) -> float:
        """The number of a key, within a range."""
        fits = lambda v: is_number(v) and least <= v <= most  # noqa: E731
        return float(self.get(key, fits, f"{least:g} to {most:g}", default))

    def flag(self, key: str) -> bool:
        """A boolean; False if the key is missing."""
        return bool(self.get(key, lambda v: isinstance(v, bool), "true or false", False))

    def close(self) -> None:
        """Refuses keys that were not read, except those that have no effect."""
        for key, value in self._value.items():
            if key in self._read or key in IDLE:
                continue
            if key not in NOTHING:
                raise Refusal(
                    400, f"[serve] {shown(repr(key), 60)} is not an argument of this endpoint.", key
                )
            if not any(type(value) is type(idle) and value == idle for idle in NOTHING[key]):
                if not (is_number(value) and value == 0 and 0 in NOTHING[key]):
                    raise Refusal(
                        400,
                        f"[serve] {key} is not supported, got {shown(repr(value), 60)}. "
                        "Hint: leave it out.",
                        key,
                        "unsupported_parameter",
                    )


def read_wish(value: Any, chat: bool, model: Model, name: str, most: int, tokens: int) -> Wish:
    """A body of /v1/completions, or of /v1/chat/completions. Refusal where it cannot be answered.

    name: of the model. most: texts of a request. tokens: of a text that does not say how many.
    """
    body = Body(value)
    asked = body.get("model", lambda v: isinstance(v, str), "a name", name)
    if asked != name:
        raise Refusal(
            404,
            f"[serve] there is no model {shown(repr(asked), 60)} here, only {shown(repr(name))}.",
            "model",
            "model_not_found",
        )
    n = body.whole("n", 1, most, 1)
    limit = model.config.max_seq_len
    if chat:
        top = body.whole("top_logprobs", 0, TOP_OF_CHAT, 0)
        logs = body.flag("logprobs")
        if top and not logs:
            refuse("top_logprobs", "logprobs to be true with it", top)
        tokens = body.whole("max_tokens", 0, 1 << 31, tokens)
        tokens = body.whole("max_completion_tokens", 0, 1 << 31, tokens)
        prompts = [chat_ids(body, model)]
    else:
        top = body.whole("logprobs", 0, TOP_OF_TEXT, -1)
        logs, top = top >= 0, max(0, top)
        tokens = body.whole("max_tokens", 0, 1 << 31, tokens)
        prompts = prompt_ids(body, model)
        if len(prompts) * n > most:
            refuse("prompt", f"at most {most} texts, prompts times n,", len(prompts) * n)
    for ids in prompts:
        if not 0 < len(ids) <= limit:
            raise Refusal(
                400,
                f"[serve] the model's context is {limit} tokens, and the prompt has {len(ids)}.",
                "messages" if chat else "prompt",
                "context_length_exceeded",
            )
    choice = Choice(
        body.number("temperature", 0, 100, TEMPERATURE),
        body.whole("top_k", 0, 1 << 31, TOP_K),
        body.number("top_p", 0, 1, TOP_P),
        body.number("min_p", 0, 1, 0.0),
        body.number("repetition_penalty", 0, 100, 1.0),
        body.whole("seed", 0, (1 << 63) - 1, secrets.randbelow(SEEDS)),
    )
    stops = body.get("stop", are_stops, f"a string or up to {STOPS}, none of them empty", ())
    stream = body.flag("stream")
    options = Body(body.get("stream_options", lambda v: stream, "stream to be true with it", {}))
    usage = options.flag("include_usage")
    options.flag("include_obfuscation")
    options.close()
    body.close()
    try:
        choice.check(tokens)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    return Wish(prompts, choice, tokens, n, stops, stream, usage, logs, top, chat)


def prompt_ids(body: Body, model: Model) -> list[list[int]]:
    """One prompt or several, each a text or its ids."""
    size = model.config.vocab_size
    what = f"a text or several, or ids 0 to {size - 1}"
    given = body.get("prompt", lambda v: isinstance(v, (str, list)), what, "")
    several = given if isinstance(given, list) and not all(map(is_whole, given)) else [given]
    found: list[list[int]] = []
    for one in several:
        if isinstance(one, str):
            found.append(model.prompt_ids(one))
        elif isinstance(one, list) and one and all(is_whole(i) and 0 <= i < size for i in one):
            found.append(list(one))
        else:
            refuse("prompt", what, one)
    return found


def chat_ids(body: Body, model: Model) -> list[int]:
    """The ids of a chat, up to where the answer begins."""
    what = "a list of messages, each with a role and a content"
    given = body.get("messages", lambda v: isinstance(v, list) and v != [], what, None)
    if given is None:
        refuse("messages", what, None)
    turns: list[dict[str, str]] = []
    for turn in given:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            refuse("messages", what, turn)
        if extra := set(turn) - {"role", "content", "refusal"}:
            refuse("messages", "a role and a content, and nothing else,", sorted(extra)[0])
        turns.append({"role": turn["role"], "content": content_of(turn.get("content"))})
    try:
        return model.chat().ids(turns)
    except (ValueError, ImportError) as error:
        raise Refusal(400, str(error), "messages") from None


def content_of(content: Any) -> str:
    """The text of a message: a string, or parts of type text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in parts:
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            refuse("messages", "contents of text", part)
        texts.append(part["text"])
    return "".join(texts)


def refuse(key: str, what: str, got: Any) -> NoReturn:
    """A Refusal that names the argument."""
    raise Refusal(400, f"[serve] expected {key} to be {what}, got {shown(repr(got), 60)}.", key)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_whole(value) or isinstance(value, float)


def are_stops(value: Any) -> bool:
    found = [value] if isinstance(value, str) else value
    return (
        isinstance(found, list)
        and len(found) <= STOPS
        and all(isinstance(s, str) and s for s in found)
    )

"""Replies: texts in the JSON of OpenAI's two endpoints, whole or part by part."""

from __future__ import annotations

import secrets
import time
from itertools import accumulate
from typing import Any

from anefast.serve.asking import Wish
from anefast.serve.worker import Part, Token
from anefast.tokenizer import Tokenizer

JSON = dict[str, Any]


class Answer:
    """One request's answer as its parts come."""

    def __init__(self, wish: Wish, model: str, tokenizer: Tokenizer) -> None:
        self._wish, self._tokenizer = wish, tokenizer
        kind = "chat.completion" if wish.chat else "text_completion"
        self._id = f"{'chatcmpl' if wish.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._head = {"id": self._id, "object": kind, "created": int(time.time()), "model": model}
        count = len(wish.prompts) * wish.n
        self._texts = [""] * count
        self._logs: list[list[Token]] = [[] for _ in range(count)]
        self._finish: list[str | None] = [None] * count
        self._made = 0

    @property
    def done(self) -> bool:
        """True if every text has its end."""
        return None not in self._finish

    def begin(self) -> list[JSON]:
        """The chunks that come before the first part."""
        if not self._wish.chat:
            return []
        first = {"role": "assistant", "content": ""}
        return [self._chunk([self._choice(i, first, [], None)]) for i in range(len(self._texts))]

    def add(self, part: Part) -> JSON:
        """Adds a part. Returns its chunk, for a client that streams."""
        offset = len(self._texts[part.index])
        self._texts[part.index] += part.text
        self._logs[part.index] += part.tokens
        self._finish[part.index] = part.finish
        self._made += len(part.tokens)
        said = {"content": part.text} if self._wish.chat else part.text
        return self._chunk([self._choice(part.index, said, part.tokens, part.finish, offset)])

    def end(self) -> list[JSON]:
        """The chunks behind the last part."""
        if not self._wish.usage:
            return []
        return [self._chunk([]) | {"usage": self._usage()}]

    def whole(self) -> JSON:
        """The whole answer."""
        choices = []
        for i, text in enumerate(self._texts):
            choice = self._choice(i, text, self._logs[i], self._finish[i])
            if self._wish.chat:
                del choice["delta"]
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            choices.append(choice)
        return self._head | {"choices": choices, "usage": self._usage()}

    def _usage(self) -> JSON:
        read = sum(map(len, self._wish.prompts))
        made = {"prompt_tokens": read, "completion_tokens": self._made}
        return made | {"total_tokens": read + self._made}

    def _chunk(self, choices: list[JSON]) -> JSON:
        kind = "chat.completion.chunk" if self._wish.chat else "text_completion"
        usage = {"usage": None} if self._wish.usage else {}
        return self._head | {"object": kind, "choices": choices} | usage

    def _choice(
        self, index: int, said: Any, tokens: list[Token], finish: str | None, offset: int = 0
    ) -> JSON:
        logs = None
        if self._wish.logs and (tokens or not self._wish.chat):
            logs = self._chat_logs(tokens) if self._wish.chat else self._text_logs(tokens, offset)
        key = "delta" if self._wish.chat else "text"
        return {"index": index, key: said, "logprobs": logs, "finish_reason": finish}

    def _piece(self, token: int, previous: int) -> tuple[str, list[int]]:
        raw = self._tokenizer.piece(token, previous)
        return raw.decode("utf-8", "replace"), list(raw)

    def _chat_logs(self, tokens: list[Token]) -> JSON:
        def one(token: int, previous: int, p: float) -> JSON:
            text, raw = self._piece(token, previous)
            return {"token": text, "logprob": p, "bytes": raw}

        content = [
            one(t.id, t.previous, t.log_probability)
            | {"top_logprobs": [one(i, t.previous, p) for i, p in t.likeliest]}
            for t in tokens
        ]
        return {"content": content, "refusal": None}

    def _text_logs(self, tokens: list[Token], offset: int) -> JSON:
        texts = [self._piece(t.id, t.previous)[0] for t in tokens]
        offsets = list(accumulate(map(len, texts), initial=offset))[: len(texts)]
        tops = [{self._piece(i, t.previous)[0]: p for i, p in t.likeliest} for t in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [t.log_probability for t in tokens],
            "top_logprobs": tops if self._wish.top else None,
            "text_offset": offsets,
        }

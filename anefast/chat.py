"""`anefast chat MODEL`: a conversation with a model, by the chat template of its tokenizer files.

A line is a message. One that ends in a backslash goes on in the next; so does what follows a line
of three double quotes, up to another. `/new` forgets the conversation, `/quit` or the end of the
input leaves; Ctrl-C ends an answer. Answers go to standard output as they are made, all else to
standard error, so that messages can be piped in and answers out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.cli import command
from anefast.config import GuardConfig
from anefast.decode import Made
from anefast.errors import visible
from anefast.model import Model
from anefast.runtime import Device
from anefast.runtime.watchdog import watching
from anefast.sampling import TEMPERATURE, TOKENS, TOP_K, TOP_P, Choice
from anefast.telemetry.screen import is_terminal
from anefast.tokenizer import Stream

FENCE = '"""'
HELP = 'a message; \\ at its end or """ around it for more lines; /new, /quit'


@dataclass(frozen=True)
class ChatConfig:
    """Talk with a model by its chat template."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, or a GGUF file.
    model: Annotated[str, tyro.conf.Positional]
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    system: str = ""  # Instructions for the model, before the first message.
    tokens: int = TOKENS  # At most this many tokens per answer.
    temperature: float = TEMPERATURE  # 0 takes the likeliest token; higher is more varied.
    top_k: int = TOP_K  # Sample from the k likeliest tokens only; 0 is off.
    # Sample from the likeliest tokens only, those that together have this probability; 1 is off.
    top_p: float = TOP_P
    # Sample from tokens at least this many times as likely as the likeliest one; 0 is off.
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # Above 1, tokens that the text already has are less likely.
    seed: int = 0  # The same seed and messages give the same answers.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.


class Conversation:
    """Turns, and the model that answers them."""

    def __init__(self, config: ChatConfig, model: Model, device: Device) -> None:
        self._config, self._model, self._device = config, model, device
        self._chat = model.chat()
        self.turns: list[dict[str, str]] = []
        self.told = ""  # about the last answer, for people
        self.reset()

    def reset(self) -> None:
        """Forgets all turns."""
        system = self._config.system
        self.turns = [{"role": "system", "content": system}] if system else []

    def mark_in(self, message: str) -> str | None:
        """A mark of the template that a message spells, which would end the turn; or none."""
        return self._chat.mark_in(message)

    def answer(self, message: str, show: Callable[[str], None]) -> str:
        """Answers a message, showing the text as it grows. Oldest turns are forgotten, with a word,
        where the context could not hold them and an answer."""
        self.turns.append({"role": "user", "content": message})
        config, text, made = self._config, Stream(self._model.tokenizer), Made()
        parts: list[str] = []
        tokens = self._model.stream(
            self._prompt(), config.tokens, config.temperature, config.top_k, config.top_p,
            config.seed + len(self.turns), self._device, self._chat.ends, config.min_p,
            config.repetition_penalty, made=made,
        )  # fmt: skip
        begun = time.perf_counter()
        try:
            for token in tokens:
                parts.append(text.push(token))
                show(parts[-1])
        except KeyboardInterrupt:
            tell("(the answer ends here)")
        parts.append(text.close())
        show(parts[-1])
        seconds, cut = time.perf_counter() - begun, made.tokens == config.tokens
        self.told = (
            f"({made.tokens} tokens in {seconds:.1f} s, {made.tokens / seconds:.1f} tok/s; "
            f"{self._model.cache_bytes / 2**20:.1f} MiB of cache"
            + (f"; cut off by --tokens {config.tokens})" if cut else ")")
        )
        said = "".join(parts)
        self.turns.append({"role": "assistant", "content": said})
        return said

    def _prompt(self) -> list[int]:
        """The ids of the conversation, as much of it as leaves room for an answer."""
        limit = self._model.config.max_seq_len
        room = max(1, limit - min(self._config.tokens, limit // 2))
        first = 1 if self._config.system else 0
        forgotten = 0
        while True:
            ids = self._chat.encode(self._chat.write(self.turns, answer=True))
            if len(ids) <= room or len(self.turns) - first < 3:
                break
            del self.turns[first : first + 2]  # a message and its answer
            forgotten += 1
        if forgotten:
            tell(f"(the context of {limit} tokens is full: the oldest {forgotten} were forgotten)")
        return ids


def read_message(lines: Callable[[], str]) -> str:
    """One message from a source of lines, which raises EOFError at its end."""
    line = lines()
    if line.strip() == FENCE:
        inside: list[str] = []
        while (line := lines()).strip() != FENCE:
            inside.append(line)
        return "\n".join(inside)
    found = [line]
    while found[-1].endswith("\\"):
        found[-1] = found[-1][:-1]
        found.append(lines())
    return "\n".join(found)


def tell(line: str) -> None:
    """Prints a line that is not an answer."""
    print(visible(line), file=sys.stderr, flush=True)


def talk(config: ChatConfig) -> None:
    """Reads messages and prints answers until the input ends."""
    Choice(
        config.temperature, config.top_k, config.top_p, config.min_p, config.repetition_penalty,
        config.seed,
    ).check(config.tokens)  # fmt: skip
    device = Device(config.device, chip=config.chip)
    with watching(GuardConfig()):
        model = Model.load(config.model)
        if config.adapter:
            model.adapt(adapter_for(model, config.model, config.adapter))
        conversation = Conversation(config, model, device)
        tell(f"{config.model} on {device.description} ({device.label}). {HELP}")
        shown_as = visible if is_terminal(sys.stdout) else str
        ask = "> " if is_terminal(sys.stdin) else ""
        while True:
            try:
                message = read_message(lambda: input(ask))
            except (EOFError, KeyboardInterrupt):
                return
            if message.strip() == "/quit":
                return
            if message.strip() == "/new":
                conversation.reset()
                tell("(a new conversation)")
                continue
            if not message.strip():
                continue
            if mark := conversation.mark_in(message):
                tell(f"(expected a message without marks of the template, got {mark})")
                continue
            conversation.answer(message, lambda part: print(shown_as(part), end="", flush=True))
            print(flush=True)
            tell(conversation.told)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(ChatConfig, talk, argv)


if __name__ == "__main__":
    main()

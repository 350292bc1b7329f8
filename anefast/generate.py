"""`anefast generate MODEL --prompt "Once"`: a text from a trained model, or an answer.

Text streams to standard output as it is made; what it was made with and how fast goes to standard
error, so that the output can be piped. On a terminal, characters that it would obey are escaped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.checkpoint import find_checkpoint
from anefast.cli import command
from anefast.config import ConfigError, GuardConfig
from anefast.decode import Made, Said, Text, drafts_line, side_by_side
from anefast.errors import shown, visible
from anefast.formats import open_source
from anefast.model import Model
from anefast.runtime import Device
from anefast.runtime.watchdog import watching
from anefast.sampling import TEMPERATURE, TOKENS, TOP_K, TOP_P, Choice
from anefast.telemetry.screen import is_terminal
from anefast.tokenizer import open_tokenizer
from anefast.wishes import same_tokenizer


@dataclass(frozen=True)
class GenerateConfig:
    """Continue a text with a trained model."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF file, or a llama2.c .bin.
    model: Annotated[str, tyro.conf.Positional]
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    prompt: str = ""  # Text to continue.
    chat: bool = False  # Take the prompt as a message and answer it by the model's chat template.
    tokens: int = TOKENS  # At most this many new tokens.
    temperature: float = TEMPERATURE  # 0 takes the likeliest token; higher is more varied.
    top_k: int = TOP_K  # Sample from the k likeliest tokens only; 0 is off.
    # Sample from the likeliest tokens only, those that together have this probability; 1 is off.
    top_p: float = TOP_P
    # Sample from tokens at least this many times as likely as the likeliest one; 0 is off.
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # Above 1, tokens that the text already has are less likely.
    seed: int = 0  # The same seed gives the same text.
    num: int = 1  # Number of texts to generate side by side, with this seed and those after it.
    stop: tuple[str, ...] = ()  # Strings at which a text ends; they are not printed.
    speculate: bool = True  # Draft from phrases already used; the text is the same without.
    draft: str = ""  # A smaller model with the same tokenizer, which writes the drafts instead.
    slide: bool = False  # When the context is full, forget its older half and go on.
    # Print the log probability of each token, and their mean, to standard error.
    log_probabilities: bool = False
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    padded: bool = False  # The model's table is meant to have more ids than the tokenizer named.
    device: str = "auto"  # Where programs run: auto, ane or host.
    chip: str = ""  # The host emulates: CHIPS, doctor.json.


def generate(config: GenerateConfig) -> None:
    """Prints the prompt and its continuation, or the answer to it; then the speed."""
    with watching(GuardConfig()):
        _generate(config)


def _generate(config: GenerateConfig) -> None:
    choice = Choice(
        config.temperature, config.top_k, config.top_p, config.min_p, config.repetition_penalty,
        config.seed,
    )  # fmt: skip
    choice.check(config.tokens)
    if config.num < 1:
        raise ConfigError(f"[generate] expected num to be 1 or more, got {config.num}.")
    if "" in config.stop:
        raise ConfigError("[generate] expected stop to be strings of a character or more, got ''.")
    if config.padded and not config.tokenizer:
        raise ConfigError(
            "[generate] --padded has an effect only with --tokenizer, which was not given. "
            "Hint: leave it out, or add --tokenizer."
        )
    if config.chat and not config.prompt:
        raise ConfigError(
            "[generate] --chat answers a message, and none is given. Hint: add --prompt."
        )
    if config.draft and not config.speculate:
        raise ConfigError(
            "[generate] --draft and --no-speculate contradict each other. Hint: leave one out."
        )
    device = Device(config.device, chip=config.chip)
    model = Model.load(config.model, config.tokenizer, config.padded)
    check_tokenizer(config, model)
    if config.adapter:
        model.adapt(adapter_for(model, config.model, config.adapter))
    draft = Model.load(config.draft, config.tokenizer) if config.draft else None
    chat = model.chat() if config.chat else None
    prompt = chat.prompt(config.prompt) if chat else model.prompt_ids(config.prompt)
    print(f"{visible(config.model)} on {device.description} ({device.label})", file=sys.stderr)
    template = getattr(model.tokenizer, "chat_template", "")
    if template and not chat:
        print("the model has a chat template: --chat has it answer the prompt", file=sys.stderr)
    made = [Made(keeps=config.log_probabilities) for _ in range(config.num)]
    ends = chat.ends if chat else ()
    texts = [
        model.text(
            prompt, replace(choice, seed=config.seed + i), config.tokens, ends, config.speculate,
            one, config.slide, draft, device,
        )
        for i, one in enumerate(made)
    ]  # fmt: skip
    printer = Printer(model, texts, config, () if chat else prompt)
    start = time.perf_counter()
    first = 0.0
    for i, token in side_by_side(model.kept(device), texts):
        first = first or time.perf_counter() - start
        printer.take(i, token)
    printer.close()
    seconds = time.perf_counter() - start
    count = sum(one.tokens for one in made)
    rate = f": {count / seconds:.1f} tok/s, the first after {first:.2f} s" if count else ""
    cache = f"; {model.cache_bytes / 2**20:.1f} MiB of cache" if count else ""
    print(f"{count} tokens in {seconds:.2f} s{rate}{cache}", file=sys.stderr)
    if line := drafts_line(made):
        print(line, file=sys.stderr)


class Printer:
    """Prints texts one after the other, and the first unfinished one as it grows."""

    def __init__(
        self, model: Model, texts: list[Text], config: GenerateConfig, prompt: Collection[int]
    ) -> None:
        self._texts, self._seed = texts, config.seed
        self._said = [Said(model.tokenizer, config.stop, prompt) for _ in texts]
        self._waiting = [one.begun for one in self._said]  # not printed yet
        self._shown_as = visible if is_terminal(sys.stdout) else str
        self._turn = 0
        self._begin()

    def take(self, i: int, token: int) -> None:
        """The next token of one of the texts."""
        self._waiting[i] += self._said[i].push(token)
        if self._said[i].met:
            self._texts[i].close()
        if i == self._turn:
            self._show()
        while self._turn < len(self._texts) and self._is_over(self._turn):
            self._end()

    def close(self) -> None:
        """Prints what is left: every text is over."""
        while self._turn < len(self._texts):
            self._end()

    def _is_over(self, i: int) -> bool:
        text, said = self._texts[i], self._said[i]
        return said.met or (text.done and said.tokens == text.made.tokens)

    def _begin(self) -> None:
        if self._turn < len(self._texts):
            if len(self._texts) > 1:
                print(f"--- seed {self._seed + self._turn}", file=sys.stderr, flush=True)
            self._show()

    def _show(self) -> None:
        print(self._shown_as(self._waiting[self._turn]), end="", flush=True)
        self._waiting[self._turn] = ""

    def _end(self) -> None:
        said, made = self._said[self._turn], self._texts[self._turn].made
        self._show()
        print(self._shown_as(said.close()), flush=True)
        if found := made.log_probabilities[: said.tokens]:
            print(" ".join(f"{p:.4f}" for p in found), file=sys.stderr)
            mean = sum(found) / len(found)
            print(f"mean log-probability {mean:.4f} nats per token", file=sys.stderr)
        self._turn += 1
        self._begin()


def check_tokenizer(config: GenerateConfig, model: Model) -> None:
    """Refuses a tokenizer that was named for a run and is not the run's own."""
    path = Path(config.model)
    if not config.tokenizer or not path.is_dir() or open_source(path) is not None:
        return
    own = open_tokenizer(find_checkpoint(config.model))
    if not same_tokenizer(own, model.tokenizer):
        raise ConfigError(
            f"[generate] tokenizer {shown(config.tokenizer)} was named, but {shown(config.model)} "
            f"was trained with {shown(own.name)}. Hint: leave it out; a run brings its own."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(GenerateConfig, generate, argv)


if __name__ == "__main__":
    main()

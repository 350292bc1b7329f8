"""`anefast generate MODEL --prompt "Once"`: a text from a trained model, or an answer.

Text streams to standard output as it is made; what it was made with and how fast goes to standard
error, so that the output can be piped. On a terminal, characters that it would obey are escaped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.checkpoint import find_checkpoint
from anefast.cli import command
from anefast.config import ConfigError, GuardConfig
from anefast.decode import Made, StopText
from anefast.errors import shown, visible
from anefast.formats import open_source
from anefast.model import Model
from anefast.runtime import Device
from anefast.runtime.watchdog import watching
from anefast.sampling import TEMPERATURE, TOKENS, TOP_K, TOP_P, check_choice
from anefast.telemetry.screen import is_terminal
from anefast.tokenizer import Stream, open_tokenizer
from anefast.wishes import same_tokenizer


@dataclass(frozen=True)
class GenerateConfig:
    """What to continue, and how."""

    # A run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF file, or a llama2.c .bin.
    model: Annotated[str, tyro.conf.Positional]
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    prompt: str = ""  # Text to continue.
    chat: bool = False  # The prompt is a message: written by the model's chat template, answered.
    tokens: int = TOKENS  # At most this many new tokens.
    temperature: float = TEMPERATURE  # 0 takes the likeliest token; higher is more varied.
    top_k: int = TOP_K  # Only among the k likeliest; 0 is off.
    top_p: float = TOP_P  # Only among the likeliest that together have this probability; 1 is off.
    # Only what is at least this many times as likely as the likeliest; 0 is off.
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # Above 1, what the text has already is less likely.
    seed: int = 0  # The same seed gives the same text.
    num: int = 1  # So many texts, with seeds from the one given on.
    stop: tuple[str, ...] = ()  # Strings at which a text ends, left out.
    speculate: bool = True  # Draft what was said before; the text is the same with and without.
    log_probabilities: bool = False  # Print each token's own, and their mean, to standard error.
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    padded: bool = False  # The model's table is meant to have more ids than the tokenizer named.
    device: str = "auto"  # auto, ane or host.
    chip: str = ""  # Run on the host as this chip would: m1, m1-pro, m2, m3, m4, m4-max, m5, m6.


def generate(config: GenerateConfig) -> None:
    """Prints the prompt and its continuation, or the answer to it; then the speed."""
    with watching(GuardConfig()):
        _generate(config)


def _generate(config: GenerateConfig) -> None:
    choice = (config.temperature, config.top_k, config.top_p, config.seed)
    check_choice(*choice, config.tokens, config.min_p, config.repetition_penalty)
    if config.num < 1:
        raise ConfigError(f"[generate] expected num to be 1 or more, got {config.num}.")
    if "" in config.stop:
        raise ConfigError("[generate] expected stop to be strings of a character or more, got ''.")
    if config.padded and not config.tokenizer:
        raise ConfigError(
            "[generate] --padded is about a tokenizer that is named, and none is. "
            "Hint: leave it out, or add --tokenizer."
        )
    if config.chat and not config.prompt:
        raise ConfigError(
            "[generate] --chat answers a message, and none is given. Hint: add --prompt."
        )
    device = Device(config.device, chip=config.chip)
    model = Model.load(config.model, config.tokenizer, config.padded)
    check_tokenizer(config, model)
    if config.adapter:
        model.adapt(adapter_for(model, config.model, config.adapter))
    chat = model.chat() if config.chat else None
    prompt = chat.prompt(config.prompt) if chat else model.prompt_ids(config.prompt)
    print(f"{visible(config.model)} on {device.description} ({device.label})", file=sys.stderr)
    template = getattr(model.tokenizer, "chat_template", "")
    if template and not chat:
        print("the model has a chat template: --chat has it answer the prompt", file=sys.stderr)
    for number in range(config.num):
        if config.num > 1:
            print(f"--- seed {config.seed + number}", file=sys.stderr, flush=True)
        made = Made(keeps=config.log_probabilities)
        tokens = model.stream(
            prompt, config.tokens, *choice[:3], config.seed + number, device,
            chat.ends if chat else (), config.min_p, config.repetition_penalty, config.speculate,
            made,
        )  # fmt: skip
        _print(config, model, () if chat else prompt, tokens, made)


def _print(
    config: GenerateConfig,
    model: Model,
    prompt: Collection[int],
    tokens: Iterator[int],
    made: Made,
) -> None:
    """One text as it is made, and then how fast."""
    text, end = Stream(model.tokenizer), StopText(config.stop)
    shown_as = visible if is_terminal(sys.stdout) else str
    for token in prompt:
        print(shown_as(text.push(token)), end="", flush=True)
    start = time.perf_counter()
    first = 0.0
    for token in tokens:
        first = first or time.perf_counter() - start
        print(shown_as(end.push(text.push(token))), end="", flush=True)
        if end.met:
            break
    seconds = time.perf_counter() - start
    print(shown_as(end.push(text.close()) + end.close()), flush=True)
    rate = f": {made.tokens / seconds:.1f} tok/s, the first after {first:.2f} s"
    cache = f"; {model.cache_bytes / 2**20:.1f} MiB of cache" if made.tokens else ""
    said = f"{made.tokens} tokens in {seconds:.2f} s{rate if made.tokens else ''}{cache}"
    print(said, file=sys.stderr)
    if line := made.line():
        print(line, file=sys.stderr)
    if made.log_probabilities:
        found = made.log_probabilities
        print(" ".join(f"{p:.4f}" for p in found), file=sys.stderr)
        print(f"mean log-probability {sum(found) / len(found):.4f} nats per token", file=sys.stderr)


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

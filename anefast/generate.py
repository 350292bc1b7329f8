"""`anefast generate MODEL --prompt "Once"`: a text from a trained model, or an answer.

Text streams to standard output as it is made; what it was made with and how fast goes to standard
error, so that the output can be piped. On a terminal, characters that it would obey are escaped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.checkpoint import find_checkpoint
from anefast.cli import command
from anefast.config import ConfigError, GuardConfig
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
    seed: int = 0  # The same seed gives the same text.
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
    check_choice(*choice, config.tokens)
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
    text = Stream(model.tokenizer)
    shown_as = visible if is_terminal(sys.stdout) else str
    chat = model.chat() if config.chat else None
    prompt = chat.prompt(config.prompt) if chat else model.prompt_ids(config.prompt)
    tokens = model.stream(prompt, config.tokens, *choice, device, chat.ends if chat else ())
    print(f"{visible(config.model)} on {device.description} ({device.label})", file=sys.stderr)
    template = getattr(model.tokenizer, "chat_template", "")
    if template and not chat:
        print("the model has a chat template: --chat has it answer the prompt", file=sys.stderr)
    for token in () if chat else prompt:
        print(shown_as(text.push(token)), end="", flush=True)
    start, made = time.perf_counter(), 0
    for token in tokens:
        made += 1
        print(shown_as(text.push(token)), end="", flush=True)
    seconds = time.perf_counter() - start
    print(shown_as(text.close()), flush=True)
    rate = f": {made / seconds:.1f} tok/s" if made else ""
    print(f"{made} tokens in {seconds:.2f} s{rate}", file=sys.stderr)


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

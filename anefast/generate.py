"""`python -m anefast.generate RUN_OR_CHECKPOINT --prompt "Once"`: a story from a trained model.

Text streams to standard output as it is made; what it was made with and how fast goes to standard
error, so that the output can be piped. On a terminal, characters that it would obey are escaped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from anefast.cli import command
from anefast.model import Model
from anefast.runtime import Device
from anefast.telemetry.screen import is_terminal, visible
from anefast.tokenizer import Stream


@dataclass(frozen=True)
class GenerateConfig:
    """What to continue, and how."""

    model: Annotated[str, tyro.conf.Positional]  # A run folder, a checkpoint, or a llama2.c .bin.
    prompt: str = ""  # Text to continue.
    tokens: int = 256  # At most this many new tokens.
    temperature: float = 0.8  # 0 takes the likeliest token; higher is more varied.
    top_k: int = 0  # Only among the k likeliest; 0 is off.
    top_p: float = 0.95  # Only among the likeliest that together have this probability; 1 is off.
    seed: int = 0  # The same seed gives the same text.
    tokenizer: str = ""  # "bytes" or a tokenizer file; a run brings its own.
    padded: bool = False  # The model's table is meant to have more ids than the tokenizer named.
    device: str = "auto"  # auto, ane or host.
    chip: str = ""  # Run on the host as this chip would: m1, m1-pro, m2, m3, m4, m4-max, m5.


def generate(config: GenerateConfig) -> None:
    """Prints the prompt and its continuation, then the speed."""
    model = Model.load(config.model, config.tokenizer, config.padded)
    device = Device(config.device, chip=config.chip)
    print(f"{config.model} on {device.description} ({device.label})", file=sys.stderr)
    text = Stream(model.tokenizer)
    shown_as = visible if is_terminal(sys.stdout) else str
    prompt = model.prompt_ids(config.prompt)
    for token in prompt:
        print(shown_as(text.push(token)), end="", flush=True)
    start, made = time.perf_counter(), 0
    choice = (config.temperature, config.top_k, config.top_p, config.seed)
    for token in model.stream(prompt, config.tokens, *choice, device):
        made += 1
        print(shown_as(text.push(token)), end="", flush=True)
    seconds = time.perf_counter() - start
    print(text.close(), flush=True)
    print(f"{made} tokens in {seconds:.2f} s: {made / seconds:.1f} tok/s", file=sys.stderr)


if __name__ == "__main__":
    command(GenerateConfig, generate)

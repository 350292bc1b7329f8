"""`anefast export RUN --to hf OUT`: a model as files that other programs read.

RUN is whatever `Model.load` opens: a run, a checkpoint, a Hugging Face folder, a GGUF file or a
llama2.c .bin. A LoRA adapter is written by itself (`--to peft`), or in the weights of its model
(`--merge`). saving.py has the formats, which `Model.save` writes as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from anefast.adapting import adapter_for
from anefast.cli import command, say
from anefast.errors import shown
from anefast.model import Model
from anefast.optim.average import load_average
from anefast.saving import Output, write


@dataclass(frozen=True)
class ExportConfig:
    """Write a model in a format that other programs read."""

    model: Annotated[str, tyro.conf.Positional]  # A run, a checkpoint, or a model's folder or file.
    # The folder to write; for gguf and llama2c the file (model.gguf, model.bin).
    out: Annotated[str, tyro.conf.Positional]
    # The format: hf (a Hugging Face folder), gguf (llama.cpp), llama2c, checkpoint; for an adapter
    # peft or mlx. Empty: gguf or llama2c if OUT ends in .gguf or .bin, else hf.
    to: str = ""
    # How numbers are stored. hf, peft, mlx: F32, BF16, F16. gguf: F32, F16, BF16, Q8_0. Empty: F32,
    # and F16 for gguf.
    dtype: str = ""
    # The tokenizer of a llama2.c .bin, which has none: "bytes" or a tokenizer file.
    tokenizer: str = ""
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    merge: bool = False  # Write the model with the adapter in its weights.
    ema: bool = False  # Write the average of the weights that a run kept (optim.ema_tokens).


def export(config: ExportConfig) -> None:
    """Writes the model and says where. ValueError in one line where that cannot be done."""
    output = Output.of(
        Path(config.out), config.to, config.dtype, config.merge, "export", True, otherwise="hf"
    )
    model = Model.load(config.model, config.tokenizer)
    if config.ema:
        model.params = load_average(config.model, model.params, model.vocabulary)
    if config.adapter:
        model.adapt(adapter_for(model, config.model, config.adapter))
    dtype = write(output, model, shown(config.model))
    say(f"written to {shown(output.out)}: {model.config.family}, {dtype}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(ExportConfig, export, argv)


if __name__ == "__main__":
    main()

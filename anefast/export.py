"""`python -m anefast.export RUN --to hf OUT`: a model as files that other programs read.

RUN is whatever `Model.load` opens: a run, a checkpoint, a Hugging Face folder, a GGUF file or a
llama2.c .bin. What each format cannot hold is refused with the reason; nothing that is there is
written over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from anefast import llama2c
from anefast.cli import command, say
from anefast.config import ConfigError, suggest
from anefast.errors import shown
from anefast.formats import save_folder, save_gguf
from anefast.model import Model


@dataclass(frozen=True)
class ExportConfig:
    """Which model, in which format, where to."""

    model: Annotated[str, tyro.conf.Positional]  # A run, a checkpoint, or a model's folder or file.
    # A folder for hf; a file for gguf (model.gguf) and llama2c (model.bin).
    out: Annotated[str, tyro.conf.Positional]
    to: str = "hf"  # hf (a Hugging Face folder), gguf (llama.cpp) or llama2c.
    dtype: str = ""  # hf: F32, BF16, F16. gguf: F32, F16, BF16, Q8_0. Empty: F32, and F16 for gguf.
    tokenizer: str = ""  # Of a llama2.c .bin, which has none: "bytes" or a tokenizer file.


class Format(NamedTuple):
    """dtypes: the first is the default. save: (model, out, dtype)."""

    dtypes: tuple[str, ...]
    save: Callable[[Model, Path, str], None]


def _hf(model: Model, out: Path, dtype: str) -> None:
    save_folder(out, model.config, model.params, dtype, model.tokenizer)


def _gguf(model: Model, out: Path, dtype: str) -> None:
    save_gguf(out, model.config, model.params, dtype, model.tokenizer, out.stem)


def _llama2c(model: Model, out: Path, dtype: str) -> None:
    llama2c.save(out, model.config, model.params)


FORMATS = {
    "hf": Format(("F32", "BF16", "F16"), _hf),
    "gguf": Format(("F16", "F32", "BF16", "Q8_0"), _gguf),
    "llama2c": Format(("F32",), _llama2c),
}


def export(config: ExportConfig) -> None:
    """Writes the model and says where. ValueError in one line where that cannot be done."""
    if config.to not in FORMATS:
        raise ConfigError(
            f"[export] expected --to {', '.join(FORMATS)}, got {shown(config.to)}."
            f"{suggest(config.to, FORMATS)}"
        )
    form = FORMATS[config.to]
    dtype = config.dtype.upper() or form.dtypes[0]
    if dtype not in form.dtypes:
        raise ConfigError(
            f"[export] expected --dtype {', '.join(form.dtypes)} for {config.to}, "
            f"got {shown(config.dtype)}."
        )
    out = Path(config.out)
    if out.exists() and not (config.to == "hf" and out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"[export] {shown(out)} is there already. Hint: name another one.")
    model = Model.load(config.model, config.tokenizer)
    form.save(model, out, dtype)
    say(f"written to {shown(out)}: {model.config.family}, {dtype}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(ExportConfig, export, argv)


if __name__ == "__main__":
    main()

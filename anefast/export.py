"""`anefast export RUN --to hf OUT`: a model as files that other programs read.

RUN is whatever `Model.load` opens: a run, a checkpoint, a Hugging Face folder, a GGUF file or a
llama2.c .bin. A LoRA adapter is written by itself (`--to peft`), or in the weights of its model
(`--merge`). What each format cannot hold is refused with the reason; nothing that is there is
written over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from anefast import llama2c
from anefast.adapting import adapter_for
from anefast.cli import command, say
from anefast.config import ConfigError, ModelConfig, suggest
from anefast.errors import shown
from anefast.formats import save_folder, save_gguf, save_mlx, save_peft
from anefast.model import Model
from anefast.nn import Params
from anefast.nn.adapter import Adapter
from anefast.optim.average import load_average


@dataclass(frozen=True)
class ExportConfig:
    """Which model, in which format, where to."""

    model: Annotated[str, tyro.conf.Positional]  # A run, a checkpoint, or a model's folder or file.
    # A folder for hf, peft and mlx; a file for gguf (model.gguf) and llama2c (model.bin).
    out: Annotated[str, tyro.conf.Positional]
    # hf (a Hugging Face folder), gguf (llama.cpp), llama2c; an adapter alone: peft, mlx (mlx-lm).
    # Empty: what OUT's name ends in says, .gguf or .bin, and otherwise hf.
    to: str = ""
    # hf, peft, mlx: F32, BF16, F16. gguf: F32, F16, BF16, Q8_0. Empty: F32, and F16 for gguf.
    dtype: str = ""
    tokenizer: str = ""  # Of a llama2.c .bin, which has none: "bytes" or a tokenizer file.
    adapter: str = ""  # A LoRA adapter of the model: a folder of PEFT or mlx-lm, or a run.
    merge: bool = False  # Write the model with the adapter in its weights.
    ema: bool = False  # Write the average of the weights that a run kept (optim.ema_tokens).


class Format(NamedTuple):
    """dtypes: the first is the default. folder: whether OUT is one. Either of the others writes
    it: model: (out, model, its weights, dtype). adapter: (out, adapter, shape of its model, dtype).
    """

    dtypes: tuple[str, ...]
    folder: bool = True
    model: Callable[[Path, Model, Params, str], None] | None = None
    adapter: Callable[[Path, Adapter, ModelConfig, str], None] | None = None


def _hf(out: Path, model: Model, params: Params, dtype: str) -> None:
    save_folder(out, model.config, params, dtype, model.tokenizer)


def _gguf(out: Path, model: Model, params: Params, dtype: str) -> None:
    save_gguf(out, model.config, params, dtype, model.tokenizer, out.stem)


def _llama2c(out: Path, model: Model, params: Params, dtype: str) -> None:
    llama2c.save(out, model.config, params)


HALVES = ("F32", "BF16", "F16")
FORMATS = {
    "hf": Format(HALVES, model=_hf),
    "gguf": Format(("F16", "F32", "BF16", "Q8_0"), folder=False, model=_gguf),
    "llama2c": Format(("F32",), folder=False, model=_llama2c),
    "peft": Format(HALVES, adapter=save_peft),
    "mlx": Format(HALVES, adapter=save_mlx),
}


ENDINGS = {".gguf": "gguf", ".bin": "llama2c"}


def export(config: ExportConfig) -> None:
    """Writes the model and says where. ValueError in one line where that cannot be done."""
    meant = ENDINGS.get(Path(config.out).suffix.lower())
    config = replace(config, to=config.to or meant or "hf")
    if config.to not in FORMATS:
        raise ConfigError(
            f"[export] expected --to {', '.join(FORMATS)}, got {shown(config.to)}."
            f"{suggest(config.to, FORMATS)}"
        )
    if meant not in (None, config.to):
        raise ConfigError(
            f"[export] --to {config.to} makes no {Path(config.out).suffix}, as {shown(config.out)} "
            "ends. Hint: name another one, or leave --to out."
        )
    form = FORMATS[config.to]
    dtype = config.dtype.upper() or form.dtypes[0]
    if dtype not in form.dtypes:
        raise ConfigError(
            f"[export] expected --dtype {', '.join(form.dtypes)} for {config.to}, "
            f"got {shown(config.dtype)}."
        )
    if config.merge and form.adapter:
        raise ConfigError(
            f"[export] --merge makes a whole model, and {config.to} holds an adapter alone. "
            "Hint: leave it out, or --to hf."
        )
    out = Path(config.out)
    if out.exists() and not (form.folder and out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"[export] {shown(out)} is there already. Hint: name another one.")
    model = Model.load(config.model, config.tokenizer)
    if config.ema:
        model.params = load_average(config.model, model.params, model.vocabulary)
    if config.adapter:
        model.adapt(adapter_for(model, config.model, config.adapter))
    adapter = model.lora.adapter() if model.lora else None
    check_adapter(config, adapter, needed=config.merge or form.adapter is not None)
    if form.adapter and adapter:
        form.adapter(out, adapter, model.config, dtype)
    elif form.model:
        params = adapter.merged(model.params) if adapter else model.params
        form.model(out, model, params, dtype)
    say(f"written to {shown(out)}: {model.config.family}, {dtype}")


def check_adapter(config: ExportConfig, adapter: Adapter | None, needed: bool) -> None:
    """ConfigError for an adapter that nothing would be made of, or that is missing."""
    if needed and adapter is None:
        flag = "--merge" if config.merge else f"--to {config.to}"
        raise ConfigError(
            f"[export] {flag} is about a LoRA adapter, and {shown(config.model)} has none. "
            "Hint: name it with --adapter."
        )
    if adapter is not None and not needed:
        raise ConfigError(
            f"[export] --to {config.to} holds a model without its adapter. Hint: --merge puts it "
            "into the weights; --to peft and --to mlx write it alone."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exit codes: 0, or 2 for a request that makes no sense."""
    command(ExportConfig, export, argv)


if __name__ == "__main__":
    main()

"""A model on disk: a checkpoint of ours, or a format that other programs read.

`Model.save` and `anefast export` come here. What a format cannot hold is refused with the reason,
and nothing that is there is written over. A file or folder appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anefast import checkpoint
from anefast.config import ConfigError, ModelConfig, suggest
from anefast.errors import shown
from anefast.files import make_folder, remove_tree, rename
from anefast.formats import llama2c
from anefast.formats.registry import ADAPTERS, MODELS
from anefast.models.adapter import Adapter
from anefast.models.weights import Array, peeked
from anefast.tokenizer import Tokenizer

if TYPE_CHECKING:
    from anefast.model import Model

CHECKPOINT, LLAMA2C = "checkpoint", "llama2c"


@dataclass(frozen=True)
class Written:
    """How a format is written. dtypes: the first is the default. ending: "" where it is a folder.
    One of the others: model: (out, config, weights, dtype, tokenizer). adapter: (out, adapter,
    shape of its model, dtype). Neither: a checkpoint, which holds everything that a Model has."""

    dtypes: tuple[str, ...]
    ending: str = ""
    model: Callable[[Path, ModelConfig, Mapping[str, Array], str, Tokenizer], None] | None = None
    adapter: Callable[[Path, Adapter, ModelConfig, str], None] | None = None


def _llama2c(
    out: Path, config: ModelConfig, params: Mapping[str, Array], dtype: str, _: Tokenizer
) -> None:
    llama2c.save(out, config, params)


def formats() -> dict[str, Written]:
    """Everything that a model can be written as, by name."""
    found = {name: Written(f.dtypes, f.ending, model=f.save) for name, f in MODELS.items()}
    found[LLAMA2C] = Written(("F32",), ".bin", model=_llama2c)
    found[CHECKPOINT] = Written(("F32",))
    return found | {name: Written(f.dtypes, adapter=f.save) for name, f in ADAPTERS.items()}


@dataclass(frozen=True)
class Output:
    """A file to write, and its format. where: the tag of errors; flags: whether they speak of a
    command's flags or of Python's keywords."""

    out: Path
    to: str
    dtype: str
    merge: bool
    where: str
    flags: bool

    @classmethod
    def of(
        cls, out: Path, to: str, dtype: str, merge: bool, where: str, flags: bool, otherwise: str
    ) -> Output:
        """Checked before a model is read. otherwise: the format where neither `to` nor the ending
        says which. ConfigError."""
        known = formats()
        endings = {form.ending: name for name, form in known.items() if form.ending}
        meant = endings.get(out.suffix.lower())
        output = cls(out, to or meant or otherwise, dtype.upper(), merge, where, flags)
        if output.to not in known:
            raise output.refused(
                f"expected {output.flag('to')} {', '.join(known)}, got {shown(output.to)}."
                f"{suggest(output.to, known)}"
            )
        if meant not in (None, output.to):
            raise output.refused(
                f"{output.flag('to')} {output.to} makes no {out.suffix}, as {shown(out)} ends. "
                f"Hint: name another one, or leave {output.flag('to')} out."
            )
        form = output.form
        if output.dtype and output.dtype not in form.dtypes:
            raise output.refused(
                f"expected {output.flag('dtype')} {', '.join(form.dtypes)} for {output.to}, "
                f"got {shown(dtype)}."
            )
        if merge and form.adapter:
            raise output.refused(
                f"{output.flag('merge')} makes a whole model, and {output.to} holds an adapter "
                f"alone. Hint: leave it out, or {output.flag('to')} hf."
            )
        if out.exists() and (form.ending or not out.is_dir() or any(out.iterdir())):
            raise output.refused(f"{shown(out)} is there already. Hint: name another one.")
        return output

    @property
    def form(self) -> Written:
        """The record of its format."""
        return formats()[self.to]

    def flag(self, name: str) -> str:
        """A setting as its user spells it."""
        return f"--{name}" if self.flags else f"{name}="

    def refused(self, problem: str) -> ConfigError:
        """An error in one line."""
        return ConfigError(f"[{self.where}] {problem}")


def write(output: Output, model: Model, source: str = "the model") -> str:
    """Writes `model`, returns the dtype of its weights. source: what an error calls the model.

    ConfigError or ValueError in one line for what the format cannot hold; FileError and
    CheckpointError where the disk refuses. Nothing is left behind then.
    """
    form, dtype = output.form, output.dtype or output.form.dtypes[0]
    adapter = model.lora.adapter() if model.lora else None
    _check_adapter(output, adapter, source)
    params = adapter.merged(model.params) if adapter and output.merge else peeked(model.params)
    make_folder(output.out.absolute().parent, output.where)
    if form.adapter and adapter:
        with _folder(output) as out:
            form.adapter(out, adapter, model.config, dtype)
    elif form.model:
        with nullcontext(output.out) if form.ending else _folder(output) as out:
            form.model(out, model.config, params, dtype, model.tokenizer)
    else:
        _checkpoint(output, model, params)
    return dtype


@contextmanager
def _folder(output: Output) -> Iterator[Path]:
    """A folder beside the one that is meant, which takes its place when the block is done."""
    out = output.out.absolute()
    temporary = out.with_name(f".{out.name}.tmp")
    remove_tree(temporary)
    try:
        yield temporary
        rename(temporary, out, output.where)
    except BaseException:
        remove_tree(temporary)
        raise


def _checkpoint(output: Output, model: Model, params: Mapping[str, Array]) -> None:
    """A checkpoint of no update: what `Model.load` opens as it was, and a run begins from."""
    state: dict[str, object] = {"step": 0, "micro": 0}
    state[checkpoint.TRAINED_LENGTH] = model.trained_length
    if model.vocabulary is not None:
        state[checkpoint.VOCABULARY] = model.vocabulary.text()
    lora, held = model.lora, params
    if lora is not None and not output.merge:
        held, state[checkpoint.ADAPTER] = lora.plain(lora.params), lora.settings()
    out = output.out.absolute()
    checkpoint.save(out.parent, model.config, held, {}, state, model.tokenizer, name=out.name)


def _check_adapter(output: Output, adapter: Adapter | None, source: str) -> None:
    """ConfigError for an adapter that nothing would be made of, or that is missing."""
    form, alone = output.form, output.form.adapter is not None
    if adapter is None:
        if output.merge or alone:
            said = output.flag("merge") if output.merge else f"{output.flag('to')} {output.to}"
            hint = "name it with --adapter" if output.flags else "Model.adapt takes one"
            raise output.refused(
                f"{said} is about a LoRA adapter, and {source} has none. Hint: {hint}."
            )
        return
    if output.merge or alone:
        return
    merge, to = output.flag("merge"), output.flag("to")
    merge += "" if output.flags else "True"
    ways = f"{merge} puts it into the weights; {to} peft and {to} mlx write it alone"
    if form.model is not None:
        raise output.refused(f"{to} {output.to} holds a model without its adapter. Hint: {ways}.")
    if not Path(adapter.base.path).exists() or not adapter.base.path:
        raise output.refused(
            f"a checkpoint holds an adapter beside the path of its model, and this one's has none. "
            f"Hint: {ways}."
        )

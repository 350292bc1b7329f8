"""A model in the hand: configuration, parameters, tokenizer; load, save, generate, train.

    >>> import anefast
    >>> model = anefast.Model.load("runs/my-run")           # doctest: +SKIP
    >>> print(model.generate("Once upon a time", tokens=64))  # doctest: +SKIP

What it is not: a device. Programs are compiled by what it makes, `training_step` and `inference`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anefast import loading
from anefast.checks import instance, refuse, whole
from anefast.config import ROW_MULTIPLE, ModelConfig, OptimConfig, TrainConfig
from anefast.decode import Ends, Made, Said, Text, side_by_side
from anefast.drafts import Drafter, Lookup, Smaller
from anefast.errors import BadInput
from anefast.fuse import find_plan
from anefast.fuse.plan import is_auto
from anefast.loading import ModelError
from anefast.models import Params, Trained, Vocabulary, init_params
from anefast.models.adapter import Adapter, fingerprint
from anefast.models.lora import NO_PAIRS, Lora
from anefast.models.weights import held, shapes_in
from anefast.optim.registry import count_states
from anefast.runtime import Device, Inference, TrainingStep
from anefast.runtime.auto import candidates
from anefast.runtime.taken import first_taken
from anefast.sampling import TEMPERATURE, TOKENS, TOP_K, TOP_P, Choice
from anefast.saving import Output, write
from anefast.summary import Summary, line, parts
from anefast.tokenizer import Tokenizer, drawable
from anefast.tokenizer.base import prompt_ids
from anefast.tokenizer.chat import Chat

if TYPE_CHECKING:
    from anefast.data import TokenData
    from anefast.results import FitResult
    from anefast.score import Score
    from anefast.updates import Updates

# A loop in somebody's own hands: its rate is what it says, and each batch is an update.
LOOP = OptimConfig(accumulation=1, warmup_steps=0, min_lr_ratio=1.0)


log = logging.getLogger("anefast")


@dataclass(repr=False)
class Model:
    """A model of one of the families in `anefast.models.FAMILIES`.

    params: fp32 arrays by name, row-major, matrices (out, in); `anefast.models.shapes` lists them.
    vocabulary: the only ids that the model may generate, if it was trained with `compact_vocab`; a
    checkpoint keeps it, a llama2.c file cannot. trained_length: tokens per training sequence, 0 if
    unknown; text beyond that length is worse, and `stream` warns. lora: the adapter in use, which
    leaves params unchanged; see `adapt`. optim: the settings of its last training in this process,
    for `summary`.
    """

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary | None = None
    trained_length: int = 0
    lora: Lora | None = None
    optim: OptimConfig = field(default=OptimConfig(), compare=False)
    # What generates, kept for the next call: device, config, fingerprint of weights, programs.
    _generator: tuple[Device, ModelConfig, tuple[int, ...], Inference] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    _device: Device | None = field(default=None, init=False, repr=False, compare=False)
    _alike: tuple[Tokenizer, Tokenizer] | None = field(
        default=None, init=False, repr=False, compare=False
    )  # a draft model's and its own, once they were compared
    _chat: Chat | None = field(default=None, init=False, repr=False, compare=False)
    # Whether a step may change `params`: what is compiled of them then is of no use to others.
    _trains: bool = field(default=False, init=False, repr=False, compare=False)

    @classmethod
    def from_config(
        cls, config: ModelConfig, tokenizer: Tokenizer, seed: int = TrainConfig.seed
    ) -> Model:
        """A model with freshly drawn parameters."""
        instance("model", "config", config, ModelConfig, "ModelConfig(dim=128, ...)")
        instance("model", "tokenizer", tokenizer, Tokenizer, "open_tokenizer('bytes')")
        whole("model", "seed", seed, 0)
        if config.vocab_size == 0:
            config = config.replace(vocab_size=tokenizer.vocab_size)
        return cls(config, init_params(config, seed), tokenizer)

    @classmethod
    def load(cls, path: str | Path, tokenizer: str = "", padded: bool = False) -> Model:
        """Opens a run folder, one of its checkpoints, a Hugging Face folder, a GGUF file, or a
        llama2.c `.bin` file.

        `tokenizer` is "bytes" or a tokenizer file; all but a `.bin` file bring their own.
        padded: that a tokenizer named here has fewer ids than the model's table is meant so: the
        table was made larger than its vocabulary. Raises ValueError or FileNotFoundError with one
        clear line.
        """
        if not isinstance(path, (str, os.PathLike)):
            refuse("model", "path", path, "the path of a run, a folder or a file")
        if not isinstance(tokenizer, (str, os.PathLike)):
            refuse("model", "tokenizer", tokenizer, "'bytes' or the path of a tokenizer")
        found = loading.load(Path(path), os.fspath(tokenizer), padded)
        model = cls(found.config, found.params, found.tokenizer, found.vocabulary, found.trained)
        if found.adapter is not None:
            model.adapt(found.adapter)
        return model

    def adapt(self, adapter: Adapter | None) -> None:
        """Uses and trains the model with this adapter from now on; None removes the adapter.

        AdapterError where it is of another model.
        """
        if adapter is not None:
            adapter.check(self.config, fingerprint(self.params) if adapter.base.sha256 else "")
        self.lora = None if adapter is None else Lora.of(adapter)

    def training_step(
        self,
        device: Device | None = None,
        batch: int = 1,
        seq: int = 256,
        plan: str = "unfused",
        swap_at: int | None = 1,
        load: bool = True,
        accumulation: int = OptimConfig.accumulation,
        vocabulary: Vocabulary | None = None,
        flows: bool = False,
        trained: Trained = None,
    ) -> TrainingStep:
        """Compiles forward and backward for micro-batches of `batch` x `seq` tokens.

        swap_at: for a plan that compiles async, how many micro-steps after an update its programs
        take over (None: when ready). load=False leaves the first compile to `update_weights`.
        accumulation: micro-steps per update, by which `auto` weighs compiling; where the
        device refuses what it chose, the next best is tried, with a warning. vocabulary: train
        over these ids only (models/vocabulary.py). flows: for updates of one micro-step without
        clipping, gradients that are never stored (runtime/unstored.py). trained: names of the
        parameters that change, None for all. Raises ValueError naming the limit where the device
        cannot hold the plan.
        """
        whole("step", "batch", batch, 1)
        if whole("step", "seq", seq, 1) % ROW_MULTIPLE or seq > self.config.max_seq_len:
            hint = "the model's max_seq_len is its longest"
            what = f"a multiple of {ROW_MULTIPLE} up to {self.config.max_seq_len}"
            refuse("step", "seq", seq, what, hint)
        whole("step", "accumulation", accumulation, 1)
        on = self._opened(device)
        ranks = self.lora.ranks if self.lora else NO_PAIRS
        self._trains |= self.lora is None
        specs, _ = candidates(plan, self.config, on, batch, seq, accumulation, trained, ranks)
        _, step = first_taken(
            specs,
            lambda spec: TrainingStep(
                self.config, self.params, on, batch, seq,
                replace(find_plan(spec), trained=trained), swap_at, load, vocabulary, flows,
                self.lora,
            ),
        )  # fmt: skip
        return step

    def inference(self, device: Device | None = None, plan: str = "auto") -> Inference:
        """Forward programs for next-token logits, compiled as lengths are met.

        plan: `auto` is `all` where a device computes only what is read, which takes one program.
        """
        on = self._opened(device)
        if is_auto(plan):
            plan = "all" if on.takes_parts else "unfused"
        return Inference(
            self.config, self.params, on, find_plan(plan), self.lora, lasting=not self._trains
        )

    def choices(self) -> Vocabulary | None:
        """The ids that it may generate, None for all: those its tokenizer has, and was trained on.

        A table may have rows that no id of the tokenizer stands for; nobody could decode them.
        """
        ids = drawable(self.tokenizer, self.config.vocab_size)
        if self.vocabulary is not None:
            ids = np.intersect1d(ids, self.vocabulary.ids)
        whole = len(ids) == self.config.vocab_size
        return None if whole else Vocabulary(ids, self.config.vocab_size)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a text to continue, with BOS in front where the model was trained so."""
        return prompt_ids(self.tokenizer, prompt)

    def stream(
        self,
        prompt: str | Iterable[int] = "",
        tokens: int = TOKENS,
        temperature: float = TEMPERATURE,
        top_k: int = TOP_K,
        top_p: float = TOP_P,
        seed: int = 0,
        device: Device | None = None,
        ends: Collection[int] = (),
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        speculate: bool = True,
        made: Made | None = None,
        slide: bool = False,
        draft: Model | None = None,
    ) -> Iterator[int]:
        """Yields token ids after `prompt`, until BOS or EOS, `tokens` ids, or the context is full.

        prompt: a text, or its ids (`prompt_ids`). temperature 0 takes the likeliest token;
        top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off (`sampling.Choice`). ends: more
        ids that end it, such as those of a chat's turn. speculate: draft what was said before, or
        what the smaller model `draft` says; the text is the same with and without. slide: a full
        context ends nothing, its older half is forgotten. made: takes in what it came to. Programs
        are kept for the next call. ValueError, at the call, for what cannot be.
        """
        choice = Choice(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        text = self.text(prompt, choice, tokens, ends, speculate, made, slide, draft, device)
        return (token for _, token in side_by_side(self.kept(device), [text]))

    def text(
        self,
        prompt: str | Iterable[int],
        choice: Choice,
        tokens: int = TOKENS,
        ends: Collection[int] = (),
        speculate: bool = True,
        made: Made | None = None,
        slide: bool = False,
        draft: Model | None = None,
        device: Device | None = None,
    ) -> Text:
        """A text that begins with `prompt`, for `decode.side_by_side` to continue. As `stream`."""
        choice.check(tokens)
        ids = self._ids(prompt)
        if tokens and 0 < self.trained_length < min(len(ids) + tokens, self.config.max_seq_len):
            log.warning(
                "[generate] the model was trained on sequences of %d tokens, and text beyond that "
                "length is worse. Hint: ask for at most %d new tokens.",
                self.trained_length, max(0, self.trained_length - len(ids)),
            )  # fmt: skip
        own = self.tokenizer
        stops = {own.bos_id, own.eos_id, *ends}
        choices = self.choices()
        drafter: Drafter | None = Lookup(ids) if speculate else None
        if draft is not None and speculate:
            smaller = self._smaller(draft).inference(self._opened(device))
            drafter = Smaller(smaller, ids, self.config.vocab_size)
        return Text(
            ids,
            choice,
            Ends(tokens, stops, self.config.max_seq_len, slide, own.bos_id),
            None if choices is None else choices.hide,
            drafter,
            made,
        )

    def _smaller(self, draft: Model) -> Model:
        """A model that drafts for this one. ModelError where its ids mean other things."""
        ids, own = draft.tokenizer, self.tokenizer
        known = self._alike is not None and self._alike[0] is ids and self._alike[1] is own
        alike = known or (
            ids.vocab_size == own.vocab_size
            and all(ids.piece(i) == own.piece(i) for i in range(own.vocab_size))
        )
        if not alike:
            raise ModelError(
                f"[generate] expected a draft model with the tokenizer of the model, {own.name}, "
                f"got one with {ids.name}. Hint: a smaller model of the same family."
            )
        self._alike = ids, own
        return draft

    def _opened(self, device: Device | None) -> Device:
        """The device passed, or the one that was used for this model before, or a new one. It keeps
        programs, so that equal ones are compiled once."""
        if device is not None or self._device is None:
            self._device = opened(device)
        return self._device

    def kept(self, device: Device | None = None) -> Inference:
        """The programs that generate on this device, made again where weights have changed."""
        device = self._opened(device)
        if self._generator is not None:
            on, config, weights, inference = self._generator
            same = config == self.config and inference.lora is self.lora
            if on is device and same and weights == weights_of(self.params):
                return inference
            inference.close()
        inference = self.inference(device)  # which reads weights that still lie in a file
        self._generator = device, self.config, weights_of(self.params), inference
        return inference

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values that generating keeps, of the last text."""
        return self._generator[-1].cache_bytes if self._generator is not None else 0

    def close(self) -> None:
        """Unloads the programs that generating keeps."""
        if self._generator is not None:
            self._generator[-1].close()
        self._generator = self._device = None

    def _ids(self, prompt: str | Iterable[int]) -> list[int]:
        """A prompt as ids that this model has. ValueError for any other."""
        hint = "a text, or the ids of a tokenizer"
        if isinstance(prompt, (bytes, dict)) or not isinstance(prompt, Iterable):
            refuse("generate", "prompt", prompt, "a text or its ids", hint)
        found = self.prompt_ids(prompt) if isinstance(prompt, str) else list(prompt)
        size, limit = self.config.vocab_size, self.config.max_seq_len
        ids = [whole("generate", "each id of the prompt", i, 0, size - 1) for i in found]
        if not 0 < len(ids) <= limit:
            raise BadInput(
                f"[generate] expected a prompt of 1 to {limit} tokens, got {len(ids)}. "
                "Hint: shorten it; BOS alone is the shortest."
            )
        return ids

    def generate(
        self,
        prompt: str = "",
        tokens: int = TOKENS,
        temperature: float = TEMPERATURE,
        top_k: int = TOP_K,
        top_p: float = TOP_P,
        seed: int = 0,
        device: Device | None = None,
        stop: Collection[str] = (),
        **more: Any,
    ) -> str:
        """`prompt` and its continuation as text, up to the first of the strings in `stop`.
        Arguments, `more` too, as in `stream`."""
        instance("generate", "prompt", prompt, str, "stream takes ids")
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            refuse("generate", "stop", stop, "strings to end at", "['###'], for example")
        ids = self._ids(prompt)
        said = Said(self.tokenizer, stop, ids)
        parts = [said.begun]
        for token in self.stream(ids, tokens, temperature, top_k, top_p, seed, device, **more):
            parts.append(said.push(token))
            if said.met:
                break
        return "".join([*parts, said.close()])

    def chat(self) -> Chat:
        """The chat template of the model's tokenizer files. ModelError if there is none."""
        if self._chat is None or self._chat.tokenizer is not self.tokenizer:
            self._chat = Chat.of(self.tokenizer)
        if self._chat is None:
            raise ModelError(
                f"[chat] expected a tokenizer with a chat template, {self.tokenizer.name} has "
                "none. Hint: generate continues a text as it is."
            )
        return self._chat

    def reply(
        self,
        message: str,
        tokens: int = TOKENS,
        temperature: float = TEMPERATURE,
        top_k: int = TOP_K,
        top_p: float = TOP_P,
        seed: int = 0,
        device: Device | None = None,
    ) -> str:
        """The assistant's answer to `message`, by the model's chat template, up to the mark that
        ends its turn. Arguments as in `stream`."""
        instance("chat", "message", message, str, "what the user says")
        chat = self.chat()
        ids = chat.prompt(message)
        found = self.stream(ids, tokens, temperature, top_k, top_p, seed, device, chat.ends)
        return self.tokenizer.decode(found)

    def save(self, path: str | Path, to: str = "", dtype: str = "", merge: bool = False) -> Path:
        """Writes the model, whole or not at all; `load` opens what it wrote. Returns the path.

        to: `checkpoint` keeps everything; `hf`, `gguf` and `llama2c` are for other programs; `peft`
        and `mlx` hold only the adapter. Empty: gguf or llama2c if the path ends in .gguf or .bin,
        else checkpoint. dtype: the type of the written weights (hf: F32, BF16, F16; gguf: F16, F32,
        BF16, Q8_0). merge: adds the adapter into the weights. ConfigError, ValueError or FileError
        in one line; existing files are never overwritten.
        """
        if not isinstance(path, (str, os.PathLike)):
            refuse("save", "path", path, "the path of a folder or a file to be")
        for name, value in (("to", to), ("dtype", dtype)):
            instance("save", name, value, str, "'gguf', for example")
        output = Output.of(Path(path), to, dtype, merge, "save", False, otherwise="checkpoint")
        write(output, self)
        return output.out

    def evaluate(
        self, data: TokenData | str | Path, context: int = 0, tokens: int = 0,
        device: Device | None = None, apart: bool = False,
    ) -> Score:  # fmt: skip
        """Scores a text: nats per token, perplexity and bits per byte, with their standard errors,
        as `anefast eval` prints them.

        data: the path of a text file, or an opened `TokenData`, whose validation part is scored.
        context: tokens of a window, 0 for as many as it was trained on, at most 1024. tokens: only
        the first so many, 0 for all. apart: windows do not overlap, as in a run's validation.
        BadInput where there are too few.
        """
        from anefast.eval import evaluate, held_out

        return evaluate(self, held_out(self, data), context, tokens, self._opened(device), apart)

    def fit(self, data: TokenData | str | Path | None = None, **settings: Any) -> FitResult:
        """Goes on training this model, whose weights change in place: `anefast.fit` with
        model=self.

        data: a path, or an opened `TokenData`; None takes the built-in stories. settings: those of
        a run by keyword (`steps=200, lr=1e-4, batch=4`), over the preset `finetune`.
        """
        from anefast.train import fit

        return fit(model=self, data=data, **settings)

    def trainer(
        self, batch: int = 8, seq: int = 128, device: Device | None = None, plan: str = "auto",
        **settings: Any,
    ) -> Updates:  # fmt: skip
        """A training loop to write yourself; see updates.py.

        settings: those of optim and loss_scale by keyword (`lr=3e-3, accumulation=4, clip=0`), and
        `steps`, the update at which the schedule ends.
        """
        from anefast.keywords import with_keywords
        from anefast.updates import Updates

        config, named = with_keywords(TrainConfig(optim=LOOP), settings, "trainer")
        for name in named:
            if name != "steps" and name.partition(".")[0] not in ("optim", "loss_scale"):
                refuse("trainer", "the settings", name, "of optim or loss_scale, or steps")
        step = self.training_step(device, batch, seq, plan, accumulation=config.optim.accumulation)
        self.optim = config.optim
        return Updates(self, step, config)

    def summary(self) -> Summary:
        """A table of its parts, their shapes and sizes, and what training it takes in memory: with
        the optimiser of its last run in this process, AdamW before that. Of a model that has an
        adapter, that is all that is trained."""
        trained = shapes_in(self.lora.params if self.lora else self.params)
        made, count = parts(self.params), sum(map(math.prod, trained.values()))
        numbers = sum(part.weights for part in made) + count + count_states(self.optim, trained)
        if self.lora:
            numbers += count
        head = line(self.config, self.params, self.tokenizer)
        return Summary(head, made, self.optim.name, numbers)

    def __repr__(self) -> str:
        return f"Model({line(self.config, self.params, self.tokenizer)})"


def weights_of(params: Params) -> tuple[int, ...]:
    """A sum of the bits of every parameter in memory, and where it lies: what training changes,
    changes it."""
    found: list[int] = []
    for value in held(params).values():
        bits = np.ascontiguousarray(value).view(np.uint32).reshape(-1)
        pairs = bits[: len(bits) // 2 * 2].view(np.uint64)
        found += [value.ctypes.data, int(pairs.sum()), int(bits[-1])]
    return tuple(found)


def opened(device: Device | None) -> Device:
    """The device that was passed, or a new one where none was. ValueError for anything else."""
    if device is None:
        return Device()
    instance("device", "device", device, Device, "Device('host')")
    return device

"""A model in the hand: configuration, parameters, tokenizer; load, save, generate, train.

    >>> import anefast
    >>> model = anefast.Model.load("runs/my-run")           # doctest: +SKIP
    >>> print(model.generate("Once upon a time", tokens=64))  # doctest: +SKIP

What it is not: a device. Programs are compiled by what it makes, `training_step` and `inference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anefast import llama2c
from anefast.checkpoint import find_checkpoint, load_model, load_vocabulary
from anefast.config import ModelConfig
from anefast.fuse import find_plan
from anefast.nn import Params, Vocabulary, init_params
from anefast.runtime import Device, Inference, TrainingStep
from anefast.runtime.auto import candidates
from anefast.runtime.taken import first_taken
from anefast.sampling import sample
from anefast.tokenizer import Tokenizer, open_tokenizer


@dataclass
class Model:
    """A Llama-family model. `params` are fp32 arrays by name (`anefast.nn.shapes`).

    vocabulary: the only ids that it may generate, where it was trained with `compact_vocab`. A
    checkpoint keeps it, a llama2.c file cannot.
    """

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary | None = None

    @classmethod
    def from_config(cls, config: ModelConfig, tokenizer: Tokenizer, seed: int = 1337) -> Model:
        """A model with freshly drawn parameters."""
        return cls(config, init_params(config, seed), tokenizer)

    @classmethod
    def load(cls, path: str | Path, tokenizer: str = "") -> Model:
        """Opens a run folder, one of its checkpoints, or a llama2.c `.bin` file.

        `tokenizer` is "bytes" or a tokenizer file; a run brings its own, a `.bin` file needs one.
        Raises ValueError or FileNotFoundError with one clear line.
        """
        path, vocabulary = Path(path), None
        if path.is_dir():
            folder = find_checkpoint(path)
            config, params = load_model(folder)
            vocabulary = load_vocabulary(folder)
            source = tokenizer or str(folder)
        else:
            config, params = llama2c.load(path)
            source = tokenizer
        if not source:
            raise ValueError(
                f"[model] expected a tokenizer for {path}. Hint: llama2.c keeps it apart, "
                "pass its tokenizer .bin."
            )
        opened = open_tokenizer(source)
        if opened.vocab_size > config.vocab_size:
            raise ValueError(
                f"[model] expected a tokenizer of at most {config.vocab_size} ids, "
                f"got {opened.vocab_size} in {source}."
            )
        return cls(config, params, opened, vocabulary)

    def training_step(
        self,
        device: Device | None = None,
        batch: int = 1,
        seq: int = 256,
        plan: str = "unfused",
        swap_at: int | None = 1,
        load: bool = True,
        accumulation: int = 100,
        vocabulary: Vocabulary | None = None,
        flows: bool = False,
    ) -> TrainingStep:
        """Compiles forward and backward for micro-batches of `batch` x `seq` tokens.

        swap_at: for a plan that compiles async, how many micro-steps after an update its programs
        take over (None: when ready). load=False leaves the first compile to `update_weights`.
        accumulation: micro-steps per update, by which `auto` weighs compiling; where the
        device refuses what it chose, the next best is tried, with a warning. vocabulary: train
        over these ids only (nn/vocabulary.py). flows: for updates of one micro-step without
        clipping, gradients that are never stored (runtime/flow.py). Raises ValueError naming the
        limit where the device cannot hold the plan.
        """
        opened = device or Device()
        specs, _ = candidates(plan, self.config, opened, batch, seq, accumulation)
        _, step = first_taken(
            specs,
            lambda spec: TrainingStep(
                self.config, self.params, opened, batch, seq, find_plan(spec),
                swap_at, load, vocabulary, flows,
            ),
        )  # fmt: skip
        return step

    def inference(self, device: Device | None = None, plan: str = "unfused") -> Inference:
        """Forward programs for next-token logits, compiled as lengths are met."""
        return Inference(self.config, self.params, device or Device(), find_plan(plan))

    def stream(
        self,
        prompt: str | Iterable[int] = "",
        tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        device: Device | None = None,
    ) -> Iterator[int]:
        """Yields token ids after `prompt`, until BOS or EOS, `tokens` ids, or the context is full.

        prompt: a text, or its ids with BOS in front. temperature 0 takes the likeliest token;
        top_k 0 and top_p 1 are off.
        """
        rng = np.random.default_rng(seed)
        encoded = self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else prompt
        ids = [int(i) for i in encoded]
        limit = self.config.max_seq_len
        if len(ids) > limit:
            raise ValueError(
                f"[generate] expected a prompt of at most {limit} tokens, got {len(ids)}."
            )
        inference = self.inference(device)
        try:
            while tokens > 0 and len(ids) <= limit:
                logits = inference.logits(ids)
                if self.vocabulary is not None:
                    logits = self.vocabulary.hide(logits)
                token = sample(logits, temperature, top_k, top_p, rng)
                if token in (self.tokenizer.bos_id, self.tokenizer.eos_id):
                    return
                yield token
                ids.append(token)
                tokens -= 1
        finally:
            inference.close()

    def generate(
        self,
        prompt: str = "",
        tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        device: Device | None = None,
    ) -> str:
        """`prompt` and its continuation as text. Arguments as in `stream`."""
        ids = list(self.tokenizer.encode(prompt, bos=True))
        ids += self.stream(tuple(ids), tokens, temperature, top_k, top_p, seed, device)
        return self.tokenizer.decode(ids)

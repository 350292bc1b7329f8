"""Every setting of a run and its default: frozen dataclasses, checked when they are built.

This is the one place a default lives; flags, TOML files and presets only override it. It is not the
command line (that is cli.py, which layers flag > file > preset > default). Read next: presets.py
for the named models, cli.py for the layering, train.py for what the values do.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anefast import spelling
from anefast.checks import Checked, need, need_choice
from anefast.checks import ConfigError as ConfigError
from anefast.checks import suggest as suggest
from anefast.errors import shown
from anefast.ramp import Ramp

ROW_MULTIPLE = 32  # 32 fp16 values fill the 64-byte row stride of a device surface
DERIVED = ("n_kv_heads", "head_dim", "hidden_dim", "vocab_size")  # of a model, where they are 0
LARGEST = 1 << 24  # of a size: past it, arithmetic on shapes would no longer be exact in C
# What a run's config.toml says of data, a tokenizer or a model that the caller of `fit` passed.
GIVEN = "given to fit"


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The model's shape."""

    family: str = "llama"  # One of FAMILIES (Mistral is a llama).
    dim: int = 128  # Width C of the residual stream.
    n_layers: int = 3  # Number of layers.
    n_heads: int = 4  # Query heads.
    # Key/value heads, each read by n_heads / n_kv_heads query heads. 0: as n_heads.
    n_kv_heads: int = 0
    head_dim: int = 0  # Size of one head, even. 0: dim // n_heads.
    hidden_dim: int = 0  # Width of the feed-forward. 0: 8/3 of dim, up to a multiple of 32.
    vocab_size: int = 0  # Rows of the embedding. 0: as many as the tokenizer has.
    max_seq_len: int = 256  # Longest sequence the model is meant for.
    rope_theta: float = 10000.0  # Base of the rotary frequencies.
    # Slower rotary frequencies for longer contexts: "linear:FACTOR",
    # "llama3:FACTOR,LOW,HIGH,LENGTH" as in Llama 3.1, "divisors:D0,D1,..." with one number per pair
    # of channels; empty: none.
    rope_scaling: str = ""
    sliding_window: int = 0  # Positions a query reads, its own included. 0: all before it.
    attention_bias: bool = False  # Biases on wq, wk, wv and wo, in the llama family.
    mlp_bias: bool = False  # Biases on w1, w2 and w3, in the llama family.
    norm_eps: float = 1e-5  # Epsilon inside RMSNorm and LayerNorm.
    tied: bool = True  # Classifier shares the embedding's weights.
    residual_scale: float = 1.0  # Multiplies attention and FFN outputs, e.g. 1/sqrt(2 * layers).
    init_std: float = 0.02  # Standard deviation of the initial weights.
    # The device keeps the residual stream times this power of two, so that it stays within fp16.
    stream_scale: float = 1.0

    def _check(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "max_seq_len"):
            value = getattr(self, name)
            need(
                value >= 1, f"model.{name} must be at least 1, got {value}", "give a positive size"
            )
            _need_size(f"model.{name}", value)
        for name in (*DERIVED, "sliding_window"):
            value = getattr(self, name)
            need(value >= 0, f"model.{name} must not be negative, got {value}", "0 derives it")
            _need_size(f"model.{name}", value)
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.head_dim == 0:
            need(
                self.dim % self.n_heads == 0,
                f"model.dim {self.dim} is not divisible by model.n_heads {self.n_heads}",
                f"use {_divisors(self.dim)} heads, or set model.head_dim",
            )
            object.__setattr__(self, "head_dim", self.dim // self.n_heads)
        if self.hidden_dim == 0:
            object.__setattr__(self, "hidden_dim", _default_hidden(self.dim))
        need(
            self.head_dim % 2 == 0,
            f"model.head_dim {self.head_dim} is odd, and RoPE turns pairs of channels",
            "choose dim and n_heads so that dim / n_heads is even",
        )
        need(
            self.n_heads % self.n_kv_heads == 0,
            f"model.n_heads {self.n_heads} is not divisible by model.n_kv_heads {self.n_kv_heads}",
            f"use {_divisors(self.n_heads)} key/value heads",
        )
        need(
            self.vocab_size != 1,
            "model.vocab_size must be at least 2, got 1",
            "0 asks the tokenizer",
        )
        for name in ("rope_theta", "norm_eps", "residual_scale"):
            value = getattr(self, name)
            need(
                0 < value < float("inf"),
                f"model.{name} must be positive, got {value}",
                "see --help",
            )
        _check_rope_scaling(self.rope_scaling, self.head_dim)
        need(
            0 <= self.init_std < float("inf"),
            f"model.init_std must be finite and not negative, got {self.init_std}",
            "0.02 is usual",
        )
        need(
            0 < self.stream_scale <= 1 and math.frexp(self.stream_scale)[0] == 0.5,
            f"model.stream_scale must be 1 or a half, a quarter..., got {self.stream_scale}",
            "1 suits every model whose activations stay below 16384",
        )

    @property
    def stream_eps(self) -> float:
        """The epsilon of a norm that reads the residual stream as the device keeps it."""
        return self.norm_eps * self.stream_scale**2

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; sizes that were derived are derived again."""
        self._known(changes)
        return ModelConfig(**{**model_settings(self), **changes})


def _check_rope_scaling(scaling: str, head_dim: int) -> None:
    kind, _, rest = scaling.partition(":")
    counts = {"linear": 1, "llama3": 4, "divisors": head_dim // 2}
    try:
        values = [float(v) for v in rest.split(",")] if scaling else []
    except ValueError:
        values = []
    good = len(values) == counts.get(kind) and all(0 < v < float("inf") for v in values)
    if kind == "llama3" and good:
        good = values[1] < values[2]
    need(
        not scaling or good,
        f"model.rope_scaling must be empty, linear:FACTOR, llama3:FACTOR,LOW,HIGH,LENGTH or "
        f"divisors: and {head_dim // 2} numbers, got {scaling!r}",
        "llama3:8,1,4,8192 is Llama 3.1's",
    )


def _default_hidden(dim: int) -> int:
    return (8 * dim // 3 + 31) // 32 * 32


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 64) + 1) if n % d == 0)


def model_settings(model: ModelConfig) -> dict[str, Any]:
    """The fields of a model config, with sizes that equal their derived value given back as 0."""
    values = dataclasses.asdict(model)
    if model.n_kv_heads == model.n_heads:
        values["n_kv_heads"] = 0
    if model.head_dim * model.n_heads == model.dim:
        values["head_dim"] = 0
    if model.hidden_dim == _default_hidden(model.dim):
        values["hidden_dim"] = 0
    return values


@dataclass(frozen=True)
class DataConfig(Checked):
    """The text to read, and the pieces it is cut into."""

    # Built-in "stories" or "stories:N", a text, rows of JSON, token ids (.bin, .npy), a folder of
    # those, or - for a pipe of text. Short: --data.
    source: str = "stories"
    # What makes tokens of text: "bytes", the "words" of the built-in stories, a tokenizer file, or
    # bpe:2048. Short: --tokenizer.
    tokenizer: str = "bytes"
    seq_len: int = 128  # Tokens per sequence S; a multiple of 32.
    batch: int = 8  # Sequences per micro-batch B.
    # Part held out for validation, where the data has no part of its own for that.
    val_fraction: float = 0.1
    order: str = "shuffled"  # How sequences follow each other: "shuffled", or "sequential".
    # Documents lie end to end, and a sequence begins and ends anywhere in them. Without packing a
    # sequence is one document from its beginning, padded, and cut where it is longer.
    packing: bool = True
    # No sequence reaches over a document's end, so nothing attends to another document: a longer
    # one is read in several sequences, the last of them padded. Nothing is packed then.
    boundaries: bool = False
    # Train over the token ids that occur in the data only: a smaller classifier, and no other id is
    # ever generated. Checkpoints keep full tables (models/vocabulary.py).
    compact_vocab: bool = False
    collapse_spaces: bool = False  # Runs of spaces become one, as usual for TinyStories.
    seed: int = 0  # Decides the shuffling and the built-in stories.

    def _check(self) -> None:
        need(
            self.seq_len >= 1 and self.seq_len % ROW_MULTIPLE == 0,
            f"data.seq_len must be a positive multiple of {ROW_MULTIPLE}, got {self.seq_len}",
            f"use {max(1, -(-self.seq_len // ROW_MULTIPLE)) * ROW_MULTIPLE}",
        )
        need(self.batch >= 1, f"data.batch must be at least 1, got {self.batch}", "1 is fine")
        for name in ("seq_len", "batch"):
            _need_size(f"data.{name}", getattr(self, name))
        need(
            0 < self.val_fraction < 1,
            f"data.val_fraction must lie between 0 and 1, got {self.val_fraction}",
            "0.1 holds out a tenth",
        )
        need_choice("data.order", self.order, ("shuffled", "sequential"))
        _need_seed("data.seed", self.seed)
        need(bool(self.tokenizer), "data.tokenizer is empty", "'bytes', a file, or bpe:2048")
        need(bool(self.source), "data.source is empty", "name a file, a folder or 'stories'")


@dataclass(frozen=True)
class OptimConfig(Checked):
    """The optimiser, its rate and gradient accumulation. -1: as the optimiser has it."""

    # The update: OPTIMISERS; see anefast/optim/. Muon is for the layers' matrices, and the rest has
    # AdamW's.
    name: str = "adamw"
    # Peak learning rate. The default and those of presets are AdamW's: where none is named, another
    # optimiser takes its usual part of it, and says so.
    lr: float = 3e-4
    beta1: float = -1  # Decay of the mean of gradients. AdamW's: 0.9.
    beta2: float = -1  # Decay of the mean of squared gradients. AdamW's: 0.95.
    eps: float = -1  # Keeps the division finite. AdamW's: 1e-8.
    weight_decay: float = -1  # Decoupled decay; matrices only, never norms. AdamW's: 0.1.
    momentum: float = -1  # Momentum of sgd (0.9) and of muon's matrices (0.95).
    nesterov: bool = False  # Whether the momentum of sgd looks ahead.
    # Rates and decay of tensors by pattern: "*.norm:decay=0; tok_embeddings:lr=0.5x". The last that
    # fits a tensor counts.
    rules: str = ""
    # Half-life in tokens of an average of the weights, which is evaluated at the end and exported
    # by --ema; 0: none.
    ema_tokens: int = 0
    # Evaluate the average at each validation, not only at the end. Plans that bake weights compile
    # for it twice.
    ema_eval: bool = False
    # Resume with another optimiser or other settings of it; its states begin at zero.
    fresh: bool = False
    warmup_steps: int = 100  # Updates of linear warm-up.
    min_lr_ratio: float = 0.1  # A rate that falls to the last update ends at this part of lr.
    # Largest global gradient norm; 0 turns clipping off. Without it and with accumulation 1,
    # gradients of matrices go straight into the update and are never stored (the classifier's of
    # few tokens).
    clip: float = 1.0
    # Micro-batches per update. High, because an update means new weights on the device.
    accumulation: int = 100
    # More micro-batches per update from some updates on: "8@500, 32@2000" has 8 from update 500 on.
    ramp: str = ""
    # Multiply lr by accumulation. For an lr that was tuned with one micro-batch per update and
    # small enough to grow: an update then goes as far as that many small ones would have. Off by
    # default, because Adam's step hardly depends on the gradient's size, and the square root of
    # accumulation is often closer.
    scale_lr_with_accumulation: bool = False

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, scaling included."""
        return self.lr * self.accumulation if self.scale_lr_with_accumulation else self.lr

    @property
    def micro_batches(self) -> Ramp:
        """How many micro-batches each update has."""
        return Ramp.of(self.accumulation, self.ramp)

    @property
    def flows(self) -> bool:
        """Whether nobody but the update reads a gradient: nothing adds to it, nothing clips it."""
        return self.micro_batches.most == 1 and not self.clip

    def _check(self) -> None:
        need(
            0 <= self.lr < float("inf"),
            f"optim.lr must be finite and not negative, got {self.lr}",
            "try 3e-4",
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            need(
                value == -1 or 0 <= value < 1,
                f"optim.{name} must lie in [0, 1), got {value}",
                "-1 leaves it to the optimiser",
            )
        need(
            self.eps == -1 or 0 < self.eps < float("inf"),
            f"optim.eps must be finite and positive, got {self.eps}",
            "1e-8 is usual",
        )
        need(
            self.weight_decay == -1 or 0 <= self.weight_decay < float("inf"),
            f"optim.weight_decay must be finite and not negative, got {self.weight_decay}",
            "0 turns it off",
        )
        for name in ("clip", "warmup_steps", "ema_tokens"):
            value = getattr(self, name)
            need(
                0 <= value < float("inf"),
                f"optim.{name} must be finite and not negative, got {value}",
                "0 turns it off",
            )
        need(
            0 <= self.min_lr_ratio <= 1,
            f"optim.min_lr_ratio must lie in [0, 1], got {self.min_lr_ratio}",
            "0.1 is usual",
        )
        need(
            self.accumulation >= 1,
            f"optim.accumulation must be at least 1, got {self.accumulation}",
            "1 updates after every micro-batch",
        )
        Ramp.of(self.accumulation, self.ramp)


@dataclass(frozen=True)
class LoraConfig(Checked):
    """LoRA: the model stays as it is; a pair of small matrices beside each of its own trains."""

    # Rows of each pair of matrices, 8 is usual; 0: no LoRA, the model itself trains. LoRA needs a
    # base, which init names.
    rank: int = 0
    # What a pair gives is multiplied by alpha / rank.
    alpha: float = 16.0
    # Multiply what a pair gives by alpha / sqrt(rank) instead, which suits ranks above 32.
    rslora: bool = False
    # The matrices that get a pair: patterns with commas between, such as wq,wv; empty: all of the
    # layers.
    targets: str = ""
    # Pairs are in the last so many layers only, and backward ends at the first of them. 0: in all.
    layers: int = 0

    def _check(self) -> None:
        need(
            0 <= self.rank <= 1024,
            f"lora.rank must lie between 0 and 1024, got {self.rank}",
            "8 is usual, 0 trains the model itself",
        )
        need(
            0 < self.alpha < float("inf"),
            f"lora.alpha must be finite and positive, got {self.alpha}",
            "twice the rank is usual",
        )
        need(self.layers >= 0, f"lora.layers must not be negative, got {self.layers}", "0 is all")


SCHEDULES = ("cosine", "linear", "constant", "wsd", "inverse-sqrt")


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """The course of the rate after warm-up."""

    # What the rate does: cosine and linear fall to optim.min_lr_ratio at the last update; constant
    # stays; wsd stays and cools down at the end; inverse-sqrt falls with the root of the update.
    name: str = "cosine"
    decay: float = 0.2  # The part of the run that wsd cools down in.
    # Cool down from this update on, by 1 - sqrt to optim.min_lr_ratio at the last: a number, or
    # "now" where a run is resumed. Empty: only as the schedule says.
    decay_from: str = ""

    def _check(self) -> None:
        need_choice("schedule.name", self.name, SCHEDULES)
        need(
            0 <= self.decay <= 1,
            f"schedule.decay must lie in [0, 1], got {self.decay}",
            "0.2 cools down in the last fifth",
        )
        need(
            self.decay_from in ("", "now") or self.decay_from.isdecimal(),
            f"schedule.decay_from must be an update or now, got {shown(repr(self.decay_from))}",
            "with --resume, now branches a cool-down off the checkpoint",
        )


@dataclass(frozen=True)
class LossScaleConfig(Checked):
    """Keeps small gradients above the smallest fp16 number."""

    # The factor on the gradient of the SUM of token losses. That sum is already batch * seq_len
    # times larger than the mean, so this is small beside the 65536 seen where the mean is scaled.
    initial: float = 64.0
    dynamic: bool = True  # Halve after an overflow, double after growth_interval good updates.
    growth_interval: int = 200  # Good updates before the factor doubles.
    maximum: float = 1024.0  # The factor never grows past this.

    def _check(self) -> None:
        for name in ("initial", "maximum"):
            value = getattr(self, name)
            power = (
                value > 0
                and value < float("inf")
                and float(value).hex().startswith("0x1.0000000000000p")
            )
            need(power, f"loss_scale.{name} must be a power of two, got {value}", "64 is usual")
        need(
            self.initial <= self.maximum,
            f"loss_scale.initial {self.initial} is above loss_scale.maximum {self.maximum}",
            "raise the maximum",
        )
        need(
            self.growth_interval >= 1,
            f"loss_scale.growth_interval must be at least 1, got {self.growth_interval}",
            "200 is usual",
        )


@dataclass(frozen=True)
class GuardConfig(Checked):
    """Guards of a run against its device."""

    # Seconds after which a call of the device counts as one that never returns: the run is saved
    # and ends. 0: no limit. Compiles of 180 s and more are published, so there is room.
    compile_s: float = 3600.0
    # Seconds after which loading or unloading a program counts as never returning. 0: no limit.
    load_s: float = 600.0
    # Seconds after which one evaluation, milliseconds on a chip, counts as never returning. 0: no
    # limit.
    evaluate_s: float = 600.0
    # Updates between canaries: programs of a micro-step are replayed on the exact host, and a run
    # whose device gives other values, with no error, ends there. One comes before every checkpoint
    # too. 0: none. Nothing is replayed where the host itself is the device.
    canary_every: int = 100
    # How far a value may be off, as a part of its tensor's largest magnitude.
    canary_tolerance: float = 0.25

    def _check(self) -> None:
        for name in ("compile_s", "load_s", "evaluate_s"):
            value = getattr(self, name)
            need(
                0 <= value < float("inf"), f"guard.{name} must not be negative, got {value}",
                "0 is no limit",
            )  # fmt: skip
        need(
            self.canary_every >= 0,
            f"guard.canary_every must not be negative, got {self.canary_every}",
            "0 turns it off",
        )
        need(
            0 < self.canary_tolerance < float("inf"),
            f"guard.canary_tolerance must be positive, got {self.canary_tolerance}",
            "0.25 allows a quarter of the tensor's largest magnitude",
        )


@dataclass(frozen=True)
class DistConfig(Checked):
    """Data parallel training: `mpiexec -n R` before the command makes R ranks of it."""

    # Ranks that one process stands in for, one after the other: the bytes of so many real ones.
    emulate: int = 1
    # Each rank keeps the optimiser's states of its own part of the weights only: the same bytes, in
    # less memory.
    shard_optimizer: bool = False
    # Updates that each rank makes of weights of its own before all meet (DiLoCo), for slow links.
    # 1: gradients are summed for every update.
    local_steps: int = 1
    outer_lr: float = 0.7  # With local_steps: the rate of the step that all take when they meet.
    # With local_steps: the Nesterov momentum of the step that all take when they meet.
    outer_momentum: float = 0.9

    def _check(self) -> None:
        need(
            1 <= self.local_steps < LARGEST,
            f"dist.local_steps must lie between 1 and {LARGEST - 1:,}, got {self.local_steps}",
            "1 sums gradients for every update",
        )
        need(
            0 < self.outer_lr < float("inf"),
            f"dist.outer_lr must be positive, got {self.outer_lr}",
            "0.7 is published",
        )
        need(
            0 <= self.outer_momentum < 1,
            f"dist.outer_momentum must lie in [0, 1), got {self.outer_momentum}",
            "0.9 is published",
        )
        need(
            1 <= self.emulate <= 1024,
            f"dist.emulate must lie between 1 and 1024, got {self.emulate}",
            "1 emulates nothing",
        )


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One training run."""

    # Start from a named model and schedule: see presets.py. The command starts from tiny, from
    # bytes where other data than the built-in stories is named, and with --init from finetune; in
    # Python TrainConfig.from_preset takes them. Empty: the defaults below.
    preset: str = ""
    steps: int = 200  # Updates to make.
    eval_every: int = 50  # Updates between validations; 0: only at the start and the end.
    eval_batches: int = 8  # Micro-batches in one validation.
    # Validations in a row without a lower loss after which a run ends early; 0: none.
    patience: int = 0
    checkpoint_every: int = 0  # Updates between checkpoints; 0: whenever it validates.
    # Minutes after which a checkpoint is made besides, between micro-steps; 0: none. The run is the
    # same with and without.
    checkpoint_minutes: float = 10.0
    keep_last: int = 3  # Newest checkpoints to keep; the best one is kept besides.
    seed: int = 0  # Decides the initial weights, and the closing sample.
    # Train so many times, one process after another, with this seed and data.seed and those after
    # them, and compare: mean and band.
    seeds: int = 1
    # A TOML file of settings that runs differ in, one process after another, compared at the end;
    # see docs/sweeps.md.
    sweep: str = ""
    device: str = "auto"  # Where programs run: "auto", "host" or "ane".
    # The host emulates: CHIPS, doctor.json.
    chip: str = ""
    # How the step is cut into programs: unfused, layer, 4, all, auto; see anefast plan.
    plan: str = "auto"
    # Plans that compile async: the part of the next accumulation that still runs on the programs of
    # the update before. Fixed, so that a run repeats and resumes bit for bit; 0 swaps once the
    # new ones are ready, and then it does not.
    # A smaller part learns better, a larger one hides a longer compile (compiler.py has numbers).
    swap_after: float = 0.25
    # Compiles one process is meant to make: some systems were seen to fail after about 119.
    max_compiles: int = 500
    # What to do after max_compiles: "continue" with a warning, or "checkpoint-restart" in a new
    # process.
    on_budget: str = "continue"
    health_every: int = 10  # Updates between looks at numeric health; overflows always get one.
    cache_mb: int = 256  # MiB of loaded programs above which idle ones are unloaded.
    out: str = ""  # The run folder; empty: runs/<time>_<preset>.
    # Continue this run or checkpoint, bit for bit, or a sweep; "latest" is the newest run.
    resume: str = ""
    # Start from the weights of a run, a checkpoint, a Hugging Face folder, hf:owner/name, a GGUF
    # file or a llama2.c .bin.
    init: str = ""
    # Train only the parameters that these patterns name, with commas between, such as layers.5.* or
    # wq; empty: all of them. The rest is frozen.
    train: str = ""
    prompt: str = ""  # Begin the closing sample with this text.
    # Tokens of the closing sample at most; it ends with its document, or with the last sentence
    # that fits into the length that was trained. 0: none.
    sample_tokens: int = 200
    # Account for every millisecond, in timings.jsonl and at the end; costs less than 1%.
    timeline: bool = True
    breakdown: bool = False  # Print where the time went, component by component, at the end.
    trace: str = ""  # Write a trace for ui.perfetto.dev or chrome://tracing to this file.
    sinks: str = ""  # Feed dashboards too: "tensorboard", "trackio", "wandb", with commas.
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    dist: DistConfig = field(default_factory=DistConfig)

    def _check(self) -> None:
        for name in ("steps", "eval_batches", "keep_last", "max_compiles", "seeds"):
            value = getattr(self, name)
            need(value >= 1, f"{name} must be at least 1, got {value}", "see --help")
        for name in (
            "eval_every", "checkpoint_every", "checkpoint_minutes", "sample_tokens", "cache_mb",
            "patience",
            "health_every",
        ):  # fmt: skip
            value = getattr(self, name)
            need(value >= 0, f"{name} must not be negative, got {value}", "see --help")
        _need_seed("seed", self.seed)
        need_choice("device", self.device, ("auto", "host", "ane"))
        if self.chip:
            _check_chip(self.chip, self.device)
        need_choice("on_budget", self.on_budget, ("continue", "checkpoint-restart"))
        need(
            0 <= self.swap_after <= 1,
            f"swap_after must lie in [0, 1], got {self.swap_after}",
            "0.25 swaps programs after a quarter of the next accumulation",
        )
        if not self.init:  # else the shape is that of the weights, and not known yet
            check_length(self)
        need(
            not (self.resume and self.init),
            "resume and init were both given",
            "resume continues a run with its own weights; init starts a new one",
        )
        self._check_preset()

    def _check_preset(self) -> None:
        """A config may not call itself a preset that it has nothing of."""
        need(
            not self.preset or self.has_of(self.preset),
            f"preset {self.preset} is named, but none of its settings is here",
            f"TrainConfig.from_preset({self.preset!r}, ...) takes them",
        )

    def has_of(self, preset: str) -> bool:
        """Whether this has any setting of a preset that is not a default."""
        from anefast.presets import preset_settings

        mine, plain = flatten(to_settings(self)), flatten(to_settings(TrainConfig()))
        changed = {k: v for k, v in flatten(preset_settings(preset)).items() if v != plain[k]}
        return any(mine[k] == v for k, v in changed.items()) or self.model != ModelConfig()

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> TrainConfig:
        """The preset `name`, with top-level fields changed. Where none of its settings is left, the
        config has no preset.

        >>> TrainConfig.from_preset("stories260k", steps=10).model.dim
        64
        """
        from anefast.presets import preset_settings

        return from_settings(merge(preset_settings(name), changes)).called(name)

    def called(self, preset: str) -> TrainConfig:
        """This, named after a preset; as it is where it has nothing of it."""
        named = preset and self.has_of(preset)
        return dataclasses.replace(self, preset=preset) if named else self

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some fields changed, checked again."""
        need(
            changes.get("preset", self.preset) == self.preset,
            "replace keeps the settings of the preset it has, so preset cannot change",
            "TrainConfig.from_preset starts from another",
        )
        return super().replace(**changes)


def check_length(config: TrainConfig) -> None:
    """ConfigError where the sequences to train on are longer than the model takes."""
    need(
        config.data.seq_len <= config.model.max_seq_len,
        f"data.seq_len {config.data.seq_len} is longer than model.max_seq_len "
        f"{config.model.max_seq_len}",
        "shorten the sequence or raise model.max_seq_len",
    )


def _need_size(name: str, value: int) -> None:
    need(value < LARGEST, f"{name} must be below {LARGEST:,}, got {value}", "give a smaller size")


def _need_seed(name: str, value: int) -> None:
    need(
        0 <= value < 1 << 63, f"{name} must not be negative and fit 63 bits, got {value}", "0 does"
    )


def _check_chip(chip: str, device: str) -> None:
    from anefast.chips.behaviour import find_profile

    try:
        find_profile(chip)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    need(
        device != "ane",
        f"chip {chip} was given with device ane",
        "a chip is emulated by the host; without chip the ANE runs the programs",
    )


# ---- settings: the same values as plain nested dicts, the form of a TOML file ----


def to_settings(config: TrainConfig) -> dict[str, Any]:
    """`config` as nested plain dicts; derived sizes are 0, so that an edited file derives them."""
    values = dataclasses.asdict(config)
    values["model"] = model_settings(config.model)
    return values


def from_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """Nested dicts -> a checked TrainConfig. Missing keys keep defaults, unknown ones raise."""
    check_keys(settings)
    values = dict(settings)
    for name, kind in sections().items():
        if name in values and isinstance(values[name], Mapping):
            values[name] = kind(**values[name])
    return TrainConfig(**values)


def sections() -> dict[str, type[Any]]:
    """The nested dataclasses of TrainConfig by field name."""
    hints = typing.get_type_hints(TrainConfig)
    return {k: v for k, v in hints.items() if dataclasses.is_dataclass(v) and isinstance(v, type)}


def keys() -> dict[str, type[Any]]:
    """Every setting by dotted name with its type: 'steps', 'model.n_layers', ..."""
    found: dict[str, type[Any]] = {}
    for name, kind in typing.get_type_hints(TrainConfig).items():
        if dataclasses.is_dataclass(kind):
            found.update({f"{name}.{k}": v for k, v in typing.get_type_hints(kind).items()})
        elif not isinstance(kind, types.GenericAlias):
            found[name] = kind
    return found


def check_keys(settings: Mapping[str, Any], where: str = "") -> None:
    """ConfigError naming the first key that no setting has, with the closest one that exists."""
    known = keys()
    for key in flatten(settings):
        if key not in known:
            source = f" in {where}" if where else ""
            near = spelling.hint(key, known)
            raise ConfigError(f"[config] unknown setting {shown(repr(key))}{source}.{near}")


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{'model': {'dim': 8}} -> {'model.dim': 8}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` laid on top, section by section."""
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            merge(below, value) if isinstance(value, Mapping) and isinstance(below, dict) else value
        )
    return merged

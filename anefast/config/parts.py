"""The other sections of the settings: data, optim, schedule, lora, loss_scale, guard, dist."""

from __future__ import annotations

from dataclasses import dataclass

from anefast.checks import Checked, need, need_choice
from anefast.config.limits import LARGEST, ROW_MULTIPLE, need_seed, need_size
from anefast.errors import shown
from anefast.ramp import Ramp


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
            need_size(f"data.{name}", getattr(self, name))
        need(
            0 < self.val_fraction < 1,
            f"data.val_fraction must lie between 0 and 1, got {self.val_fraction}",
            "0.1 holds out a tenth",
        )
        need_choice("data.order", self.order, ("shuffled", "sequential"))
        need_seed("data.seed", self.seed)
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

"""The other sections of the settings: data, optim, schedule, lora, loss_scale, guard, dist."""

from __future__ import annotations

from dataclasses import dataclass

from anefast.checks import Checked, need, need_choice
from anefast.config.limits import LARGEST, ROW_MULTIPLE, need_seed, need_size
from anefast.errors import shown
from anefast.ramp import Ramp


@dataclass(frozen=True)
class DataConfig(Checked):
    """The data, its tokenizer, and how it is cut into sequences."""

    # Built-in "stories" or "stories:N", a text, rows of JSON, token ids (.bin, .npy), a folder of
    # those, or - for a pipe of text. Short: --data.
    source: str = "stories"
    # The tokenizer: "bytes", the "words" of the built-in stories, a tokenizer file, or bpe:2048 to
    # train one of 2048 tokens. Short: --tokenizer.
    tokenizer: str = "bytes"
    seq_len: int = 128  # Tokens per sequence S; a multiple of 32.
    batch: int = 8  # Sequences per micro-batch B.
    # Part held out for validation, if the data has no validation part of its own.
    val_fraction: float = 0.1
    order: str = "shuffled"  # Order of the sequences: "shuffled", or "sequential".
    # Documents lie end to end, and a sequence begins and ends anywhere in them. Without packing a
    # sequence is one document from its beginning, padded, and cut where it is longer.
    packing: bool = True
    # No sequence reaches over a document's end, so nothing attends to another document: a longer
    # one is read in several sequences, the last of them padded. Nothing is packed then.
    boundaries: bool = False
    # Train only the token ids that occur in the data: the classifier is smaller, and no other id is
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
    """The optimiser, its rate and gradient accumulation. -1: the optimiser's own default."""

    # The optimiser: OPTIMISERS; see anefast/optim/. Muon updates the layers' matrices, and AdamW
    # the rest.
    name: str = "adamw"
    # Peak learning rate. The default and those of presets are AdamW's: if none is given, another
    # optimiser scales it by its usual factor, and says so.
    lr: float = 3e-4
    beta1: float = -1  # Decay of the mean of gradients. AdamW's: 0.9.
    beta2: float = -1  # Decay of the mean of squared gradients. AdamW's: 0.95.
    eps: float = -1  # Keeps the division finite. AdamW's: 1e-8.
    weight_decay: float = -1  # Decoupled decay; matrices only, never norms. AdamW's: 0.1.
    momentum: float = -1  # Momentum of sgd (0.9) and of muon's matrices (0.95).
    nesterov: bool = False  # Use Nesterov's momentum with sgd.
    # Rates and decay of tensors by pattern: "*.norm:decay=0; tok_embeddings:lr=0.5x". The last
    # pattern that matches a tensor counts.
    rules: str = ""
    # Half-life in tokens of an average of the weights, which is evaluated at the end and exported
    # by --ema; 0: none.
    ema_tokens: int = 0
    # Evaluate the average at each validation, not only at the end. Plans with weights=const
    # compile twice for it.
    ema_eval: bool = False
    # Resume with another optimiser, or with other settings of it; its states begin at zero.
    fresh: bool = False
    warmup_steps: int = 100  # Updates of linear warm-up.
    min_lr_ratio: float = 0.1  # A falling learning rate ends at this part of lr.
    # Largest global gradient norm; 0 turns clipping off. Without clipping and with accumulation 1,
    # gradients of matrices go straight into the update and are never stored (the classifier's
    # only if a micro-batch has few tokens).
    clip: float = 1.0
    # Micro-batches per update. The default is high, because every update puts new weights on the
    # device.
    accumulation: int = 100
    # More micro-batches per update from some updates on: "8@500, 32@2000" has 8 from update 500 on.
    ramp: str = ""
    # Multiply lr by accumulation. Use it with an lr that was tuned for one micro-batch per update
    # and is small enough to grow: one update then goes as far as that many small ones. Off by
    # default, because Adam's step hardly depends on the gradient's size, and the square root of
    # accumulation is often closer.
    scale_lr_with_accumulation: bool = False

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, scaling included."""
        return self.lr * self.accumulation if self.scale_lr_with_accumulation else self.lr

    @property
    def micro_batches(self) -> Ramp:
        """The number of micro-batches of each update."""
        return Ramp.of(self.accumulation, self.ramp)

    @property
    def flows(self) -> bool:
        """True if gradients need not be stored: nothing accumulates them and nothing clips them."""
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
    """LoRA: the model stays frozen, and a pair of small matrices beside each of its own trains."""

    # Rank of each pair of matrices, 8 is usual; 0: no LoRA, the model itself trains. LoRA needs a
    # base model, which init names.
    rank: int = 0
    # The output of a pair is multiplied by alpha / rank.
    alpha: float = 16.0
    # Multiply the output of a pair by alpha / sqrt(rank) instead, which suits ranks above 32.
    rslora: bool = False
    # The matrices that get a pair: patterns with commas between, such as wq,wv; empty: all matrices
    # of the layers.
    targets: str = ""
    # Only this many layers, the last ones, have pairs, and backward ends at the first of them. 0:
    # all layers.
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
    """How the learning rate changes after warm-up."""

    # How the learning rate changes: cosine and linear fall to optim.min_lr_ratio at the last
    # update; constant stays; wsd stays and cools down at the end; inverse-sqrt falls with the root
    # of the update.
    name: str = "cosine"
    decay: float = 0.2  # The last part of the run, in which wsd cools down.
    # Cool down from this update on, by 1 - sqrt to optim.min_lr_ratio at the last: a number, or
    # "now" for a run that is resumed. Empty: the schedule decides.
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
    # times larger than the mean, so this factor is small beside the 65536 that other trainers use
    # on the mean.
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
    """Limits that protect a run from a device that hangs or gives wrong values."""

    # Seconds that a compile may take. After that the run is saved and ends. 0: no limit. Compiles
    # of 180 s and more were reported, so the default is high.
    compile_s: float = 3600.0
    # Seconds that loading or unloading a program may take, as above. 0: no limit.
    load_s: float = 600.0
    # Seconds that one evaluation may take (milliseconds are usual on a chip). 0: no limit.
    evaluate_s: float = 600.0
    # Updates between canary checks, which replay the programs of a micro-step on the exact host. If
    # the device gives wrong values, the run ends. There is one before every checkpoint too. 0:
    # none. If the device is the exact host itself, nothing is replayed.
    canary_every: int = 100
    # How far a value may be off, as a part of its tensor's largest magnitude.
    canary_tolerance: float = 0.25

    def _check(self) -> None:
        for name in ("compile_s", "load_s", "evaluate_s"):
            value = getattr(self, name)
            need(
                0 <= value < float("inf"), f"guard.{name} must not be negative, got {value}",
                "0 sets no limit",
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
    """Data parallel training: `mpiexec -n R` before the command starts R ranks."""

    # Ranks that one process emulates, one after the other. The results are those of as many real
    # ranks, byte for byte.
    emulate: int = 1
    # Each rank keeps the optimiser's states of its own part of the weights only. The run needs less
    # memory and gives the same bytes.
    shard_optimizer: bool = False
    # Updates that each rank makes on its own weights before all ranks average (DiLoCo), for slow
    # links. 1: gradients are summed for every update.
    local_steps: int = 1
    outer_lr: float = 0.7  # With local_steps: the learning rate of the common outer step.
    # With local_steps: the Nesterov momentum of the common outer step.
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
            "0.7 is the published value",
        )
        need(
            0 <= self.outer_momentum < 1,
            f"dist.outer_momentum must lie in [0, 1), got {self.outer_momentum}",
            "0.9 is the published value",
        )
        need(
            1 <= self.emulate <= 1024,
            f"dist.emulate must lie between 1 and 1024, got {self.emulate}",
            "1 emulates nothing",
        )

"""A plan: how the training step becomes programs. Data, not code paths.

Cuts follow the scopes that `models/layers.py` enters: `layers.3.attn.scores` says layer, half
and part. Read `cut.py` for what a cut does, `lower.py` for where values and weights lie.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from anefast.checks import instance, need_choice, whole
from anefast.ir import NormForm, RopeForm, ScaleForm, Spelling, Tensor
from anefast.models.lora import is_pair
from anefast.models.trained import Trained, trains

AUTO = "auto"
Depth = int | Literal["half", "all"]  # layers per program
Place = Literal["const", "packed", "params"]

WORDS: dict[str, dict[str, str]] = {  # what a plan may be told besides its depths
    "save": {"reads": "save"},
    "recompute": {"reads": "recompute"},
    "ports=several": {"ports": "several"},
    "ports=packed": {"ports": "packed"},
    "ports=padded": {"ports": "padded"},
    "rope=slices": {"rope": "slices"},
    "rope=axis3": {"rope": "axis3"},
    "rope=conv": {"rope": "conv"},
    "norm=scaled": {"norm": "scaled"},
    "norm=row": {"norm": "row"},
    "scale=late": {"scale": "late"},
    "scale=early": {"scale": "early"},
    "weights=const": {"weights": "const"},
    "weights=packed": {"weights": "packed"},
    "weights=params": {"weights": "params"},
    "norms=const": {"norms": "const"},
    "norms=packed": {"norms": "packed"},
    "norms=params": {"norms": "params"},
    "gradients=device": {"gradients": "device"},
    "gradients=cpu": {"gradients": "cpu"},
    "sync": {"compile": "sync"},
    "async": {"compile": "async"},
}


@dataclass(frozen=True)
class Plan:
    """Where the step is cut, and how values and weights reach the device.

    forward, backward: layers per program; `half` keeps attention and FFN apart, and backward also
        the three parts of attention, the unfused baseline: 24 forward and 48 backward evaluations
        per micro-step at 12 layers. `all` is one program.
    reads: backward reads what forward returns (`save`), or gets the inputs of the forward
        programs and computes the rest again (`recompute`).
    ports: `several`, one surface per value, or `packed`, one input and one output surface per
        program, values side by side on the channel axis. `padded` is packed without the concat
        that one report says is refused: outputs are padded to their places and added.
    rope: how rotary embedding is written (ir/ops/rope.py): `slices`, `axis3` or `conv`.
    norm: how the root of RMSNorm is (ir/ops/composite.py): `scaled`, or `row`, which is fewer tasks
        on a chip and loses streams of 256 and more where squares are rounded to fp16.
    scale: where queries are scaled: `late`, behind their rotation, or `early`, right behind their
        product, where it may cost a chip no task. Heads of 16, 64 or 256 channels have the same
        bytes either way, but for numbers below 2^-14.
    weights: of weights that change: `const` are baked and compiled again after every update;
        `packed` ride in the input surface beside the activations; `params` are inputs of their own.
        See `place`.
    norms: the same for gains and biases alone, which are vectors; None: as `weights`. As `params`,
        those of one length are one input.
    compile: `sync` waits for new programs; `async` trains on with the last weights meanwhile, at
        most one update stale.
    max_axis: the longest axis of a port that the target takes: 16384 up to M3, 65536 from M4.
    surfaces: `exact`, each as large as its port, or `equal`, all of a side of a program as large as
        the largest. The device does so anyway; here it only counts memory.
    gradients: who multiplies for those of an adapter: the `device`, which returns them in fp16 and
        keeps no taps for them, or the `cpu`, in fp32.
    trained: names of the weights that change, None for all.
    """

    name: str
    forward: Depth = "half"
    backward: Depth = "half"
    reads: Literal["save", "recompute"] = "save"
    ports: Literal["several", "packed", "padded"] = "several"
    rope: RopeForm = "slices"
    norm: NormForm = "scaled"
    scale: ScaleForm = "late"
    weights: Place = "const"
    norms: Place | None = None
    compile: Literal["sync", "async"] = "sync"
    dialect: Literal["ios18", "ios16"] = "ios18"
    max_axis: int = 65536
    surfaces: Literal["exact", "equal"] = "exact"
    gradients: Literal["device", "cpu"] = "device"
    trained: Trained = None

    def __post_init__(self) -> None:
        for name in ("forward", "backward"):
            value = getattr(self, name)
            if value not in ("half", "all"):
                whole("plan", name, value, 1, hint="or 'half', or 'all'")
        for name in ("reads", "ports", "norm", "scale", "weights", "norms", "gradients", "compile"):
            choices = tuple(w[name] for w in WORDS.values() if name in w)
            if name != "norms" or self.norms is not None:
                need_choice(name, getattr(self, name), choices, "plan")

    def place(self, parameter: Tensor) -> Place:
        """Where this weight is: baked for good if it is frozen, else as `weights` says, or `norms`
        for a vector; those of an adapter are data in any case, so that no update compiles
        anything."""
        name = str(parameter.name)
        if is_pair(name):
            return "params" if self.weights == "const" else self.weights
        if not trains(self.trained, name):
            return "const"
        return self.norms or self.weights if is_vector(parameter) else self.weights

    @property
    def spelling(self) -> Spelling:
        """The forms in which composites are written."""
        return Spelling(self.rope, self.norm, self.scale)

    def key(self, node: Tensor) -> str:
        """The name of the program that `node` runs in, such as `backward.layers.4-7`."""
        return self.program(node.scope, node.direction)

    def program(self, scope: str, direction: str) -> str:
        """The name of the program for nodes of this scope and direction."""
        found = scope.split(".")
        if len(found) < 3 or not found[1].isdigit():
            raise ValueError(
                f"[plan] expected every operation in a scope such as layers.3.ffn, got {scope!r}. "
                "Hint: a family's trunk enters one with ir.scope."
            )
        layers, index, half, *part = found
        depth = self.forward if direction == "forward" else self.backward
        if depth == "all":
            return f"{direction}.{layers}"
        if depth == "half":
            apart = direction == "backward" and self.reads == "save"
            return ".".join([direction, layers, index, half, *(part if apart else [])])
        first = int(index) // depth * depth
        return f"{direction}.{layers}.{index if depth == 1 else f'{first}-{first + depth - 1}'}"


def is_vector(parameter: Tensor) -> bool:
    """Whether a weight [Co, Ci, 1, 1] or [1, C, 1, 1] is a gain or a bias."""
    return parameter.shape[0] == 1


def find_plan(spec: str) -> Plan:
    """The plan that `spec` describes: depths, then what differs from the defaults.

    >>> find_plan("unfused").forward, find_plan("4/all,recompute,weights=params").backward
    ('half', 'all')

    Depths are `unfused`, `layer`, a number of layers, or `all`, for both directions or as
    forward/backward. `auto` is no plan yet: see choose.py. Raises ValueError with a suggestion
    where the spec cannot be read.
    """
    instance("plan", "plan", spec, str, "'all' or 'layer,weights=params', for example")
    if is_auto(spec):
        raise ValueError(
            f"[plan] expected a plan, got {spec!r}, which depends on model and device. "
            "Hint: training_step and fit resolve it; anefast plan shows how."
        )
    depths, *words = spec.split(",")
    forward, _, backward = depths.partition("/")
    plan = Plan(spec, depth(forward), depth(backward or forward))
    for word in words:
        if word not in WORDS:
            raise ValueError(unknown("word", word, WORDS))
        plan = replace(plan, **WORDS[word])  # type: ignore[arg-type]
    return plan


def is_auto(spec: str) -> bool:
    """True if a spec asks for the fastest plan rather than for one; words may follow `auto`."""
    return spec.split(",")[0] == AUTO


def is_async(spec: str) -> bool:
    """True if a spec, `auto` or not, compiles behind the training."""
    modes = [w for w in spec.split(",") if w in ("sync", "async")]
    return modes[-1:] == ["async"]


def multiplies(spec: str) -> str:
    """Who makes an adapter's gradients, as a spec, `auto` or not, says: device or cpu."""
    said = [w for w in spec.split(",") if w.startswith("gradients=")]
    return said[-1].removeprefix("gradients=") if said else "device"


def depth(word: str) -> Depth:
    """Layers per program, as a plan's spec names them."""
    named: dict[str, Depth] = {"unfused": "half", "half": "half", "layer": 1, "all": "all"}
    if word in named:
        return named[word]
    if word.isascii() and word.isdigit() and int(word) > 0:
        return int(word)
    raise ValueError(unknown("depth", word, named))


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """One line for a word that no plan has, with the nearest that some has."""
    known = list(known)
    near = difflib.get_close_matches(got, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}."
    return f"[plan] expected a known {what}, got {got!r}. Hint: {hint}"

"""A plan: how the training step becomes programs. Data, not code paths.

Cuts follow the scopes that `anefast/nn/layers.py` enters: `layers.3.attn.scores` says layer, half
and part. Read `cut.py` for what a cut does, `strategy.py` for how weights and ports are laid out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from anefast.ir import Tensor

Depth = int | Literal["half", "all"]  # layers per program

BACKWARD_READS = ("save", "recompute")
PORTS = ("several", "packed")
WEIGHTS = ("const", "packed", "params")
COMPILE = ("sync", "async")


@dataclass(frozen=True)
class Plan:
    """Where the step is cut, and how values and weights reach the device.

    forward, backward: layers per program; `half` keeps attention and FFN apart, and backward also
        the three parts of attention, the unfused baseline: 24 forward and 48 backward evaluations
        per micro-step at 12 layers. `all` is one program.
    reads: backward reads what forward returns (`save`), or gets the inputs of the forward
        programs and computes the rest again (`recompute`).
    ports: `several`, one surface per value, or `packed`, one input and one output surface per
        program, values side by side on the channel axis.
    weights: `const` are baked and compiled again after every update; `packed` ride in the input
        surface beside the activations; `params` are inputs of their own.
    compile: `sync` waits for new programs; `async` trains on with the last weights meanwhile, at
        most one update stale.
    """

    name: str
    forward: Depth = "half"
    backward: Depth = "half"
    reads: Literal["save", "recompute"] = "save"
    ports: Literal["several", "packed"] = "several"
    weights: Literal["const", "packed", "params"] = "const"
    compile: Literal["sync", "async"] = "sync"
    dialect: Literal["ios18", "ios16"] = "ios18"

    def key(self, node: Tensor) -> str:
        """The name of the program that `node` runs in, such as `backward.layers.4-7`."""
        return self.program(node.scope, node.direction)

    def program(self, scope: str, direction: str) -> str:
        """The name of the program for nodes of this scope and direction."""
        layers, index, half, *part = scope.split(".")
        depth = self.forward if direction == "forward" else self.backward
        if depth == "all":
            return f"{direction}.{layers}"
        if depth == "half":
            apart = direction == "backward" and self.reads == "save"
            return ".".join([direction, layers, index, half, *(part if apart else [])])
        first = int(index) // depth * depth
        return f"{direction}.{layers}.{index if depth == 1 else f'{first}-{first + depth - 1}'}"


PLANS = {
    plan.name: plan
    for plan in [
        Plan("unfused"),
        Plan("layer", forward=1, backward=1),
        Plan("4", forward=4, backward=4),
        Plan("all", forward="all", backward="all"),
    ]
}


def find_plan(name: str) -> Plan:
    """The plan called `name`. Raises ValueError with a suggestion where there is none."""
    if name in PLANS:
        return PLANS[name]
    near = difflib.get_close_matches(name, PLANS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(PLANS)}."
    raise ValueError(f"[plan] expected a known plan, got {name!r}. Hint: {hint}")

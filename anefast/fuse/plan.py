"""A plan: where the training step is cut into programs. Data, not code paths.

Cuts follow the scopes that `anefast/nn/layers.py` enters: `layers.3.attn.scores` says layer, half
and part. Read `cut.py` for what a cut does.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from anefast.ir import Tensor

Depth = int | Literal["half", "all"]  # layers per program


@dataclass(frozen=True)
class Plan:
    """How the graph becomes programs.

    forward, backward: layers per program; `half` keeps attention and FFN apart, and backward also
    the three parts of attention, the unfused baseline: 24 forward and 48 backward evaluations per
    micro-step at 12 layers. `all` is one program.
    """

    name: str
    forward: Depth
    backward: Depth
    dialect: Literal["ios18", "ios16"] = "ios18"

    def key(self, node: Tensor) -> str:
        """The name of the program that `node` runs in, such as `backward.layers.4-7`."""
        layers, index, half, *part = node.scope.split(".")
        depth = self.forward if node.direction == "forward" else self.backward
        if depth == "all":
            return f"{node.direction}.{layers}"
        if depth == "half":
            apart = part if node.direction == "backward" else []
            return ".".join([node.direction, layers, index, half, *apart])
        first = int(index) // depth * depth
        span = index if depth == 1 else f"{first}-{first + depth - 1}"
        return f"{node.direction}.{layers}.{span}"


PLANS = {plan.name: plan for plan in [Plan("unfused", forward="half", backward="half")]}


def find_plan(name: str) -> Plan:
    """The plan called `name`. Raises ValueError with a suggestion where there is none."""
    if name in PLANS:
        return PLANS[name]
    near = difflib.get_close_matches(name, PLANS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(PLANS)}."
    raise ValueError(f"[plan] expected a known plan, got {name!r}. Hint: {hint}")

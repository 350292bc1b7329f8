"""A plan: where the training step is cut into programs. Data, not code paths.

Cuts follow the scopes that `anefast/nn/layers.py` enters. Today there is one plan, `unfused`, the
baseline every other one is measured against: attention and FFN apart, so a 12-layer model takes 24
forward and 48 backward evaluations per micro-step.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from anefast.ir import Tensor

Key = Callable[[Tensor], str]  # the name of the program a node belongs to


@dataclass(frozen=True)
class Plan:
    """How the graph becomes programs.

    `forward` and `backward` are depths of the scope path that make one program: 3 keeps
    `layers.0.attn` and `layers.0.ffn` apart, 4 also `layers.0.attn.qkv`, `.scores` and `.out`.
    """

    name: str
    forward: int
    backward: int
    dialect: str = "ios18"

    def key(self, node: Tensor) -> str:
        """The program that `node` runs in."""
        depth = self.forward if node.direction == "forward" else self.backward
        return ".".join([node.direction, *node.scope.split(".")[:depth]])


PLANS = {plan.name: plan for plan in [Plan("unfused", forward=3, backward=4)]}


def find_plan(name: str) -> Plan:
    """The plan called `name`. Raises ValueError with a suggestion where there is none."""
    if name in PLANS:
        return PLANS[name]
    near = difflib.get_close_matches(name, PLANS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(PLANS)}."
    raise ValueError(f"[plan] expected a known plan, got {name!r}. Hint: {hint}")

"""Plans, cuts and lowering: how a training step becomes programs."""

from anefast.fuse.cut import Schedule, cut
from anefast.fuse.lower import Lowered, Port, Region, lower, lower_all
from anefast.fuse.plan import Depth, Plan, find_plan
from anefast.fuse.recompute import recompute

__all__ = [
    "Depth",
    "Lowered",
    "Plan",
    "Port",
    "Region",
    "Schedule",
    "cut",
    "find_plan",
    "lower",
    "lower_all",
    "recompute",
]

"""Plans and cuts: how a training step becomes programs."""

from anefast.fuse.cut import Schedule, cut
from anefast.fuse.plan import PLANS, Plan, find_plan

__all__ = ["PLANS", "Plan", "Schedule", "cut", "find_plan"]

"""Optimisers over fp32 masters, the schedule of their rate, clipping and the loss scale."""

from anefast.optim.loss_scale import LossScale
from anefast.optim.optimizer import Optimizer, Update
from anefast.optim.registry import RECORDS, count_states, record_of, settled
from anefast.optim.schedule import learning_rate

__all__ = [
    "RECORDS", "LossScale", "Optimizer", "Update", "count_states", "learning_rate", "record_of",
    "settled",
]  # fmt: skip

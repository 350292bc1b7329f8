"""The optimiser: AdamW over fp32 masters, its schedule, gradient clipping and the loss scale."""

from anefast.optim.adamw import AdamW, Update
from anefast.optim.loss_scale import LossScale
from anefast.optim.schedule import learning_rate

__all__ = ["AdamW", "LossScale", "Update", "learning_rate"]

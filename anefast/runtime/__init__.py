"""Devices, kernels and the compiled step."""

from anefast.runtime.device import DEVICES, Device, Surface
from anefast.runtime.fused import Fused, fused_ffn, fused_transformer
from anefast.runtime.infer import Inference
from anefast.runtime.kernel import Kernel
from anefast.runtime.sequence import Sequence
from anefast.runtime.step import TrainingStep

__all__ = [
    "DEVICES",
    "Device",
    "Fused",
    "Inference",
    "Kernel",
    "Sequence",
    "Surface",
    "TrainingStep",
    "fused_ffn",
    "fused_transformer",
]

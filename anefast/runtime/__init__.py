"""Devices, kernels and the compiled step."""

from anefast.runtime.auto import resolve
from anefast.runtime.budget import CompileBudgetError
from anefast.runtime.cache import CompileCache, Lease
from anefast.runtime.compiled_graph import CompiledGraph
from anefast.runtime.compiler import CompileLog, CompileService
from anefast.runtime.device import DEVICES, Device, Surface
from anefast.runtime.fused import Fused, fused_ffn, fused_transformer
from anefast.runtime.infer import Inference
from anefast.runtime.kernel import Kernel
from anefast.runtime.step import TrainingStep

__all__ = [
    "DEVICES",
    "CompileBudgetError",
    "CompileCache",
    "CompileLog",
    "CompileService",
    "CompiledGraph",
    "Device",
    "Fused",
    "Inference",
    "Kernel",
    "Lease",
    "Surface",
    "TrainingStep",
    "fused_ffn",
    "fused_transformer",
    "resolve",
]

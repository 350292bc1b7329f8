"""Layers and models, written with ir ops only."""

from anefast.nn.ffn import ffn_graph, ffn_shapes, init_ffn
from anefast.nn.llama import GRAD, forward_graph, training_graph, trunk
from anefast.nn.params import Params, classifier, init_params, shapes

__all__ = [
    "GRAD",
    "Params",
    "classifier",
    "ffn_graph",
    "ffn_shapes",
    "forward_graph",
    "init_ffn",
    "init_params",
    "shapes",
    "training_graph",
    "trunk",
]

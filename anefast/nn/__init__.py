"""Layers and models, written with ir ops only."""

from anefast.nn.llama import GRAD, forward_graph, training_graph, trunk
from anefast.nn.params import Params, classifier, init_params, shapes

__all__ = [
    "GRAD",
    "Params",
    "classifier",
    "forward_graph",
    "init_params",
    "shapes",
    "training_graph",
    "trunk",
]

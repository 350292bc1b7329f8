"""Layers and models, written with ir ops only."""

from anefast.nn.ffn import ffn_graph, ffn_shapes, init_ffn
from anefast.nn.layers import MASKED, causal_mask, rope_rows
from anefast.nn.llama import GRAD, decode_graph, forward_graph, training_graph, trunk
from anefast.nn.params import Params, classifier, init_params, shapes, zeros_like
from anefast.nn.vocabulary import Vocabulary

__all__ = [
    "GRAD",
    "MASKED",
    "Params",
    "Vocabulary",
    "causal_mask",
    "classifier",
    "decode_graph",
    "ffn_graph",
    "ffn_shapes",
    "forward_graph",
    "init_ffn",
    "init_params",
    "rope_rows",
    "shapes",
    "training_graph",
    "trunk",
    "zeros_like",
]

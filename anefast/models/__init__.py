"""Layers and models, written with ir ops only."""

from anefast.models.families import FAMILIES, family_of
from anefast.models.ffn import ffn_graph, ffn_shapes, init_ffn
from anefast.models.graphs import (
    decode_graph,
    forward_graph,
    rotated_heads,
    training_graph,
    trunk,
)
from anefast.models.layers import MASKED, causal_mask, rope_frequencies, rope_tables
from anefast.models.parameters import (
    Params,
    classifier,
    count_params,
    init_params,
    shapes,
    zeros_of,
)
from anefast.models.trained import GRAD, Trained, matching, trains
from anefast.models.vocabulary import Vocabulary

__all__ = [
    "FAMILIES",
    "GRAD",
    "MASKED",
    "Params",
    "Trained",
    "Vocabulary",
    "causal_mask",
    "classifier",
    "count_params",
    "decode_graph",
    "family_of",
    "ffn_graph",
    "ffn_shapes",
    "forward_graph",
    "init_ffn",
    "init_params",
    "matching",
    "rope_frequencies",
    "rope_tables",
    "rotated_heads",
    "shapes",
    "training_graph",
    "trains",
    "trunk",
    "zeros_of",
]

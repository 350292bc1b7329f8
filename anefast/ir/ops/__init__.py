"""Every op the graph knows, a file per family. Importing this fills op.OPS."""

from . import composite, elementwise, movement, product, reduce, rope, weight_grads

__all__ = ["composite", "elementwise", "movement", "product", "reduce", "rope", "weight_grads"]

"""Every op the graph knows, a file per family. Importing this fills op.OPS."""

from . import composite, cpu, elementwise, layout, linear, reduce, rope

__all__ = ["composite", "cpu", "elementwise", "layout", "linear", "reduce", "rope"]

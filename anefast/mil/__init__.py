"""MIL text and weight files, from one cut of a graph. text.py, spelling.py, pack.py, rules.py."""

from anefast.mil import rules
from anefast.mil.pack import BlobLayout, Entry, write
from anefast.mil.text import Text, emit, spoken

__all__ = ["BlobLayout", "Entry", "Text", "emit", "rules", "spoken", "write"]

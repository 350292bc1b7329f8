"""Models in files of others: recognised by content, read into our weights, written back.

A format is one file with two functions: open it as a `ModelSource`, and save a model. Read
`source.py` for what a model is before its weights are read, `names.py` for what it calls them.
"""

from __future__ import annotations

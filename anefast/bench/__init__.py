"""The published tables of an M1 Pro, measured again here and modelled for a chip.

`anefast bench` prints them. Read `published.py` for what was published, `predictions.py` for what a
model makes of it.
"""

"""The published tables of an M1 Pro, measured again here and modelled for a chip.

`anefast bench` prints them. Read `seed.py` for what was published, `model.py` for what a
model makes of it.
"""

"""The chips: their numerics and limits (behaviour.py), and their speed (rates.py)."""

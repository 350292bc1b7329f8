"""Looks into programs that run: health, watched values, all values, dumps of what failed."""

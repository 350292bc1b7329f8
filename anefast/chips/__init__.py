"""What each chip does to numbers and refuses (behaviour.py), and how fast it is (rates.py)."""

"""`anefast doctor`: what this machine can do, found out by trying.

The command is __main__.py, the list of what is tried registry.py; the tries are ops.py (each
operation against NumPy), checks.py (what training rests on) and probes.py (the published
measurements, made again). Each runs in a process of its own (apart.py), because what is wrong with
a device may end one. What is learned is stored for `device="auto"` (runtime/doctor_facts.py).
"""

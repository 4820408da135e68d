"""Breaking the package on purpose, for ``benchmarks/faults.py``."""

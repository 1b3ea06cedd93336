"""Faults of every kind, tried on real commands: `python -m benchmarks.torture --help`."""

"""Timed comparisons, run with `python -m benchmarks`."""

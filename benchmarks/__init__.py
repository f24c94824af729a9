"""Benchmarks: scripts of their own, and ``python -m benchmarks.engines``."""

"""Compute kernels: one folder per operation, ``naive.py`` beside its fast implementations."""

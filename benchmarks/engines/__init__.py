"""Benchmarks of one exact evaluation of U(D) against other ways to compute the same scores."""

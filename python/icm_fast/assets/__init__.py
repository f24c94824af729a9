"""Verified data and weights that the installation puts in place."""

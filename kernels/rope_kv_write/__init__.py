"""Rotary positions of packed queries and keys, and keys and values into their pool slots."""

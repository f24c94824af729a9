"""The activation of one projection times another one, in one pass."""

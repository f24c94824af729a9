"""A residual sum and the root-mean-square norm of it, in one pass."""

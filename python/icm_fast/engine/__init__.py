"""The search: the engine asks for scores, is told them, and decides."""

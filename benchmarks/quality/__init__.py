"""Label quality: searches against cheap methods at equal tokens, over tasks and models."""

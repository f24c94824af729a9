"""Run folders: what is stored of a search, and reading it back."""

"""Scores from inference servers: vLLM, SGLang, llama.cpp and OpenAI-compatible completions.

:mod:`icm_fast.scoring.servers.lazy` opens a server that a user named, one module for each dialect
knows what a kind of server is asked and how it answers, ``transport`` sends with retries,
``verification`` accepts nothing that is not a score of the model that the run began with, and
``scorer`` is the scorer on top.
"""

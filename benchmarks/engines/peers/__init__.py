"""Peers: one module per engine, each run in a separate process.

An engine such as vLLM has a separate interpreter, where icm_fast is not installed. This package is
then imported alone, as ``peers``: its modules import one another relatively, and only ``ours``
needs icm_fast.
"""

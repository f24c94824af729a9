"""Peers: one module per engine, run as a process of its own.

An engine such as vLLM has an interpreter of its own, where icm_fast is not installed. This
package is then imported alone, as ``peers``: its modules import one another relatively, and only
``ours`` needs icm_fast.
"""

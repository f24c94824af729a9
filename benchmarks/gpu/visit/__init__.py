"""The steps of ``python -m benchmarks.gpu``, each in a process of its own."""

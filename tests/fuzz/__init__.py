"""Fuzzing: inputs made by mutation, each of which has to give a result or one line.

``python -m tests.fuzz`` runs every target; ``make fuzz`` builds the native ones first.
"""

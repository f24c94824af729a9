"""Scorers: interchangeable ways to the same leave-one-out log-probabilities.

:mod:`icm_fast.scoring.protocol` says what all of them offer,
:func:`icm_fast.scoring.factory.make_scorer` picks one, and :func:`icm_fast.leave_one_out` is the
function for users.
"""

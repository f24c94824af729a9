"""The search in plain Python: slow, obvious, and the oracle of the native engine's tests.

:class:`ReferenceEngine` takes the same arguments and follows the same ask/tell protocol as
``icm_fast._core.Engine`` and makes the same decisions bit for bit. Never optimise it.
"""

from icm_fast.reference.engine import ReferenceAsk, ReferenceEngine
from icm_fast.reference.graph import ReferenceGraph
from icm_fast.reference.objective import log_marginal, predictability, utility
from icm_fast.reference.rng import ReferenceRng, philox4x32

__all__ = [
    "ReferenceAsk",
    "ReferenceEngine",
    "ReferenceGraph",
    "ReferenceRng",
    "log_marginal",
    "philox4x32",
    "predictability",
    "utility",
]

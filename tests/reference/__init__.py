"""The search in plain Python: slow, obvious, and the oracle of the native engine's tests.

:class:`ReferenceEngine` takes the same arguments and follows the same ask/tell protocol as
``icm_fast._core.Engine`` and makes the same decisions bit for bit; :func:`reference_leave_one_out`
is the oracle of the scorers. Never optimise them.
"""

from reference.engine import ReferenceAsk, ReferenceEngine
from reference.graph import ReferenceGraph
from reference.leave_one_out import (
    ReferenceResult,
    natural_orders,
    reference_leave_one_out,
    reference_search,
)
from reference.objective import log_marginal, predictability, utility
from reference.rng import ReferenceRng, philox4x32

__all__ = [
    "ReferenceAsk",
    "ReferenceEngine",
    "ReferenceGraph",
    "ReferenceResult",
    "ReferenceRng",
    "log_marginal",
    "natural_orders",
    "philox4x32",
    "predictability",
    "reference_leave_one_out",
    "reference_search",
    "utility",
]

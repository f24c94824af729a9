"""Comparison with gold labels, after a search.

Gold is an integer array, -1 where unknown; such examples are left out of every figure. Also
available as ``icm_fast.evaluate``.
"""

from icm_fast.evaluation.compare import GoldComparison, MethodResult, compare
from icm_fast.evaluation.gold import held_out, load_gold
from icm_fast.evaluation.many_shot import (
    Predictions,
    calibrate,
    many_shot,
    predict,
    shown_demonstrations,
)
from icm_fast.evaluation.metrics import (
    accuracy,
    agreement,
    agreement_up_to_permutation,
    auc,
    balanced_accuracy,
    bootstrap_interval,
)

__all__ = [
    "GoldComparison",
    "MethodResult",
    "Predictions",
    "accuracy",
    "agreement",
    "agreement_up_to_permutation",
    "auc",
    "balanced_accuracy",
    "bootstrap_interval",
    "calibrate",
    "compare",
    "held_out",
    "load_gold",
    "many_shot",
    "predict",
    "shown_demonstrations",
]

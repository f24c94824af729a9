"""Fine-tuning on labels, at once or by batches, or on texts (``pip install 'icm-fast[train]'``)."""

from icm_fast.tuning.config import TuningConfig
from icm_fast.tuning.fine_tune import Tuned, fine_tune, fine_tune_texts
from icm_fast.tuning.iterative import IterativeResult, iterate, split_batches

__all__ = [
    "IterativeResult",
    "Tuned",
    "TuningConfig",
    "fine_tune",
    "fine_tune_texts",
    "iterate",
    "split_batches",
]

"""Fine-tuning on labels, at once or batch by batch (needs ``pip install 'icm-fast[train]'``)."""

from icm_fast.tuning.config import TuningConfig
from icm_fast.tuning.fine_tune import Tuned, fine_tune
from icm_fast.tuning.iterative import IterativeResult, iterate, split_batches

__all__ = ["IterativeResult", "Tuned", "TuningConfig", "fine_tune", "iterate", "split_batches"]

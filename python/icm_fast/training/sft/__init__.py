"""Fine-tuning on labels, at once or by batches, or on texts (``pip install 'icm-fast[train]'``)."""

from icm_fast.training.config import TuningConfig
from icm_fast.training.sft.iterative import IterativeResult, iterate, split_batches
from icm_fast.training.sft.texts import Conversation, read_texts
from icm_fast.training.sft.train import Tuned, fine_tune, fine_tune_texts

__all__ = [
    "Conversation",
    "IterativeResult",
    "Tuned",
    "TuningConfig",
    "fine_tune",
    "fine_tune_texts",
    "iterate",
    "read_texts",
    "split_batches",
]

"""Direct preference optimisation on found labels (needs ``pip install 'icm-fast[train]'``)."""

from icm_fast.training.dpo.config import DpoConfig
from icm_fast.training.dpo.training import TrainedDpo, train

__all__ = ["DpoConfig", "TrainedDpo", "train"]

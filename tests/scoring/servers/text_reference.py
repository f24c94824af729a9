"""What texts after labels should score on a server, from the weights, prompt by prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from icm_fast.plan.texts import TextPlan
from icm_fast.scoring.texts import calibrated_texts
from icm_fast.types import Dataset, ScoreArray


def expected_texts(model: Any, dataset: Dataset, plan: TextPlan) -> ScoreArray:
    """Sums over the tokens of each text, among the whole vocabulary, ``[n, n_labels]``."""
    totals = np.zeros((len(dataset), len(dataset.label_space)))
    for leaf in plan.leaves:
        ids = plan.ids_before(leaf) + leaf.scored
        with torch.inference_mode():
            found = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for at in range(max(1, len(ids) - len(leaf.scored)), len(ids)):
            totals[leaf.row, leaf.label] += float(found[at - 1, ids[at]])
    return calibrated_texts(totals, plan)

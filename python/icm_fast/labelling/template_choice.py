"""The prompt that tells a model most, chosen without any label.

Of several templates the one is taken whose predictions have the largest mutual information with the
texts: predictions that are sure, and differ from text to text (Sorensen et al., "An
Information-theoretic Approach to Prompt Engineering Without Ground Truth Labels", ACL 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from icm_fast.labelling.decide import row_scores
from icm_fast.types import ScoreArray

SAMPLE_ROWS = 96
"""Rows on which templates are compared."""


def mutual_information(scores: ScoreArray) -> float:
    """Mutual information of texts and predictions in nats.

    Args:
        scores: ``[n, n_labels]`` log-probabilities without demonstrations.
    """
    logs = row_scores(scores, 1)
    predictions = np.exp(logs)
    mean = predictions.mean(axis=0)
    of_mean = -float((mean * np.log(np.maximum(mean, 1e-300))).sum())
    mean_of = -float((predictions * logs).sum(axis=1).mean())
    return of_mean - mean_of


def choose_template(templates: Sequence[str], score: Callable[[str], ScoreArray]) -> str:
    """The template of the largest mutual information; the first of equal ones.

    Args:
        templates: At least one; a single one is not scored.
        score: Returns the scores of a sample of the rows under a template.
    """
    if len(templates) == 1:
        return templates[0]
    return max(templates, key=lambda template: mutual_information(score(template)))

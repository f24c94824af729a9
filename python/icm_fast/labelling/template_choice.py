"""The prompt that tells a model most, chosen without any label.

Of several templates the one is taken whose predictions have the largest mutual information with the
texts: predictions that are sure, and differ from text to text (Sorensen et al., "An
Information-theoretic Approach to Prompt Engineering Without Ground Truth Labels", ACL 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.labelling.decide import row_scores
from icm_fast.types import ScoreArray

FIRST_ROWS = 64
"""Rows on which all templates are compared."""
SAMPLE_ROWS = 256
"""Rows on which the best ones are compared again."""
_FINALISTS = 2


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


def choose_template(templates: Sequence[str], score: Callable[[str, int], ScoreArray]) -> str:
    """The template of the largest mutual information; the first of equal ones.

    Args:
        templates: At least one; a single one is not scored.
        score: Returns the scores of a sample of that many rows under a template.
    """
    left = list(templates)
    for n_rows in (FIRST_ROWS, SAMPLE_ROWS):
        if len(left) == 1:
            break
        told = {template: mutual_information(score(template, n_rows)) for template in left}
        left = sorted(left, key=lambda template: -told[template])[:_FINALISTS]
    return left[0]


@dataclass(frozen=True, slots=True)
class SampledPrompts:
    """What a choice costs.

    Attributes:
        n_prompts: Prompts that it scores.
        n_passes: Samples into which they fall.
    """

    n_prompts: int
    n_passes: int


def sampled_prompts(n_templates: int, n_items: int) -> SampledPrompts:
    """What a choice between templates scores."""
    if n_templates == 1:
        return SampledPrompts(0, 0)
    finalists = min(_FINALISTS, n_templates)
    n_prompts = n_templates * min(FIRST_ROWS, n_items) + finalists * min(SAMPLE_ROWS, n_items)
    return SampledPrompts(n_prompts, n_templates + finalists)

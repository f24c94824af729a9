"""The prompt that asks a model for the labels most clearly, chosen without knowing any of them.

A prompt that asks for the labels makes the model expect them: after "Sentiment:" words like
"positive" are thousands of times as probable as after "Type:". That says what a prompt is about,
not whether the model can answer it. Predictions that are sure and differ from text to text tell
most: their mutual information with the texts is large (Sorensen et al., "An Information-theoretic
Approach to Prompt Engineering Without Ground Truth Labels", ACL 2022). But a prompt can be sure of
something that is not asked for, so of this only the part counts that the other prompts confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from icm_fast.labelling.decide import measure_scale, row_scores
from icm_fast.types import FloatArray, ScoreArray

SAMPLE_ROWS = 128
"""Rows on which all templates are compared."""

_EXPECTED = 0.3
"""Power of the probability of the labels, as it is multiplied by what a prompt tells; measured."""


def choose_template(templates: Sequence[str], score: Callable[[str, int], ScoreArray]) -> str:
    """The template that expects the labels and tells them apart; the first of equal ones.

    Args:
        templates: At least one; a single one is not scored.
        score: Returns the scores of a sample of that many rows under a template,
            ``[n, n_labels]`` log-probabilities over the whole vocabulary.
    """
    if len(templates) == 1:
        return templates[0]
    scores = [score(template, SAMPLE_ROWS) for template in templates]
    told = np.log(np.maximum(confirmed(scores), 1e-9))
    return templates[int(np.argmax(told + _EXPECTED * expected(scores)))]


def expected(scores: Sequence[ScoreArray]) -> FloatArray:
    """Log-probability of a label in the mean of rows and labels, ``[n_prompts]``.

    Args:
        scores: ``[n, n_labels]`` log-probabilities over the whole vocabulary.
    """
    return np.array([float(values.astype(np.float64).mean()) for values in scores])


def confirmed(scores: Sequence[ScoreArray]) -> FloatArray:
    """How much of the evidence of each prompt the other ones confirm, ``[n_prompts]``.

    The root mean square of evidence is the root of its mutual information. It is multiplied by its
    correlation with the mean of the other prompts' evidence, in which each counts the same.

    Args:
        scores: At least two, ``[n, n_labels]`` log-probabilities of the same rows without
            demonstrations.
    """
    logs = [row_scores(values, 1) for values in scores]
    evidence = [measure_scale([values]).evidence(values) for values in logs]
    even = [_unit(values) for values in evidence]
    everyone = np.sum(even, axis=0)
    told: FloatArray = np.array(
        [
            float((own * _unit(everyone - same)).mean())
            for own, same in zip(evidence, even, strict=True)
        ]
    )
    return told


def _unit(values: FloatArray) -> FloatArray:
    """Values whose root mean square is 1; zeros stay."""
    unit: FloatArray = values / max(float(np.sqrt((values**2).mean())), 1e-9)
    return unit


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
    return SampledPrompts(n_templates * min(SAMPLE_ROWS, n_items), n_templates)

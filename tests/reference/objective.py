"""Mutual predictability and utility in plain Python; doubles, summed from left to right."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from reference.graph import ReferenceGraph
from reference.labeling import Scores, add_up, labelled_examples


def log_marginal(members: Sequence[int], scores: Scores) -> list[float]:
    """Return log q(y), the mean prediction over the examples ``members``, for every label."""
    n_labels = len(scores[0])
    if not members:
        return [math.log(1.0 / n_labels)] * n_labels
    predictions = []
    for i in members:
        weights = [math.exp(s - max(scores[i])) for s in scores[i]]
        total = add_up(weights)
        predictions.append([w / total for w in weights])
    means = [add_up(p[y] for p in predictions) / len(members) for y in range(n_labels)]
    return [math.log(max(q, sys.float_info.min)) for q in means]


def _log_odds(row: Sequence[float], label: int) -> float:
    others = [s for z, s in enumerate(row) if z != label]
    largest = max(others)
    return row[label] - (largest + math.log(add_up(math.exp(s - largest) for s in others)))


def predictability(
    labels: Sequence[int], scores: Scores, objective: str, fixed: Sequence[int] = ()
) -> float:
    """Return P(D) over the labelled examples; 0 when there is none.

    Examples that are ``fixed`` (a label, or -1) are calibrated among themselves, and so are the
    others.
    """
    members = labelled_examples(labels)
    known = set(labelled_examples(fixed))
    if not members:
        return 0.0
    if objective == "mean_logodds":
        terms = [_log_odds(scores[i], labels[i]) for i in members]
    elif objective == "calibrated":
        log_q = log_marginal([i for i in members if i not in known], scores)
        log_q_known = log_marginal([i for i in members if i in known], scores)
        terms = [
            scores[i][labels[i]] - (log_q_known if i in known else log_q)[labels[i]]
            for i in members
        ]
    else:
        terms = [scores[i][labels[i]] for i in members]
    total = add_up(terms)
    return total if objective == "sum_logprob" else total / len(members)


def utility(
    labels: Sequence[int],
    scores: Scores,
    graph: ReferenceGraph,
    objective: str,
    alpha: float,
    violation_weight: float = 1.0,
    fixed: Sequence[int] = (),
) -> float:
    """Return U(D) = alpha P(D) - I(D), where each violated pair adds the weight to I(D)."""
    inconsistency = violation_weight * len(graph.violated(labels))
    return alpha * predictability(labels, scores, objective, fixed) - inconsistency

"""Measures of agreement between labels and gold, -1 where unknown; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from icm_fast.errors import InputError
from icm_fast.tasks.constraints import connected_rows
from icm_fast.types import UNLABELLED, Constraint, FloatArray, IntArray, ScoreArray

Metric = Callable[[IntArray, IntArray], float]


def _paired(labels: npt.ArrayLike, gold: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Both as int32 ``[n]``; InputError unless they are integers of one length."""
    pair = np.asarray(labels), np.asarray(gold)
    shapes = [list(array.shape) for array in pair]
    whole = all(np.issubdtype(array.dtype, np.integer) for array in pair)
    if pair[0].ndim != 1 or shapes[0] != shapes[1] or not whole:
        raise InputError(
            "labels and gold must be integers of one length, -1 where unknown, got shapes "
            f"{shapes} of {pair[0].dtype} and {pair[1].dtype}"
        )
    return pair[0].astype(np.int32), pair[1].astype(np.int32)


def agreement(labels: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Share of examples with equal labels, among those that have both; NaN without any."""
    labels, gold = _paired(labels, gold)
    both = (labels != UNLABELLED) & (gold != UNLABELLED)
    return float((labels == gold)[both].mean()) if both.any() else float("nan")


def agreement_up_to_permutation(labels: npt.ArrayLike, gold: npt.ArrayLike, n_labels: int) -> float:
    """Agreement under the best renaming of the labels; NaN where none are known."""
    labels, gold = _paired(labels, gold)
    both = (labels != UNLABELLED) & (gold != UNLABELLED)
    if not both.any():
        return float("nan")
    counts = np.zeros((n_labels, n_labels), dtype=np.int64)
    np.add.at(counts, (labels[both], gold[both]), 1)
    return _best_assignment(counts) / int(both.sum())


def _best_assignment(counts: npt.NDArray[np.int64]) -> int:
    """Largest sum of one entry per row, no column twice (Kuhn and Munkres, in O(n^3)).

    Rows are added one by one. Each takes the cheapest path to a free column (Dijkstra), along which
    earlier rows change their columns; potentials keep the costs along it at zero or above.
    """
    n = len(counts)
    cost = -counts
    of_row, of_column = np.zeros(n, np.int64), np.zeros(n + 1, np.int64)  # potentials
    taken = np.full(n + 1, -1)  # row of each column; the last entry is the row being added
    for row in range(n):
        taken[n] = row
        column = n
        least = np.full(n, np.iinfo(np.int64).max)
        came_from = np.full(n, n)
        done = np.zeros(n + 1, np.bool_)
        while taken[column] >= 0:
            done[column] = True
            reduced = cost[taken[column]] - of_row[taken[column]] - of_column[:n]
            better = ~done[:n] & (reduced < least)
            least[better], came_from[better] = reduced[better], column
            following = int(np.argmin(np.where(done[:n], np.iinfo(np.int64).max, least)))
            step = least[following]
            of_row[taken[done]] += step
            of_column[done] -= step
            least[~done[:n]] -= step
            column = following
        while column != n:
            taken[column] = taken[came_from[column]]
            column = int(came_from[column])
    return int(counts[taken[:n], np.arange(n)].sum())


def accuracy(predictions: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Share of correct predictions among examples with gold; a missing prediction is wrong."""
    predictions, gold = _paired(predictions, gold)
    known = gold != UNLABELLED
    return float((predictions == gold)[known].mean()) if known.any() else float("nan")


def balanced_accuracy(predictions: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Mean recall over the gold labels that occur."""
    predictions, gold = _paired(predictions, gold)
    present = np.unique(gold[gold != UNLABELLED])
    if not len(present):
        return float("nan")
    return float(np.mean([(predictions[gold == y] == y).mean() for y in present]))


def auc(scores: ScoreArray, gold: IntArray) -> float:
    """Area under the ROC curve of a binary task (Mann-Whitney, ties count one half).

    Args:
        scores: ``[n, 2]`` log-probabilities; examples are ranked by column 1 minus column 0.
        gold: ``[n]``.

    Raises:
        InputError: ``scores`` does not have two columns.
    """
    if scores.ndim != 2 or scores.shape[1] != 2:
        raise InputError(f"AUC needs scores of 2 labels, got shape {scores.shape}; use accuracy")
    known = gold != UNLABELLED
    value = (scores[:, 1].astype(np.float64) - scores[:, 0])[known]
    positive = gold[known] == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(_average_ranks(value)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def _average_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def bootstrap_interval(
    predictions: IntArray,
    gold: IntArray,
    groups: Sequence[str | int | None] | None = None,
    *,
    metric: Metric = accuracy,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of ``metric`` when whole groups are drawn with replacement.

    Args:
        predictions: ``[n]``.
        gold: ``[n]``.
        groups: Group of each example; None for an example on its own.
        metric: Function of predictions and gold.
        seed: Seed of the draws.
        n_resamples: Number of draws.
        level: Coverage of the interval.
    """
    rows = _group_rows(groups or [None] * len(gold))
    return _group_interval(
        rows, lambda drawn: metric(predictions[drawn], gold[drawn]), seed, n_resamples, level
    )


def mean_interval(
    values: FloatArray,
    groups: Sequence[str | int | None] | None = None,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values``, ``[n]``, when whole groups are drawn.

    The other arguments are those of :func:`bootstrap_interval`.
    """
    alone = [None] * len(values) if groups is None else groups
    return _group_interval(
        _group_rows(alone), lambda drawn: float(values[drawn].mean()), seed, n_resamples, level
    )


def calibration_error(scores: ScoreArray, gold: IntArray, n_bins: int = 10) -> float:
    """Expected calibration error of the predicted labels (Naeini et al., AAAI 2015), in 0 .. 1.

    Predictions are sorted by the probability of the predicted label into ``n_bins`` bins of equal
    size; the error is the mean over bins, weighted by size, of |accuracy - mean probability|.

    Args:
        scores: ``[n, n_labels]`` log-probabilities; renormalised over the labels.
        gold: ``[n]``; examples without gold are left out.
        n_bins: Maximum number of bins.
    """
    known = gold != UNLABELLED
    if not known.any():
        return float("nan")
    values = scores[known].astype(np.float64)
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    confidence = np.exp(values.max(axis=1))
    right = (values.argmax(axis=1) == gold[known]).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(n_bins, len(order)))
    gaps = [abs(float((right[rows] - confidence[rows]).mean())) * len(rows) for rows in bins]
    return float(sum(gaps) / len(order))


def consistency(labels: IntArray, constraints: Sequence[Constraint]) -> float:
    """Share of the groups in which every constraint holds; NaN without constraints.

    A group is a set of labelled examples that constraints join, directly or through others.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        constraints: Pairs with their tables of allowed labels.
    """
    kept = [
        c for c in constraints if labels[c.first] != UNLABELLED and labels[c.second] != UNLABELLED
    ]
    group_of = connected_rows(len(labels), ((c.first, c.second) for c in kept))
    whole: dict[int, bool] = {}
    for c in kept:
        group, holds = group_of[c.first], c.allowed[labels[c.first]][labels[c.second]]
        whole[group] = whole.get(group, True) and bool(holds)
    return float(np.mean(list(whole.values()))) if whole else float("nan")


def seeds_interval(
    values: Sequence[FloatArray],
    groups: Sequence[Sequence[Hashable]],
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of a mean over test examples.

    Seeds and groups of test examples are both drawn with replacement. A group that is tested under
    several seeds is drawn for all of them at once, since it is equally hard for all. So the
    interval covers other seeds and other test examples, as far as the given seeds can tell (three
    tell little). Pass accuracies as 0 and 1; to compare two methods on the same examples, pass the
    differences of their values.

    Args:
        values: Per seed, ``[n]``; NaN where an example does not count.
        groups: Per seed, a key for the group of each example.
        seed: Seed of the draws.
        n_resamples: Number of draws.
        level: Coverage of the interval.
    """
    keys = {key: k for k, key in enumerate(dict.fromkeys(g for part in groups for g in part))}
    totals, counts = np.zeros((2, len(values), len(keys)))
    for s, (part, names) in enumerate(zip(values, groups, strict=True)):
        rows = np.array([keys[name] for name in names], dtype=np.intp)
        known = ~np.isnan(part)
        np.add.at(totals[s], rows[known], part[known])
        np.add.at(counts[s], rows[known], 1)
    rng = np.random.Generator(np.random.Philox(seed))
    share = np.full(len(keys), 1 / len(keys))
    times = rng.multinomial(len(keys), share, size=n_resamples).astype(np.float64)
    with np.errstate(invalid="ignore"):  # a draw may hold none of a seed's examples
        means = (times @ totals.T) / (times @ counts.T)
    drawn = rng.integers(len(values), size=(n_resamples, len(values)))
    found = np.take_along_axis(means, drawn, axis=1).mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _group_interval(
    rows: Sequence[npt.NDArray[np.intp]],
    statistic: Callable[[npt.NDArray[np.intp]], float],
    seed: int,
    n_resamples: int,
    level: float,
) -> tuple[float, float]:
    """Percentile interval of a statistic of drawn rows; ``rows`` has the rows of each group."""
    rng = np.random.Generator(np.random.Philox(seed))
    values = [statistic(_draw_groups(rows, rng)) for _ in range(n_resamples)]
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _group_rows(groups: Sequence[str | int | None]) -> list[npt.NDArray[np.intp]]:
    """Rows of each group, in the order in which the groups appear."""
    members: dict[tuple[str, str | int], list[int]] = {}
    for i, group in enumerate(groups):
        key = ("alone", i) if group is None else ("group", group)
        members.setdefault(key, []).append(i)
    return [np.array(rows) for rows in members.values()]


def _draw_groups(
    rows: Sequence[npt.NDArray[np.intp]], rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    return np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])

"""The share of each of two labels, estimated from the evidence of unlabelled rows.

Taking off the mean prediction makes both labels about equally frequent. Where one is rare, that
costs much. The evidence of two labels is a number for each row, and the two kinds of rows are two
bells in its distribution, whose sizes are the shares. Two bells are fitted twice, with one width
and with two: where both fits find the same label more frequent, the shares are between theirs;
where they contradict each other, the distribution does not tell, and equal shares stay. That is
for thousands of rows. For the few examples of a search :func:`certain_shares` asks for more.

More labels: :mod:`icm_fast.scoring.mixture`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icm_fast.scoring.posterior import evenly_spaced
from icm_fast.types import FloatArray

FEWEST_ROWS = 100
"""Below, :func:`estimated_shares` are equal."""

FEWEST_TO_BE_CERTAIN = 60
"""As :data:`FEWEST_ROWS`, for :func:`certain_shares`."""

_LOG_ODDS = np.linspace(-4.5, 4.5, 31)
_MODERATE = 0.95
"""Log-odds of shares that skewed evidence may be taken for: 0.28 to 0.72; measured."""
_BETTER = 1.0
_APART = 2.0
"""Widths between the centres of two bells, from which on a model tells the labels apart."""
_MOST_PROFILED = 2_000
_ROUNDS = 500
_SMALLEST = 0.01


def estimated_shares(evidence: FloatArray) -> FloatArray | None:
    """Shares of two labels, ``[2]``; None where nothing speaks against equal ones.

    Args:
        evidence: ``[rows, n_labels]``.
    """
    values = _values(evidence, FEWEST_ROWS)
    return None if values is None else _shares(values)


def certain_shares(evidence: FloatArray) -> FloatArray | None:
    """Shares of two labels, ``[2]``, where the evidence shows plainly that they are unequal.

    Two bells of one width are fitted at each of many shares. The evidence is not quite two bells:
    it is skewed, so that equal shares are often fitted best by moderate ones (up to
    :data:`_MODERATE`), but hardly ever by shares beyond. Hence a share is believed where the best
    fit lies beyond and is :data:`_BETTER` nats better than all moderate ones, and where its bells
    lie apart. The share is the mean of the log-odds by these likelihoods. What this rule gains
    and loses was measured (dev/LOG.md). Smaller differences of shares stay unseen.

    Args:
        evidence: ``[rows, n_labels]``.
    """
    values = _values(evidence, FEWEST_TO_BE_CERTAIN)
    if values is None:
        return None
    values = evenly_spaced(values, _MOST_PROFILED)
    likelihood, apart = _profile(values / max(float(values.std()), 1e-9))
    best = int(likelihood.argmax())
    moderate = np.abs(_LOG_ODDS) <= _MODERATE
    if likelihood[best] - likelihood[moderate].max() < _BETTER or apart[best] < _APART:
        return None
    weights = np.exp(likelihood - likelihood[best])
    share = float(_logistic(weights @ _LOG_ODDS / weights.sum()))
    return np.array([1.0 - share, share])


def _profile(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two bells of one width at each share of :data:`_LOG_ODDS`.

    Args:
        values: ``[n]`` with a standard deviation of 1.

    Returns:
        The log-likelihood ``[n_shares]`` and how many widths the centres are apart.
    """
    share = _logistic(_LOG_ODDS)
    log_shares = np.log(np.stack([1.0 - share, share], axis=1))
    upper = _logistic(4.0 * (values - np.quantile(values, 1.0 - share)[:, None]))
    before = np.full(len(share), -np.inf)
    for _ in range(_ROUNDS):
        weights = np.stack([1.0 - upper, upper], axis=1)
        means = (weights @ values) / np.maximum(weights.sum(axis=2), 1e-9)
        squares = (values - means[:, :, None]) ** 2
        variance = np.maximum((weights * squares).sum(axis=(1, 2)) / len(values), 0.05)
        logs = log_shares[:, :, None] - squares / (2.0 * variance[:, None, None])
        total = np.logaddexp(logs[:, 0], logs[:, 1])
        upper = np.exp(logs[:, 1] - total)
        likelihood = total.sum(axis=1) - 0.5 * len(values) * np.log(variance)
        if np.abs(likelihood - before).max() < 1e-6 * len(values):
            break
        before = likelihood
    return likelihood, (means[:, 1] - means[:, 0]) / np.sqrt(variance)


def _values(evidence: FloatArray, fewest: int) -> npt.NDArray[np.float64] | None:
    """How much each row speaks for the second of two labels; None for others, or too few rows."""
    n_rows, n_labels = evidence.shape
    if n_labels != 2 or n_rows < fewest:
        return None
    some = evenly_spaced(evidence)
    return np.asarray(some[:, 1] - some[:, 0], np.float64)


def _shares(values: npt.NDArray[np.float64]) -> FloatArray | None:
    one, two = _fits(values)
    if one * two <= 0.0:
        return None
    share = float(_logistic((one + two) / 2.0))
    return np.array([1.0 - share, share])


def _fits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Log-odds of the second label by both fits."""
    scaled = values / max(float(values.std()), 1e-9)
    one, two = (upper_share(scaled, one_width=same) for same in (True, False))
    return _logit(one), _logit(two)


def upper_share(values: npt.NDArray[np.float64], *, one_width: bool) -> float:
    """Share of the upper of two normal distributions, fitted by expectation maximisation.

    Args:
        values: ``[n]`` with a standard deviation of 1.
        one_width: Whether both have the same width.
    """
    upper = _logistic(2.0 * (values - values.mean()))
    before = np.inf
    share = 0.5
    for _ in range(_ROUNDS):
        weights = np.stack([1.0 - upper, upper])
        sizes = np.maximum(weights.sum(axis=1), 1e-9)
        means = (weights @ values) / sizes
        squares = weights * (values - means[:, None]) ** 2
        if one_width:
            variances = np.full(2, squares.sum() / len(values))
        else:
            variances = squares.sum(axis=1) / sizes
        variances = np.maximum(variances, 0.05)
        share = float(np.clip(sizes[1] / len(values), _SMALLEST, 1.0 - _SMALLEST))
        logs = np.log([1.0 - share, share]) - 0.5 * np.log(variances)
        logs = logs[:, None] - (values - means[:, None]) ** 2 / (2.0 * variances[:, None])
        total = np.logaddexp(logs[0], logs[1])
        upper = np.exp(logs[1] - total)
        fit = -float(total.mean())
        if abs(before - fit) < 1e-9:
            break
        before = fit
    return share


def _logistic(log_odds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(log_odds, np.float64))))


def _logit(share: float) -> float:
    return float(np.log(share / (1.0 - share)))

"""The share of each of two labels, estimated from the evidence of unlabelled rows.

Taking off the mean prediction makes both labels about equally frequent. Where one is rare, that
costs much. The evidence of two labels is a number for each row, and the two kinds of rows are two
bells in its distribution, whose sizes are the shares. Two bells are fitted twice, with one width
and with two: where both fits find the same label more frequent, the shares are between theirs;
where they contradict each other, the distribution does not tell, and equal shares stay.

More labels: :mod:`icm_fast.scoring.mixture`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icm_fast.scoring.posterior import evenly_spaced
from icm_fast.types import FloatArray

FEWEST_ROWS = 100
"""Below, shares stay equal."""

_RESAMPLES = 20
_MOST_DRAWN = 2_000
_NINE_IN_TEN = 0.1
_FAR = 0.6
"""Log-odds of the shares that nine in ten fits must reach: 0.65; measured (dev/LOG.md)."""
_ROUNDS = 500
_SMALLEST = 0.01


def estimated_shares(evidence: FloatArray) -> FloatArray | None:
    """Shares of two labels, ``[2]``; None where nothing speaks against equal ones.

    Args:
        evidence: ``[rows, n_labels]``.
    """
    values = _values(evidence)
    return None if values is None else _shares(values)


def certain_shares(evidence: FloatArray) -> FloatArray | None:
    """Same as :func:`estimated_shares`, but only where resampled rows say so, too.

    The rows are drawn with replacement :data:`_RESAMPLES` times. Nine in ten of the fits must find
    the same label more frequent, and clearly so. Unequal shares that are less plain stay unseen;
    in return equal ones are hardly ever taken for unequal, which fits of few rows do.

    Args:
        evidence: ``[rows, n_labels]``.
    """
    values = _values(evidence)
    if values is None or (shares := _shares(values)) is None:
        return None
    random = np.random.Generator(np.random.Philox(key=[len(values), 0]))
    upwards = np.sign(shares[1] - shares[0])
    n_drawn = min(len(values), _MOST_DRAWN)
    towards: list[float] = []
    n_against = 0
    for _ in range(_RESAMPLES):
        sample = values[random.integers(len(values), size=n_drawn)]
        fits = [fit * upwards for fit in _fits(sample)]
        towards += fits
        n_against += sum(fit <= _FAR for fit in fits)
        if n_against > _NINE_IN_TEN * 2 * _RESAMPLES:
            return None  # whatever the others say
    return shares if np.quantile(towards, _NINE_IN_TEN) > _FAR else None


def _values(evidence: FloatArray) -> npt.NDArray[np.float64] | None:
    """How much each row speaks for the second of two labels; None for others, or too few rows."""
    n_rows, n_labels = evidence.shape
    if n_labels != 2 or n_rows < FEWEST_ROWS:
        return None
    some = evenly_spaced(evidence)
    return np.asarray(some[:, 1] - some[:, 0], np.float64)


def _shares(values: npt.NDArray[np.float64]) -> FloatArray | None:
    one, two = _fits(values)
    if one * two <= 0.0:
        return None
    share = 1.0 / (1.0 + np.exp(-(one + two) / 2.0))
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
    upper = 1.0 / (1.0 + np.exp(-2.0 * (values - values.mean())))
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


def _logit(share: float) -> float:
    return float(np.log(share / (1.0 - share)))

"""The share of each of two labels, as the evidence of unlabelled rows lets expect it.

Taking off the mean prediction makes both labels about equally frequent. Where one is rare, that
costs much. The evidence of two labels is a number for each row, and the two kinds of rows are two
bells in its distribution, whose sizes are the shares.

More labels: :mod:`icm_fast.scoring.mixture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icm_fast.scoring.posterior import centred, share_offset
from icm_fast.types import FloatArray

FEWEST_ROWS = 24
"""Fewer rows tell nothing about shares."""

_LOG_ODDS = np.linspace(-4.5, 4.5, 31)
_NEAR, _ELSEWHERE, _FAR = 0.5, 0.2, 2.0
"""Standard deviation of the log-odds of shares near equal ones, the chance that they are not near,
and the standard deviation then; measured (dev/LOG.md)."""
_MOST_BELIEVED = 90
"""Rows that the likelihood counts for, at most, where it speaks against equal shares; measured."""
_CALIBRATED = 0.75
"""How much of the log-odds of shares near equal ones calibration takes off; measured."""
_MOST_PROFILED = 2_000
_ROUNDS = 500
_NO_SPREAD = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedShares:
    """What rows tell about the shares of two labels.

    Attributes:
        near: ``[2]``, the shares if they are near equal ones.
        far: ``[2]``, the shares if they are not.
        chance: That they are not.
    """

    near: FloatArray
    far: FloatArray
    chance: float

    @property
    def are_far(self) -> bool:
        """Whether they are more likely far from equal ones."""
        return self.chance > 0.5

    @property
    def together(self) -> FloatArray:
        """Both by their chances, ``[2]``."""
        return (1.0 - self.chance) * self.near + self.chance * self.far

    def of(self, evidence: FloatArray) -> FloatArray:
        """The evidence with what these shares say, ``[rows, 2]``.

        Shares near equal ones are a further piece of evidence: most of their log-odds, as
        calibration leaves some in. Others are set, since the evidence was calibrated as if they
        were equal.

        Args:
            evidence: ``[rows, 2]`` in nats, from which the shares were told.
        """
        near = _CALIBRATED * centred(np.log(self.near)[None])
        far = centred(share_offset(evidence, self.far)[None])
        found: FloatArray = evidence + (1.0 - self.chance) * near + self.chance * far
        return found


def expected_shares(views: Sequence[FloatArray]) -> ExpectedShares | None:
    """Shares of two labels as far as the views of some rows tell; None of too few or all alike.

    In each view two bells of one width are fitted at each of many shares. Evidence is not quite two
    bells: it is skewed, so the fits of one view may be best far from the truth. Hence the
    likelihoods of the views are averaged, and shares are thought to be near equal ones mostly
    (:data:`_NEAR`), and with the chance :data:`_ELSEWHERE` anywhere (:data:`_FAR`). Which of both
    is told by a likelihood as of at most :data:`_MOST_BELIEVED` rows, since more rows do not make
    evidence less skewed. What this gains and loses was measured (dev/LOG.md).

    Args:
        views: ``[rows, 2]`` evidence each, of the same rows.
    """
    values = [told for view in views if (told := _values(view)) is not None]
    if len(values) < len(views):
        return None
    likelihood = np.mean([_profile(told) for told in values], axis=0)
    bounded = likelihood * min(1.0, _MOST_BELIEVED / len(values[0]))
    near, unlike = bounded + _log_normal(_NEAR), bounded + _log_normal(_FAR)
    odds = np.logaddexp.reduce(unlike) - np.logaddexp.reduce(near)
    odds += np.log(_ELSEWHERE / (1.0 - _ELSEWHERE))
    far = _mean_share(likelihood + _log_normal(_FAR))
    return ExpectedShares(_mean_share(near), far, float(_logistic(odds)))


def _log_normal(deviation: float) -> npt.NDArray[np.float64]:
    """Log-probabilities of :data:`_LOG_ODDS` by a normal distribution around 0."""
    logs = -0.5 * (_LOG_ODDS / deviation) ** 2
    return np.asarray(logs - np.logaddexp.reduce(logs), np.float64)


def _mean_share(logs: npt.NDArray[np.float64]) -> FloatArray:
    """Shares of the mean log-odds by log-probabilities of :data:`_LOG_ODDS`, ``[2]``."""
    weights = np.exp(logs - logs.max())
    share = float(_logistic(weights @ _LOG_ODDS / weights.sum()))
    return np.array([1.0 - share, share])


def _profile(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Two bells of one width at each share of :data:`_LOG_ODDS`.

    Args:
        values: ``[n]`` with a standard deviation of 1.

    Returns:
        The log-likelihood ``[n_shares]``.
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
    return np.asarray(likelihood, np.float64)


def _values(evidence: FloatArray) -> npt.NDArray[np.float64] | None:
    """How much each row speaks for the second of two labels, with a standard deviation of 1.

    Of very many rows some are drawn. None of other labels, too few rows, or rows all alike.
    """
    n_rows, n_labels = evidence.shape
    if n_labels != 2 or n_rows < FEWEST_ROWS:
        return None
    values = np.asarray(evidence[:, 1] - evidence[:, 0], np.float64)
    if n_rows > _MOST_PROFILED:
        values = values[np.random.default_rng(0).permutation(n_rows)[:_MOST_PROFILED]]
    spread = float(values.std())
    return None if spread < _NO_SPREAD else values / spread


def _logistic(log_odds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(log_odds, np.float64))))

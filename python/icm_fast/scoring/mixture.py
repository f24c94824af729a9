"""Where the rows of each of three and more labels lie, estimated from their evidence.

Taking off the mean prediction makes all labels about equally frequent, which costs much where they
are not: rows of the frequent labels are pushed to the rare ones. But the evidence shows more than
the largest value of a row. Rows of one label lie together, around a centre that is not quite where
its word would have it. A mixture of normal distributions, one for each label and all of one shape,
finds the centres, the shape and the shares (on a language model's scores: Han et al., Prototypical
Calibration, ICLR 2023, whose distributions are fitted without regard to the label words).

Rows after a context are swayed by it, rows alone are not. So the rows alone are fitted first, with
centres near those of the rows that have each label by their words; and the fit of all evidence
holds its centres where the rows are that *this* fit gives each label, and takes its shares. Such
fits can go wrong where a model tells little: only where fits of the rows after the cores keep most
of the labels of the first one are they believed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from icm_fast.scoring.posterior import centred, evenly_spaced, softmax
from icm_fast.types import FloatArray, IntArray

FEWEST_ROWS = 90
"""Below, nothing is fitted."""
FEWEST_ROWS_OF_A_LABEL = 20
"""Rows on the average of a label; with fewer, nothing is fitted."""
AGREEMENT = 0.525
"""Agreement above chance (Cohen's kappa for equal shares) between labels of the rows alone and of
the rows after the cores, from which on the fits are believed; measured."""

_LOOSE, _EVEN, _FIRM = 0.3, 1.0, 3.0
"""How much centres are held, in mean numbers of rows of a label; measured."""
_ROUNDS = 100
_SHARPNESS = 3.0
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Normal distributions of one shape, one for each label.

    Attributes:
        centres: ``[n_labels, n_labels - 1]``, in coordinates in which the shape is a ball.
        coordinates: ``[n_labels, n_labels - 1]``: evidence times these gives the coordinates.
        log_shares: ``[n_labels]``.
        likelihood: Log-likelihood of the rows that it was fitted to, in nats.
    """

    centres: FloatArray
    coordinates: FloatArray
    log_shares: FloatArray
    likelihood: float = 0.0

    def evidence(self, evidence: FloatArray) -> FloatArray:
        """Log-probabilities of the labels up to a constant of each row, ``[rows, n_labels]``.

        Args:
            evidence: ``[rows, n_labels]``, each row adding up to 0.
        """
        points = evidence @ self.coordinates
        # The square of the point is the same for all labels.
        values = points @ self.centres.T - 0.5 * (self.centres**2).sum(axis=1) + self.log_shares
        return centred(values)

    def labels(self, evidence: FloatArray) -> IntArray:
        """The most probable label of each row, ``[rows]`` int32."""
        return np.asarray(self.evidence(evidence).argmax(axis=1), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Believed:
    """A mixture of all evidence whose parts agree.

    Attributes:
        mixture: Of all evidence.
        alone: ``[rows]`` int32, labels by the fit of the rows alone.
    """

    mixture: Mixture
    alone: IntArray

    def view_labels(self, evidence: FloatArray) -> IntArray:
        """Labels of the rows by one view, ``[rows]`` int32."""
        return fit_mixture(evidence, _EVEN, self.alone).labels(evidence)


def believed_mixture(
    together: FloatArray,
    alone: FloatArray,
    cored: FloatArray,
    *,
    agreement: float = AGREEMENT,
    unequal: float | None = None,
) -> Believed | None:
    """The mixture of all evidence; None where there are few rows or its parts contradict.

    Args:
        together: ``[rows, n_labels]`` all evidence.
        alone: Evidence of the rows alone.
        cored: Evidence after the cores, or other demonstrations.
        agreement: See :data:`AGREEMENT`, which was measured for thousands of rows.
        unequal: How many nats better than with equal shares all evidence has to be fitted.
    """
    n_rows, n_labels = together.shape
    if n_labels < 3 or n_rows < max(FEWEST_ROWS, FEWEST_ROWS_OF_A_LABEL * n_labels):
        return None
    first = fit_mixture(alone, _EVEN)
    labels = first.labels(alone)
    fits = [fit_mixture(cored, hold, labels).labels(cored) for hold in (_LOOSE, _EVEN, _FIRM)]
    same = float(np.mean([fit == labels for fit in fits]))
    chance = 1.0 / n_labels
    if (same - chance) / (1.0 - chance) < agreement:
        return None
    fit = fit_mixture(together, _FIRM, labels)
    if unequal is not None:
        equally = fit_mixture(together, _FIRM, labels, equal_shares=True)
        if fit.likelihood - equally.likelihood < unequal:
            return None
    return Believed(replace(fit, log_shares=first.log_shares), labels)


def fit_mixture(
    evidence: FloatArray,
    hold: float,
    labels: IntArray | None = None,
    *,
    equal_shares: bool = False,
) -> Mixture:
    """Fit by expectation maximisation.

    Args:
        evidence: ``[rows, n_labels]``, each row adding up to 0.
        hold: How much the centres are held where the rows of each label are, in mean numbers of
            rows of a label.
        labels: ``[rows]`` labels from which to start; those that the evidence gives when absent.
        equal_shares: Whether all labels are taken to be equally frequent.
    """
    n_labels = evidence.shape[1]
    rows = np.asarray(evenly_spaced(evidence), np.float64)
    size = max(float(np.sqrt((rows**2).mean())), 1e-9)
    basis = _basis(n_labels) / size
    points = rows @ basis
    start = rows.argmax(axis=1) if labels is None else evenly_spaced(labels)
    held = _means_of_labels(points, start, n_labels)
    weight = hold * len(points) / n_labels
    parts = softmax(rows * (_SHARPNESS / size))
    before = -np.inf
    for _ in range(_ROUNDS):
        counts = parts.sum(axis=0)
        centres = (parts.T @ points + weight * held) / (counts + weight)[:, None]
        whiten = _whitening(points, parts, counts, centres)
        log_shares = np.log((counts + 1.0) / (len(points) + n_labels))
        if equal_shares:
            log_shares = np.full(n_labels, -np.log(n_labels))
        mixture = Mixture(centres @ whiten, basis @ whiten, log_shares)
        parts, fit = _expectation(points @ whiten, mixture, whiten)
        if abs(fit - before) < 1e-7:
            break
        before = fit
    return replace(mixture, likelihood=fit * len(points))


def _basis(n_labels: int) -> FloatArray:
    """Coordinates in the plane in which values add up to 0, ``[n_labels, n_labels - 1]``."""
    start = np.column_stack([np.full(n_labels, n_labels**-0.5), np.eye(n_labels)[:, :-1]])
    basis: FloatArray = np.linalg.qr(start)[0][:, 1:]
    return basis


def _means_of_labels(points: FloatArray, labels: IntArray, n_labels: int) -> FloatArray:
    """The mean point of the rows of each label; that of all rows where there are none."""
    means = np.tile(points.mean(axis=0), (n_labels, 1))
    for label in range(n_labels):
        rows = points[labels == label]
        if len(rows):
            means[label] = rows.mean(axis=0)
    return means


def _whitening(
    points: FloatArray, parts: FloatArray, counts: FloatArray, centres: FloatArray
) -> FloatArray:
    """Makes the shape that all labels share a ball, ``[n_labels - 1, n_labels - 1]``."""
    crossed = (parts.T @ points).T @ centres
    spread = points.T @ points - crossed - crossed.T + centres.T @ (counts[:, None] * centres)
    shape = spread / len(points)
    shape += _RIDGE * max(float(np.trace(shape)) / len(shape), 1e-9) * np.eye(len(shape))
    whitening: FloatArray = np.linalg.cholesky(np.linalg.inv(shape))
    return whitening


def _expectation(
    points: FloatArray, mixture: Mixture, whiten: FloatArray
) -> tuple[FloatArray, float]:
    """Probabilities of the labels, ``[rows, n_labels]``, and the mean log-likelihood."""
    distances = (
        (points**2).sum(axis=1, keepdims=True)
        - 2.0 * points @ mixture.centres.T
        + (mixture.centres**2).sum(axis=1)
    )
    logs = mixture.log_shares - 0.5 * distances
    total = np.logaddexp.reduce(logs, axis=1, keepdims=True)
    fit = float(total.mean() + np.log(np.abs(np.diag(whiten))).sum())
    return np.exp(logs - total), fit

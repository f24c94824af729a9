"""The decision about every row, from all views and the searched cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from icm_fast.engine.bootstrap import unit
from icm_fast.engine.verdict import FEWEST_LABELS, Signs, signs_from, with_texts
from icm_fast.labelling.config import LabelConfig
from icm_fast.labelling.decide import Scale, kept_labels, measure_scale, row_scores, votes
from icm_fast.labelling.texts import TextSample
from icm_fast.scoring.mixture import Believed, believed_mixture
from icm_fast.scoring.posterior import (
    Posterior,
    centred,
    expected_accuracy,
    own_margins,
    posterior,
    share_offset,
    with_shares,
)
from icm_fast.scoring.shares import expected_shares
from icm_fast.tasks.consistent import consistent_labels
from icm_fast.types import UNLABELLED, BoolArray, Constraint, FloatArray, IntArray, ScoreArray

DECIDED_BY = ("known", "search", "prediction", "abstained")
"""How the label of a row came about: of those of a core, the search is a part of the evidence."""

SHARES_FROM = ("assumed", "estimated", "given")
"""Where shares come from; assumed means that labels were taken to be about equally frequent."""

_ASSUMED, _ESTIMATED, _GIVEN = range(3)
_SMALLEST = 1e-12
_SMALLEST_SHARE = 0.01

_KNOWN, _SEARCH, _PREDICTION, _ABSTAINED = range(4)

Chunks = Callable[[], Iterable[ScoreArray]]
"""Returns the scores of all rows, ``[items, n_labels]`` for each chunk, from the first on."""


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What a search that began with all ways of asking says about its rows.

    Attributes:
        probabilities: ``[n, n_labels]``.
        signs: What speaks for its labels; None with too few of them.
        concerns: Kinds of reasons to doubt them.
        shares: ``[n_labels]`` among rows that are not known, where it saw that they are far from
            equal ones; None otherwise.
    """

    probabilities: FloatArray
    signs: Signs | None = None
    concerns: tuple[str, ...] = ()
    shares: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CoreEvidence:
    """What the search of a core says about its rows.

    Attributes:
        rows: ``[n]`` int32, positions in the table.
        labels: ``[n]`` int32, found or known labels, -1 where there is none.
        scores: ``[n, n_labels]`` normalised leave-one-out log-probabilities.
        kept: ``[n]`` bool, rows that became demonstrations.
        searched: What the search as a whole says; None where its final scores are all there is.
    """

    rows: IntArray
    labels: IntArray
    scores: FloatArray
    kept: BoolArray | None = None
    searched: Searched | None = None

    def evidence(self, view: Scale | None = None) -> FloatArray:
        """Evidence of the rows given all others of the core, ``[n, n_labels]``.

        Args:
            view: Scale of all rows after the core, to which this is put; its own when absent.
        """
        own = measure_scale([self.scores])
        if view is not None:
            own = Scale(own.bias, view.size, view.information)
        return own.evidence(self.scores)

    def confidence(self, plain: FloatArray) -> FloatArray:
        """How sure each row's label is: by the core and by the row alone, ``[n]``.

        Args:
            plain: Evidence without demonstrations, ``[n, n_labels]``.
        """
        labels = np.where(self.labels >= 0, self.labels, self.scores.argmax(axis=1))
        both = self.evidence() + plain
        sure = own_margins(both, labels.astype(np.int32))
        found: FloatArray = np.where(self.labels >= 0, sure, -np.inf)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Labels of all rows.

    Attributes:
        labels: ``[n]`` int32, -1 where abstained.
        confidence: ``[n]`` probability of the label, or of the most probable one where abstained.
        probabilities: ``[n, n_labels]`` float32.
        decided_by: ``[n]`` int8 index into :data:`DECIDED_BY`.
        votes: ``[n]`` int32, views that alone say the same.
        n_views: Number of views.
        shares: ``[n_labels]`` mean probability of each label.
        shares_source: Index into :data:`SHARES_FROM`.
        signs: What speaks for the labels; None with too few of them.
        concerns: Kinds of reasons to doubt them, of the search of a table of one core.
    """

    labels: IntArray
    confidence: FloatArray
    probabilities: npt.NDArray[np.float32]
    decided_by: npt.NDArray[np.int8]
    votes: IntArray
    n_views: int
    shares: FloatArray
    shares_source: int = 0
    signs: Signs | None = None
    concerns: tuple[str, ...] = ()

    @property
    def shares_from(self) -> str:
        """Where the shares come from."""
        return SHARES_FROM[self.shares_source]

    def counts(self) -> dict[str, int]:
        """Rows by how they were decided."""
        found = np.bincount(self.decided_by, minlength=len(DECIDED_BY))
        return {name: int(n) for name, n in zip(DECIDED_BY, found, strict=True)}

    def label_counts(self) -> list[int]:
        """Rows of each label."""
        n_labels = self.probabilities.shape[1]
        counts = np.bincount(self.labels[self.labels >= 0], minlength=n_labels)
        return [int(n) for n in counts]


def decide(
    plain: Chunks,
    views: Sequence[Chunks],
    cores: Sequence[CoreEvidence],
    *,
    known: IntArray,
    per_row: int,
    config: LabelConfig,
    constraints: Sequence[Constraint] = (),
    texts: TextSample | None = None,
) -> Decision:
    """Put the evidence of all views together.

    Rows that are demonstrations are judged by their core's leave-one-out scores where the view
    shows them their own label.

    Args:
        plain: Scores without demonstrations.
        views: Scores after each core; none where one core holds all rows.
        cores: The cores, in the order of ``views``.
        known: ``[n]`` known labels, -1 where there is none.
        per_row: Prompts of each row.
        config: Settings.
        constraints: Rules between rows.
        texts: Rows that were asked the other way round; they tell how much the rows alone count.
    """
    scale, evidence = _evidence_of(plain, per_row)
    alone = evidence.astype(np.float64)
    after = [_after_core(view, core, per_row) for view, core in zip(views, cores, strict=False)]
    if not views:
        after = [_whole_core(cores[0], len(alone))]
        if cores[0].searched is not None:
            views_of = (alone, after[0].astype(np.float64))
            return _as_searched(cores[0], cores[0].searched, views_of, known, config, constraints)
    cored = np.asarray(np.mean(after, axis=0, dtype=np.float64)) * _sameness(after)
    weight = None if texts is None else texts.alone_weight(alone, cored)
    together = alone + cored if weight is None else _weighted(alone, cored, weight)
    ruled = bool(constraints) or per_row > 1
    found = _found_shares(together, alone, cored, config, ruled=ruled)
    accuracy = expected_accuracy(found.plain(alone), found.plain(cored), alone.shape[1])
    judged = posterior(found.evidence(together), accuracy, found.met)
    decided = np.full(len(alone), _PREDICTION, np.int8)
    for core in cores:
        decided[core.rows] = _SEARCH
    labels = _ruled(judged, known, constraints)
    by_view = [found.labels(alone), *(found.labels(view.astype(np.float64)) for view in after)]
    signs = _signs(labels, known >= 0, alone, cored, scale, texts)
    return _decision(judged, labels, decided, by_view, known, config, found.source, signs)


def _as_searched(
    core: CoreEvidence,
    searched: Searched,
    views: Sequence[FloatArray],
    known: IntArray,
    config: LabelConfig,
    constraints: Sequence[Constraint],
) -> Decision:
    """The most probable labels by the search of all rows, which asked in every way that there is.

    Only shares that are given change them.
    """
    probabilities = searched.probabilities[np.argsort(core.rows)]
    shares = searched.shares
    source = _ASSUMED if shares is None else _ESTIMATED
    if config.shares:
        source, shares = _GIVEN, np.array(config.shares) / sum(config.shares)
        logs = np.log(np.maximum(probabilities, _SMALLEST))
        sure = float(probabilities.max(axis=1).mean())
        probabilities = posterior(logs, sure, shares).probabilities.astype(np.float64)
    likely = probabilities.astype(np.float32)
    best = likely.argmax(axis=1).astype(np.int32)
    judged = Posterior(best, likely, probabilities.mean(axis=0))
    labels = _ruled(judged, known, constraints)
    decided = np.full(len(labels), _SEARCH, np.int8)
    by_view = [view.argmax(axis=1).astype(np.int32) for view in views]
    rows = np.ones(len(known), np.bool_) if source == _GIVEN else known < 0
    for one, view in zip(by_view, views, strict=True):
        one[rows] = with_shares(view[rows], shares)
    found = _decision(judged, labels, decided, by_view, known, config, source, searched.signs)
    return replace(found, concerns=searched.concerns)


def _ruled(judged: Posterior, known: IntArray, constraints: Sequence[Constraint]) -> IntArray:
    """The most probable labels that keep the known ones and all rules, ``[n]`` int32."""
    fixed = known >= 0
    labels = np.where(fixed, known, judged.labels).astype(np.int32)
    return consistent_labels(judged.probabilities, labels, fixed, constraints)


def _decision(
    judged: Posterior,
    labels: IntArray,
    decided: npt.NDArray[np.int8],
    by_view: Sequence[IntArray],
    known: IntArray,
    config: LabelConfig,
    source: int,
    signs: Signs | None,
) -> Decision:
    """The decision with these labels, of which the least certain share is taken off.

    Args:
        judged: Probabilities and shares.
        labels: ``[n]``, of :func:`_ruled`.
        decided: ``[n]``, how rows were decided that are neither known nor abstained.
        by_view: ``[n]`` each, what each view alone says.
        known: ``[n]`` known labels, -1 where there is none.
        config: Settings.
        source: Index into :data:`SHARES_FROM`.
        signs: What speaks for the labels.
    """
    fixed = known >= 0
    confidence = judged.probabilities[np.arange(len(labels)), labels].astype(np.float64)
    confidence[fixed] = 1.0
    counted = votes(by_view, labels)
    without = ~kept_labels(confidence, config.abstain) & ~fixed
    labels, decided = labels.copy(), np.where(fixed, _KNOWN, decided).astype(np.int8)
    labels[without], decided[without] = UNLABELLED, _ABSTAINED
    return Decision(
        labels,
        confidence,
        judged.probabilities,
        decided,
        counted,
        len(by_view),
        judged.shares,
        source,
        signs,
    )


def _weighted(alone: FloatArray, cored: FloatArray, weight: float) -> FloatArray:
    """Rows alone by a weight beside the rows after cores, as large as if both were added."""
    together = weight * unit(alone) + unit(cored)
    size = np.sqrt(np.mean((alone + cored) ** 2) / max(float(np.mean(together**2)), 1e-12))
    found: FloatArray = together * size
    return found


def _signs(
    labels: IntArray,
    fixed: BoolArray,
    alone: FloatArray,
    cored: FloatArray,
    scale: Scale,
    texts: TextSample | None,
) -> Signs | None:
    """What speaks for the labels that are not known."""
    if int((~fixed).sum()) < FEWEST_LABELS:
        return None
    signs = signs_from(labels[~fixed], alone[~fixed], cored[~fixed], scale.information)
    if texts is None:
        return signs
    free = ~fixed[texts.rows]
    return with_texts(signs, labels[texts.rows[free]], texts.scores[free])


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """How frequent the labels are, and how evidence is read with that in mind.

    Attributes:
        source: Index into :data:`SHARES_FROM`.
        shares: ``[n_labels]`` shares of the labels that each view gives, if any.
        believed: Where the rows of each label lie, if that was found.
    """

    source: int
    shares: FloatArray | None = None
    believed: Believed | None = None

    @property
    def met(self) -> FloatArray | None:
        """Means of the probabilities to meet, ``[n_labels]``: shares that are given."""
        return self.shares if self.source == _GIVEN else None

    def evidence(self, together: FloatArray) -> FloatArray:
        """Evidence of all views, with the shares that were found."""
        if self.believed is not None:
            return self.believed.mixture.evidence(together)
        if self.shares is None or self.source == _GIVEN:
            return together
        return together + share_offset(together, self.shares)

    def plain(self, view: FloatArray) -> IntArray:
        """Labels of all rows by one view that knows nothing of where the other's rows lie."""
        return with_shares(view, self.shares)

    def labels(self, view: FloatArray) -> IntArray:
        """Labels of all rows by one view."""
        return self.plain(view) if self.believed is None else self.believed.view_labels(view)


def _found_shares(
    together: FloatArray,
    alone: FloatArray,
    cored: FloatArray,
    config: LabelConfig,
    *,
    ruled: bool,
) -> _Shares:
    """Given shares, or those that the evidence shows.

    Args:
        together: Evidence of all views, ``[n, n_labels]``.
        alone: That of the rows alone.
        cored: That of the rows after cores.
        config: Settings.
        ruled: Whether rules, or both orders of comparisons, bind labels; then two labels keep
            about equal shares.
    """
    if config.shares:
        return _Shares(_GIVEN, np.array(config.shares) / sum(config.shares))
    if together.shape[1] == 2:
        expected = None if ruled else expected_shares((together, cored))
        if expected is None:
            return _Shares(_ASSUMED)
        accuracy = expected_accuracy(_best(alone), _best(cored), 2)
        likely = posterior(together, accuracy).probabilities.astype(np.float64)
        nats = centred(np.log(np.maximum(likely, _SMALLEST)))
        shares = np.bincount(_best(expected.of(nats)), minlength=2) / len(together)
        source = _ESTIMATED if expected.are_far else _ASSUMED
        return _Shares(source, np.clip(shares, _SMALLEST_SHARE, 1.0 - _SMALLEST_SHARE))
    believed = believed_mixture(together, alone, cored)
    return _Shares(_ASSUMED if believed is None else _ESTIMATED, None, believed)


def _best(evidence: FloatArray) -> IntArray:
    return np.asarray(evidence.argmax(axis=1), np.int32)


def _evidence_of(chunks: Chunks, per_row: int) -> tuple[Scale, npt.NDArray[np.float32]]:
    """The scale of a view, and its evidence for all rows, ``[n, n_labels]``."""
    scale = measure_scale(row_scores(chunk, per_row) for chunk in chunks())
    parts = [scale.evidence(row_scores(chunk, per_row)).astype(np.float32) for chunk in chunks()]
    return scale, np.concatenate(parts)


def _after_core(chunks: Chunks, core: CoreEvidence, per_row: int) -> npt.NDArray[np.float32]:
    scale, evidence = _evidence_of(chunks, per_row)
    if core.kept is not None:
        evidence[core.rows[core.kept]] = core.evidence(scale)[core.kept].astype(np.float32)
    return evidence


def _whole_core(core: CoreEvidence, n_rows: int) -> npt.NDArray[np.float32]:
    evidence = np.empty((n_rows, core.scores.shape[1]), np.float32)
    evidence[core.rows] = core.evidence()
    return evidence


def _sameness(views: Sequence[npt.NDArray[np.float32]]) -> float:
    """What a mean of views is multiplied by, so that it counts as much as they do."""
    each = np.mean([np.mean(np.square(view, dtype=np.float64)) for view in views])
    together = np.mean(np.square(np.mean(views, axis=0, dtype=np.float64)))
    return float(np.sqrt(each / max(together, 1e-12)))

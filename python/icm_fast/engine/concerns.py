"""Reasons to doubt the labels of a search, found without gold, and what to do about them.

The objective alone cannot tell right labels from a coherent mistake. But some mistakes show: one
label everywhere, labels that predict each other no better than a constant label would, a very
different labelling of nearly the same utility, violated constraints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icm_fast._core import count_violations
from icm_fast._core import utility as native_utility
from icm_fast.engine.native import fixed_array
from icm_fast.tasks.duplicates import duplicates_text
from icm_fast.tasks.wording import shared_wording
from icm_fast.types import UNLABELLED, Dataset, IntArray, Reporter

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.runs.score_log import ScoredLabelling

ONE_SIDED_SHARE = 0.95
"""A label on more than this share of the examples is suspicious."""
FEWEST_LABELS = 10
"""With fewer labelled examples than this, shares mean nothing."""
RIVAL_SHARE = 0.25
"""Labellings that differ in at least this share of the examples are different answers."""
RIVAL_GAP = 0.05
"""A rival within this gap, in mean log-probability per example, is as good an answer."""
LEAST_OPINION = 0.63
"""Agreement above chance with a bootstrap below which labels from another start are doubted;
measured (dev/LOG.md)."""


@dataclass(frozen=True, slots=True)
class Concern:
    """One reason for doubt.

    Attributes:
        kind: ``second-opinion``, ``one-sided``, ``no-signal``, ``rival``, ``violations``,
            ``unlabelled`` or ``duplicates``.
        text: What was found and how to fix it.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Rival:
    """The best complete labelling among those scored that is a different answer.

    Attributes:
        utility: Its U(D).
        differs: Share of examples whose label differs from the found one; known ones aside.
    """

    utility: float
    differs: float


def one_sided(
    labels: IntArray, dataset: Dataset, wording: IntArray | None = None
) -> Concern | None:
    """A concern if nearly all labelled examples carry one label, or that of their wording.

    Args:
        labels: ``[n]``, -1 where unlabelled.
        dataset: The examples.
        wording: ``[n]``, as :func:`wording_of` gives it, for callers that look often.
    """
    given = labels[labels != UNLABELLED]
    if len(given) < FEWEST_LABELS:
        return None
    counts = np.bincount(given, minlength=len(dataset.label_space))
    top = int(counts.argmax())
    if counts[top] <= ONE_SIDED_SHARE * len(given):
        return _by_wording(labels, wording_of(dataset) if wording is None else wording)
    return Concern(
        "one-sided",
        f"{int(counts[top])} of {len(given)} labels are {dataset.label_space[top]!r}; unless the "
        "data really are this one-sided, the search has collapsed: use objective=calibrated, add "
        "constraints (such as a claim and its negation, of which exactly one is true), or try "
        "another seed or a larger model",
    )


def wording_of(dataset: Dataset) -> IntArray:
    """Which examples share their wording, ``[n]`` int32."""
    return shared_wording([example.prompt for example in dataset.examples])


def _by_wording(labels: IntArray, wording: IntArray) -> Concern | None:
    """A concern if the labels follow from what prompts have in common, whatever the texts."""
    given = labels != UNLABELLED
    most = [np.bincount(labels[given & (wording == k)]) for k in np.unique(wording[given])]
    follow = sum(int(counts.max()) for counts in most)
    if len(most) == 1 or follow <= ONE_SIDED_SHARE * given.sum():
        return None
    return Concern(
        "one-sided",
        f"{follow} of {int(given.sum())} labels follow from the lines that many prompts share, "
        "whatever else a prompt says; unless that is so in your data, the model judges the claims "
        "and not the texts: ask without a claim, with the answers as labels, or try a larger model",
    )


def free_labels(labels: IntArray, config: SearchConfig) -> IntArray:
    """The labels ``[n]`` of examples that the search was free to label; -1 for all others."""
    fixed = fixed_array(config)
    return labels if fixed is None else np.where(fixed == UNLABELLED, labels, UNLABELLED)


def find_rival(
    labels: IntArray, dataset: Dataset, config: SearchConfig, scored: Iterable[ScoredLabelling]
) -> Rival | None:
    """The runner-up: the best scored labelling that is complete and a different answer."""
    pairs, tables = dataset.constraint_arrays()
    fixed = fixed_array(config)
    n_free = len(labels) if fixed is None else int((fixed == UNLABELLED).sum())
    best: Rival | None = None
    for candidate in scored:
        differs = float((candidate.labels != labels).sum() / max(n_free, 1))
        if differs < RIVAL_SHARE or (candidate.labels == UNLABELLED).any():
            continue
        if not np.isfinite(candidate.scores).all():  # scoring was stopped early
            continue
        utility = native_utility(
            candidate.labels,
            candidate.scores,
            pairs,
            tables,
            str(config.objective),
            config.alpha,
            float(config.violation_weight or 0.0),
            fixed,
        )
        if best is None or utility > best.utility:
            best = Rival(utility, differs)
    return best


def search_concerns(
    labels: IntArray,
    utility: float,
    dataset: Dataset,
    config: SearchConfig,
    rival: Rival | None,
) -> tuple[Concern, ...]:
    """All concerns about a result, gravest first."""
    pairs, tables = dataset.constraint_arrays()
    n_unlabelled = int((labels == UNLABELLED).sum())
    n_violations = count_violations(labels, pairs, tables)
    found = [
        one_sided(free_labels(labels, config), dataset),
        _no_signal(labels, utility, config, n_violations),
        _close_rival(utility, config, rival),
    ]
    if n_violations:
        held = _held_by_known(labels, dataset, config)
        found.append(
            Concern(
                "violations",
                f"{n_violations} of {len(pairs)} constraints are violated: raise max_iterations or "
                f"fix_rounds, or lower alpha to give constraints more weight{held}",
            )
        )
    if n_unlabelled:
        found.append(
            Concern(
                "unlabelled",
                f"{n_unlabelled} of {len(labels)} examples have no label: raise max_iterations or "
                "max_evaluations (in a new run folder: settings are part of a run)",
            )
        )
    copies = duplicates_text(dataset.examples)
    if copies is not None:
        found.append(Concern("duplicates", copies))
    return tuple(concern for concern in found if concern is not None)


def other_opinion(agreement: float | None) -> Concern | None:
    """A concern if labels from another start are not those that a bootstrap finds.

    Args:
        agreement: Of both, above chance; None with too few labels.
    """
    if agreement is None or agreement >= LEAST_OPINION:
        return None
    return Concern(
        "second-opinion",
        f"agreement above chance with the labels that a bootstrap finds: {agreement:.2f}, where "
        f"{LEAST_OPINION:.2f} is usual, so these labels may be those of the start rather than of "
        "the model: search with start=bootstrap, the default, and read the examples on which both "
        "differ",
    )


def _held_by_known(labels: IntArray, dataset: Dataset, config: SearchConfig) -> str:
    """How many violated constraints have an end that the search could not change."""
    fixed = config.fixed_labels
    n_held = sum(
        max(fixed[c.first], fixed[c.second]) >= 0
        for c in dataset.constraints
        if fixed
        and min(labels[c.first], labels[c.second]) >= 0
        and not c.allowed[labels[c.first]][labels[c.second]]
    )
    return f"; fixed_labels hold one end of {n_held} of them: are they right?" if n_held else ""


def _no_signal(
    labels: IntArray, utility: float, config: SearchConfig, n_violations: int
) -> Concern | None:
    """The calibrated predictability of a constant labelling is at most 0 (Jensen)."""
    if config.objective != "calibrated" or not (labels != UNLABELLED).any():
        return None
    if utility + n_violations > 0:
        return None
    return Concern(
        "no-signal",
        f"U = {utility:.3f}: these labels predict each other no better than the same label "
        "everywhere would (U = 0), so the model sees no relation between texts and labels: use a "
        "larger model, or prompts and label words that it understands",
    )


def _close_rival(utility: float, config: SearchConfig, rival: Rival | None) -> Concern | None:
    if rival is None or config.objective == "sum_logprob":
        return None
    gap = utility - rival.utility
    if config.alpha <= 0 or gap >= RIVAL_GAP * config.alpha:
        return None
    return Concern(
        "rival",
        f"another labelling, which differs in {rival.differs:.0%} of the examples, has nearly the "
        f"same utility ({rival.utility:.3f}; these labels have {utility:.3f}), so these labels may "
        "be a coherent mistake: compare runs with other seeds and read the examples on which they "
        "differ",
    )


class CollapseWatch:
    """Warns once when a complete labelling has become one-sided."""

    def __init__(self, dataset: Dataset, config: SearchConfig, shown: Reporter) -> None:
        self._dataset = dataset
        self._config = config
        self._shown = shown
        self._warned = False
        self._wording = wording_of(dataset)  # once, not at every step

    def look(self, labels: IntArray) -> None:
        """Check the labels of the current state."""
        if self._warned or (labels == UNLABELLED).any():
            return
        concern = one_sided(free_labels(labels, self._config), self._dataset, self._wording)
        if concern is not None:
            self._shown.warn(concern.text)
            self._warned = True

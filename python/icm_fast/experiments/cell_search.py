"""The search of one cell: all examples at once, or batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from icm_fast.engine.native import labelling_utility
from icm_fast.engine.result import SearchResult
from icm_fast.engine.search import search
from icm_fast.evaluation.metrics import agreement, agreement_up_to_permutation
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.documents import AgreementFacts, SearchFacts
from icm_fast.scoring.leave_one_out import leave_one_out
from icm_fast.scoring.models import local_weights
from icm_fast.tracking import TrackLike
from icm_fast.types import UNLABELLED, IntArray, Reporter


def run_search(data: CellData, folder: Path, reporter: Reporter, track: TrackLike) -> SearchFacts:
    """Search into ``folder``, or resume there; return the facts about the search.

    Args:
        data: The cell's data.
        folder: Run folder; with batches it holds a run folder for each.
        reporter: Receives a line about each batch, and the progress of searches and trainings.
        track: Where the steps of searches and trainings go.

    Raises:
        InputError: Data, settings or model do not fit each other.
    """
    if data.column.batch_size is not None:
        return _search_by_batch(data, folder, data.column.batch_size, reporter, track)
    found = search(
        data.dataset,
        model=data.model,
        config=data.config,
        output_dir=folder,
        progress=reporter,
        source=data.source,
        track=track,
    )
    return _facts(data, found.labels, (found,), _gold_utility(data))


def _search_by_batch(
    data: CellData, folder: Path, batch_size: int, reporter: Reporter, track: TrackLike
) -> SearchFacts:
    from icm_fast.training.sft import iterate

    found = iterate(
        data.dataset,
        model=local_weights(data.model.load(), "a search batch by batch"),
        batch_size=batch_size,
        search_config=data.config,
        tuning_config=data.column.tuning_config(data.seed),
        output_dir=folder,
        progress=reporter,
        source=data.source,
        track=track,
    )
    # Each batch has a different model, so there is no U of all gold labels.
    return _facts(data, found.labels, found.searches, gold_utility=None)


def _facts(
    data: CellData, labels: IntArray, searches: Sequence[SearchResult], gold_utility: float | None
) -> SearchFacts:
    return {
        **_against_gold(labels, data),
        "gold_utility": gold_utility,
        "n": len(labels),
        "n_labelled": int((labels != UNLABELLED).sum()),
        "utility": sum(one.utility for one in searches),
        "n_evaluations": sum(one.n_evaluations for one in searches),
        "n_iterations": sum(one.n_iterations for one in searches),
        "n_parameters": data.n_parameters,
        "n_tokens": sum(one.n_tokens_forwarded for one in searches),
        "seconds": sum(one.seconds for one in searches),
        "reason": ", ".join(dict.fromkeys(one.reason for one in searches)),
        "concerns": list(dict.fromkeys(c.kind for one in searches for c in one.concerns)),
    }


def _against_gold(labels: IntArray, data: CellData) -> AgreementFacts:
    """Agreement of found labels with gold."""
    gold, n_labels = data.gold, len(data.dataset.label_space)
    return {
        "agreement": agreement(labels, gold),
        "permuted_agreement": agreement_up_to_permutation(labels, gold, n_labels),
        "gold_counts": np.bincount(gold[gold >= 0], minlength=n_labels).tolist(),
        "found_counts": np.bincount(labels[labels >= 0], minlength=n_labels).tolist(),
    }


def _gold_utility(data: CellData) -> float | None:
    """U(D) of the gold labels; None if some are unknown, as it would compare with nothing."""
    if (data.gold == UNLABELLED).any():
        return None
    config = data.scoring
    scores = leave_one_out(data.dataset, data.gold, model=data.model.load(), config=config)
    return labelling_utility(data.dataset, data.gold, scores, config)

"""Human labels for the gold counterpart of a reward model; for comparison only."""

from __future__ import annotations

from icm_fast.errors import InputError, suggest
from icm_fast.evaluation.gold import load_gold
from icm_fast.files import expanded
from icm_fast.runs.finished import FinishedRun
from icm_fast.tasks.movie_sentiment import crowd_labels
from icm_fast.training.reward.pairs import PairSet
from icm_fast.training.reward.run_pairs import pairs_of_labels

SOURCES = ("gold", "crowd")


def human_pairs(run: FinishedRun, source: str) -> PairSet:
    """Pairs of the run's examples, with human labels instead of those it found.

    Args:
        run: A finished run; its own labels are not used.
        source: ``gold``, or ``crowd``: one rater's own labels.

    Raises:
        InputError: Unknown source, the run does not say where its data came from, or there are no
            such labels.
    """
    if source not in SOURCES:
        raise InputError(f"unknown labels {source!r}{suggest(source, ('icm', *SOURCES))}")
    if run.source is None:
        raise InputError(
            f"{run.folder} does not say which task its data came from, so {source} labels are "
            "unknown; train on a file with the columns prompt, chosen, rejected"
        )
    if source == "gold":
        labels = load_gold(run.source, run.dataset)
    else:
        data = None if run.source.data is None else expanded(run.source.data)
        ratings = data.parent if data is not None and data.is_file() else data
        labels = crowd_labels(run.source.task, run.dataset, path=ratings)
    return pairs_of_labels(run.dataset, labels, source=run.source, seed=run.config.seed)

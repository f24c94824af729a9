"""Leave-one-out plans and scores as functions, without a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from icm_fast.config import SearchConfig, check_config
from icm_fast.plan.leave_one_out import LeaveOneOutPlan
from icm_fast.scoring.models import open_model
from icm_fast.types import Dataset, ScoreArray, check_dataset, check_labels

if TYPE_CHECKING:
    from icm_fast.model import ModelSpec
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.scoring.protocol import Scorer


def plan_leave_one_out(
    dataset: Dataset,
    labels: npt.ArrayLike,
    *,
    model: ModelSpec | ScoringModel,
    seed: int = 0,
    config: SearchConfig | None = None,
) -> LeaveOneOutPlan:
    """Return the plan that :func:`leave_one_out` would run with the same arguments.

    Raises:
        InputError: Same as :func:`leave_one_out`, or ``context_demonstrations`` is set.
    """
    config = SearchConfig(seed=seed) if config is None else check_config(config)
    return _open_scorer(dataset, model, config).plan(check_labels(labels, dataset))


def leave_one_out(
    dataset: Dataset,
    labels: npt.ArrayLike,
    *,
    model: ModelSpec | ScoringModel,
    scorer: str = "tree",
    seed: int = 0,
    config: SearchConfig | None = None,
) -> ScoreArray:
    """Score every label of every example given all *other* labelled examples.

    Args:
        dataset: The examples.
        labels: ``[n]`` label indices, -1 where unlabelled; an unlabelled example is scored given
            all labelled ones.
        model: Hub id, folder, ``.gguf`` file, embedded name, ``(model, tokenizer)``, or the address
            of a server.
        scorer: ``tree`` (shared prefixes) or ``naive`` (one prompt per example, same orders).
        seed: Seed of the context orders.
        config: Other settings (dtype, device, normalisation, budgets); its ``seed`` and
            ``scorer`` replace the arguments above.

    Returns:
        ``[n, n_labels]`` float32 log-probabilities (natural log).

    Raises:
        InputError: Labels, prompts or context length do not fit the data or the model.
    """
    config = SearchConfig(seed=seed, scorer=scorer) if config is None else check_config(config)
    return _open_scorer(dataset, model, config).score(check_labels(labels, dataset)).scores


def _open_scorer(dataset: Dataset, model: ModelSpec | ScoringModel, config: SearchConfig) -> Scorer:
    from icm_fast.scoring.factory import make_scorer

    check_dataset(dataset)
    return make_scorer(open_model(model, config).load(), dataset, config)

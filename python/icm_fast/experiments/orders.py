"""How much scores and predictions vary with the order of the contexts for the same labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from icm_fast.engine.native import labelling_utility
from icm_fast.evaluation.many_shot import many_shot, predict
from icm_fast.evaluation.metrics import accuracy, agreement
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.documents import Order, OrderFacts
from icm_fast.scoring.leave_one_out import leave_one_out
from icm_fast.types import UNLABELLED, IntArray

_FIRST_ORDER = 1000
"""Seed of the first order: no search runs with it."""


def order_sensitivity(data: CellData, found: IntArray, n_orders: int) -> OrderFacts:
    """Found labels under ``n_orders`` random orders of all contexts.

    Returns:
        ``orders``: per order its seed, U(D), ``agreement`` of the leave-one-out predictions with
        gold, and plain and calibrated ``accuracy`` on the held-out examples; ``spread``: standard
        deviation over orders of an own label's log-probability, mean over examples.
    """
    test, test_gold = data.test
    labelled = np.flatnonzero(found != UNLABELLED)
    orders: list[Order] = []
    own = []
    for k in range(n_orders):
        config = replace(data.scoring, seed=_FIRST_ORDER + k)
        model = data.model.load()
        scores = leave_one_out(data.dataset, found, model=model, config=config)
        shown = many_shot(data.dataset, found, test, model=model, config=config)
        own.append(scores[labelled, found[labelled]])
        orders.append(
            {
                "seed": config.seed,
                "utility": labelling_utility(data.dataset, found, scores, config),
                "agreement": agreement(predict(scores, calibrated=True), data.gold),
                "accuracy": accuracy(shown.labels, test_gold),
                "calibrated": accuracy(predict(shown.scores, calibrated=True), test_gold),
            }
        )
    return {"orders": orders, "spread": float(np.std(own, axis=0).mean())}

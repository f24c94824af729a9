"""Leave-one-out scores and whole searches from nothing but plain ``model(input_ids)`` calls.

Texts are joined as strings and tokenized whole, every label runs on its own, and the softmax is
written out in float64: nothing here knows pieces, plans, segments or label trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings
from icm_fast.types import Dataset, IntArray, ScoreArray
from reference.engine import ReferenceEngine

Orders = Callable[[IntArray], Sequence[Sequence[int]]]
"""Maps a labelling to the order of the labelled others in the context of each example."""


def natural_orders(labels: IntArray) -> list[list[int]]:
    """For each example the labelled others by rising index."""
    labelled = [int(j) for j in np.flatnonzero(labels >= 0)]
    return [[j for j in labelled if j != i] for i in range(len(labels))]


def reference_leave_one_out(
    dataset: Dataset,
    labels: IntArray,
    *,
    model: Any,
    tokenizer: Any,
    orders: Sequence[Sequence[int]] | None = None,
    normalize: str = "labels",
) -> ScoreArray:
    """Score every label of every example, one forward pass for each.

    Args:
        dataset: The examples.
        labels: ``[n]`` label indices, -1 where unlabelled.
        model: Transformers model in evaluation mode.
        tokenizer: Its tokenizer.
        orders: For each example the order of its context; :func:`natural_orders` by default.
        normalize: Log-softmax over the ``labels`` or over the ``vocabulary``.

    Returns:
        ``[n, n_labels]`` float32, natural log.
    """
    orders = natural_orders(labels) if orders is None else orders
    rows = []
    for i, order in enumerate(orders):
        text = context_text(dataset, labels, order) + dataset.examples[i].prompt
        rows.append(
            [_label_logprob(model, tokenizer, dataset, text, y) for y in dataset.label_space]
        )
    table = np.array(rows, np.float64)
    if normalize == "labels":
        table = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    return table.astype(np.float32)


def context_text(dataset: Dataset, labels: IntArray, order: Sequence[int]) -> str:
    """The preamble and demonstrations in this order, each followed by the separator."""
    demonstrations = [
        dataset.examples[int(j)].prompt + dataset.label_space[int(labels[int(j)])] for j in order
    ]
    parts = [dataset.preamble, *demonstrations] if dataset.preamble else demonstrations
    return "".join(part + dataset.separator for part in parts)


def _label_logprob(model: Any, tokenizer: Any, dataset: Dataset, text: str, label: str) -> float:
    """Sum of the log-probabilities of the label's own tokens behind ``text``."""
    before = len(_token_ids(tokenizer, text))
    ids = _token_ids(tokenizer, text + label)
    end = len(ids)
    if _label_begins_another(tokenizer, dataset, text):
        # " cat" must not collect what belongs to " cat fish": the label has to end, too.
        ids = _token_ids(tokenizer, text + label + dataset.separator + dataset.examples[0].prompt)
        end += 1
    # The row at k - 1 predicts the token at k; nothing is read behind the label's last but one.
    logprobs = _log_softmax(_logits(model, ids[: end - 1], first_row=before - 1))
    return float(sum(logprobs[k - before, ids[k]] for k in range(before, end)))


def _label_begins_another(tokenizer: Any, dataset: Dataset, text: str) -> bool:
    whole = [_token_ids(tokenizer, text + label) for label in dataset.label_space]
    return any(a != b and b[: len(a)] == a for a in whole for b in whole)


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a whole text, behind BOS where the tokenizer puts one."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    starts_with_bos = bos is not None and tokenizer("a")["input_ids"][0] == bos
    return [bos, *ids] if starts_with_bos else ids


def _logits(model: Any, ids: list[int], first_row: int) -> npt.NDArray[np.float64]:
    """``[len(ids) - first_row, vocabulary]``."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, first_row:]
    array: npt.NDArray[np.float64] = logits.double().cpu().numpy()
    return array


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """What :func:`reference_search` found.

    Attributes:
        labels: ``[n]`` label indices, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 LOO log-probabilities under these labels.
        utility: U(D).
        asked: Every labelling that was scored, in order, ``[n]`` each.
        events: One dictionary per decision.
    """

    labels: IntArray
    scores: ScoreArray
    utility: float
    asked: list[IntArray]
    events: list[dict[str, Any]]


def reference_search(
    dataset: Dataset,
    *,
    model: Any,
    tokenizer: Any,
    config: SearchConfig,
    orders: Orders = natural_orders,
) -> ReferenceResult:
    """Run a whole search in plain Python: the reference engine on reference scores."""
    pairs, tables = dataset.constraint_arrays()
    engine = ReferenceEngine(
        len(dataset), len(dataset.label_space), pairs, tables, **engine_settings(config)
    )
    asked = []
    while (ask := engine.ask()) is not None:
        asked.append(ask.labels)
        scores = reference_leave_one_out(
            dataset,
            ask.labels,
            model=model,
            tokenizer=tokenizer,
            orders=orders(ask.labels),
            normalize=config.normalize,
        )
        engine.tell(scores)
    return ReferenceResult(
        engine.result_labels,
        engine.result_scores,
        engine.result_utility,
        asked,
        engine.take_events(),
    )

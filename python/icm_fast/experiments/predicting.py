"""Predictions of held-out examples by one method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.progress import Stopwatch
from icm_fast.evaluation.many_shot import Predictions, many_shot, predict
from icm_fast.evaluation.metrics import agreement
from icm_fast.evaluation.prompt_formats import HHH_FILE
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.methods import Method
from icm_fast.scoring.models import local_weights
from icm_fast.scoring.servers.lazy import LazyServer
from icm_fast.types import UNLABELLED, IntArray

if TYPE_CHECKING:
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.training.sft import Tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The predictions of one method for the held-out examples of one cell.

    Attributes:
        scores: ``[n_test, n_labels]`` log-probabilities; None if the method does not apply.
        reason: Why it does not apply.
        n_shots: Labelled examples in context or in training.
        labels_accuracy: Their accuracy; None without labels.
        n_tokens: Tokens forwarded for the predictions.
        seconds: Wall-clock seconds, those of fine-tuning included.
    """

    scores: list[list[float]] | None
    reason: str = ""
    n_shots: int = 0
    labels_accuracy: float | None = None
    n_tokens: int = 0
    seconds: float = 0.0


def not_applicable(method: Method, data: CellData) -> str:
    """Why a method does not apply to a cell; empty if it applies."""
    if method.labels == "crowd" and not data.has_annotators:
        return "the data hold no labels of single annotators"
    if method.use == "hhh" and data.hhh_prompt is None:
        return f"there is no {HHH_FILE} in the folder of --data"
    if method.use == "chat" and not getattr(
        data.chat_model.load().tokenizer, "chat_template", None
    ):
        return "the model has no chat template"
    if method.use == "tuned" and isinstance(data.model, LazyServer):
        return "the model is on a server, and fine-tuning needs its weights"
    return ""


def predict_test(method: Method, data: CellData, found: IntArray, folder: Path) -> Prediction:
    """Predict the held-out examples of a cell.

    Args:
        method: The method.
        data: The cell's data.
        found: Labels that the search found, ``[n]``.
        folder: Folder in which fine-tuning keeps its state.

    Raises:
        InputError: The model cannot take the data.
    """
    reason = not_applicable(method, data)
    if reason:
        return Prediction(scores=None, reason=reason)
    watch = Stopwatch()
    labels = data.labels(method.labels, found) if method.labels else None
    seconds = watch.seconds()
    model: ScoringModel = data.model.load()
    tuned = None
    if method.use == "tuned":
        assert labels is not None
        tuned = _fine_tuned(data, labels, local_weights(model, "fine-tuning"), folder)
        # Seconds of a resumed fine-tuning include those before the interruption.
        model, seconds = tuned.model, seconds + tuned.seconds
    watch = Stopwatch()
    if method.use in ("dialogue", "hhh", "chat"):
        predicted = _zero_shot(method.use, data)
    else:
        shots = labels if tuned is None else None
        predicted = many_shot(data.dataset, shots, data.test[0], model=model, config=data.scoring)
    n_trained = 0 if tuned is None or labels is None else int((labels != UNLABELLED).sum())
    return Prediction(
        scores=[[round(float(x), 6) for x in row] for row in predicted.scores],
        n_shots=predicted.n_shots or n_trained,
        labels_accuracy=None if labels is None else agreement(labels, data.gold),
        n_tokens=predicted.n_tokens,
        seconds=seconds + watch.seconds(),
    )


def _fine_tuned(data: CellData, labels: IntArray, model: LoadedModel, folder: Path) -> Tuned:
    from icm_fast.training.sft import fine_tune

    config = data.column.tuning_config(data.seed)
    return fine_tune(data.dataset, labels, model=model, config=config, output_dir=folder)


def _zero_shot(use: str, data: CellData) -> Predictions:
    """Predictions from prompts in another format."""
    from icm_fast.evaluation.prompt_formats import (
        ASSISTANT_DIALOGUE,
        assistant_pieces,
        chat_pieces,
    )
    from icm_fast.scoring.factory import make_piece_scorer

    loaded = (data.chat_model if use == "chat" else data.model).load()
    test, tokenizer = data.test[0], loaded.tokenizer
    pieces: TokenizedDataset
    if use == "chat":
        pieces = chat_pieces(test, tokenizer)
    else:
        dialogue = data.hhh_prompt if use == "hhh" else ASSISTANT_DIALOGUE
        assert dialogue is not None, "not_applicable says so"
        pieces = assistant_pieces(test, tokenizer, dialogue)
    unlabelled = np.full(len(pieces), UNLABELLED, np.int32)
    scored = make_piece_scorer(loaded, pieces, data.scoring).score(unlabelled)
    return Predictions(predict(scored.scores), scored.scores, scored.n_tokens, n_shots=0)

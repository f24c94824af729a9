"""Predictions of held-out examples by one method."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.progress import Stopwatch
from icm_fast.evaluation.many_shot import Predictions, many_shot, predict
from icm_fast.evaluation.metrics import agreement
from icm_fast.evaluation.prompt_formats import ASSISTANT_DIALOGUE, HHH_FILE
from icm_fast.experiments.cell_data import CellData
from icm_fast.experiments.methods import Method
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.models import local_weights
from icm_fast.scoring.servers.address import is_address
from icm_fast.tracking import TrackLike
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.scoring.models import ScoringModel
    from icm_fast.training.config import TuningConfig
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
    if method.use == "tuned" and is_address(data.model.name):
        return "the model is on a server, and fine-tuning needs its weights"
    return ""


def predict_test(
    method: Method, data: CellData, found: IntArray, folder: Path, track: TrackLike = None
) -> Prediction:
    """Predict the held-out examples of a cell.

    Args:
        method: The method.
        data: The cell's data.
        found: Labels that the search found, ``[n]``.
        folder: Folder in which fine-tuning keeps its state.
        track: Where the steps of a fine-tuning in this process go.

    Raises:
        InputError: The model cannot take the data.
    """
    reason = not_applicable(method, data)
    if reason:
        return Prediction(scores=None, reason=reason)
    watch = Stopwatch()
    labels = data.labels(method.labels, found) if method.labels else None
    seconds = watch.seconds()
    model = data.chat_model if method.use == "chat" else data.model
    work = _Work(
        use=method.use,
        dataset=data.dataset,
        labels=labels,
        test=data.test[0],
        scoring=data.scoring,
        tuning=data.column.tuning_config(data.seed),
        dialogue=data.hhh_prompt if method.use == "hhh" else ASSISTANT_DIALOGUE,
    )
    done = (
        model.call(_do_there, work)
        if isinstance(model, ModelElsewhere)
        else _do(model.load(), work, folder, track)
    )
    tuned = labels is not None and method.use == "tuned"
    n_trained = int((labels != UNLABELLED).sum()) if labels is not None and tuned else 0
    return Prediction(
        scores=[[round(float(x), 6) for x in row] for row in done.predicted.scores],
        n_shots=done.predicted.n_shots or n_trained,
        labels_accuracy=None if labels is None else agreement(labels, data.gold),
        n_tokens=done.predicted.n_tokens,
        seconds=seconds + done.seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """All that a prediction needs besides the model."""

    use: str
    dataset: Dataset
    labels: IntArray | None
    test: Dataset
    scoring: SearchConfig
    tuning: TuningConfig
    dialogue: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    """Predictions, and the seconds that they took with the training before them."""

    predicted: Predictions
    seconds: float


def _do_there(model: ScoringModel, work: _Work) -> _Done:
    """Predict in a process that keeps no files."""
    with tempfile.TemporaryDirectory(prefix="icm-fast-") as scratch:
        return _do(model, work, Path(scratch) / "tuned", None)


def _do(model: ScoringModel, work: _Work, folder: Path, track: TrackLike) -> _Done:
    seconds, shots = 0.0, work.labels
    if work.use == "tuned":
        assert work.labels is not None
        weights = local_weights(model, "fine-tuning")
        tuned = _fine_tuned(work, work.labels, weights, folder, track)
        # Seconds of a resumed fine-tuning include those before the interruption.
        model, seconds, shots = tuned.model, tuned.seconds, None
    watch = Stopwatch()
    if work.use in ("dialogue", "hhh", "chat"):
        predicted = _zero_shot(work, model)
    else:
        predicted = many_shot(work.dataset, shots, work.test, model=model, config=work.scoring)
    return _Done(predicted, seconds + watch.seconds())


def _fine_tuned(
    work: _Work, labels: IntArray, model: LoadedModel, folder: Path, track: TrackLike
) -> Tuned:
    from icm_fast.training.sft import fine_tune

    return fine_tune(
        work.dataset,
        labels,
        model=model,
        config=work.tuning,
        output_dir=folder,
        track=track,
    )


def _zero_shot(work: _Work, loaded: ScoringModel) -> Predictions:
    """Predictions from prompts in another format."""
    from icm_fast.evaluation.prompt_formats import assistant_pieces, chat_pieces
    from icm_fast.scoring.factory import make_piece_scorer

    pieces: TokenizedDataset
    if work.use == "chat":
        pieces = chat_pieces(work.test, loaded.tokenizer)
    else:
        assert work.dialogue is not None, "not_applicable says so"
        pieces = assistant_pieces(work.test, loaded.tokenizer, work.dialogue)
    unlabelled = np.full(len(pieces), UNLABELLED, np.int32)
    scored = make_piece_scorer(loaded, pieces, work.scoring).score(unlabelled)
    return Predictions(predict(scored.scores), scored.scores, scored.n_tokens, n_shots=0)

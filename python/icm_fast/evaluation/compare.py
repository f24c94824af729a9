"""Found labels against gold: their agreement, and what each set of labels is worth in context.

Gold is an integer array, -1 where unknown; such examples are left out of every figure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from icm_fast.config import SearchConfig
from icm_fast.engine.concerns import free_labels
from icm_fast.engine.native import check_fits
from icm_fast.errors import InputError
from icm_fast.evaluation.gold import NothingHeldOutError, held_out, load_gold
from icm_fast.evaluation.many_shot import Predictions, many_shot, predict
from icm_fast.evaluation.metrics import (
    accuracy,
    agreement,
    agreement_up_to_permutation,
    auc,
    balanced_accuracy,
    bootstrap_interval,
    calibration_error,
    consistency,
)
from icm_fast.model.lazy import LazyModel
from icm_fast.scoring.servers.lazy import LazyServer
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.scoring.models import Opened, ScoringModel
    from icm_fast.scoring.protocol import MakeScorer
    from icm_fast.tasks.source import TaskSource


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Held-out figures of one way to predict.

    Attributes:
        method: ``zero-shot``, ``ICM many-shot`` or ``golden many-shot``.
        n_shots: Demonstrations in context.
        accuracy: Share of correct plain predictions.
        interval: 95 % bootstrap interval of that accuracy, over groups.
        calibrated_accuracy: Share of correct calibrated predictions.
        balanced_accuracy: Mean recall over the gold labels.
        auc: Area under the ROC curve; None unless there are two labels.
        calibration_error: Expected calibration error of the predicted labels.
        consistency: Share of the groups of test examples whose constraints all hold; None
            without constraints.
        n_tokens: Tokens forwarded.
    """

    method: str
    n_shots: int
    accuracy: float
    interval: tuple[float, float]
    calibrated_accuracy: float
    balanced_accuracy: float
    auc: float | None
    calibration_error: float
    consistency: float | None
    n_tokens: int


@dataclass(frozen=True, slots=True)
class GoldComparison:
    """Found labels against gold, and what each set of labels is worth in context.

    Attributes:
        agreement: Share of found labels that equal gold; labels that the search was given
            (``fixed_labels``) were not found, and are left out.
        permuted_agreement: The same under the best renaming of the labels.
        n_gold: Searched examples with gold, without those whose label was given.
        n_test: Held-out examples with gold; 0 where all of them were searched.
        methods: One row per way to predict; none without held-out examples.
    """

    agreement: float
    permuted_agreement: float
    n_gold: int
    n_test: int
    methods: tuple[MethodResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "methods": [asdict(row) for row in self.methods]}


def compare(
    source: TaskSource,
    dataset: Dataset,
    labels: IntArray,
    *,
    model: ScoringModel | Opened,
    config: SearchConfig,
    n_test: int = 100,
    make_scorer: MakeScorer | None = None,
) -> GoldComparison:
    """Compare zero-shot, found labels and gold labels; call it only after the search.

    Args:
        source: Where the searched data came from, gold included.
        dataset: The searched data.
        labels: The labels that were found, ``[n]``.
        model: The model that predicts, loaded only if there is something held out.
        config: Settings of the search.
        n_test: Maximum number of held-out examples.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Raises:
        InputError: The source has no gold, none but for labels that were given, or the data do not
            fit the model or the settings.
    """
    check_fits(config, dataset)
    gold = load_gold(source, dataset)
    if (gold == UNLABELLED).all():
        raise InputError(
            f"task {source.task!r} has no gold labels to evaluate against; add a label column, or "
            "`gold: COLUMN` to the description of a custom task"
        )
    other_gold = free_labels(gold, config)
    if (other_gold == UNLABELLED).all():
        raise InputError(
            f"all {int((gold != UNLABELLED).sum())} examples with gold have fixed_labels, so there "
            "is nothing to evaluate; leave some of them free"
        )
    found = GoldComparison(
        agreement=agreement(labels, other_gold),
        permuted_agreement=agreement_up_to_permutation(
            labels, other_gold, len(dataset.label_space)
        ),
        n_gold=int((other_gold != UNLABELLED).sum()),
        n_test=0,
        methods=(),
    )
    try:
        test, test_gold = held_out(source, dataset, n_test)
    except NothingHeldOutError:
        return found
    loaded = model.load() if isinstance(model, LazyModel | LazyServer) else model

    def row(method: str, shots: IntArray | None) -> MethodResult:
        predicted = many_shot(
            None if shots is None else dataset,
            shots,
            test,
            model=loaded,
            config=config,
            make_scorer=make_scorer,
        )
        return _method_result(method, predicted, test, test_gold)

    methods = (
        row("zero-shot", None),
        row("ICM many-shot", labels),
        row("golden many-shot", gold),
    )
    return replace(found, n_test=len(test), methods=methods)


def _method_result(
    method: str, predicted: Predictions, test: Dataset, gold: IntArray
) -> MethodResult:
    groups = [e.group for e in test.examples]
    return MethodResult(
        method=method,
        n_shots=predicted.n_shots,
        accuracy=accuracy(predicted.labels, gold),
        interval=bootstrap_interval(predicted.labels, gold, groups),
        calibrated_accuracy=accuracy(predict(predicted.scores, calibrated=True), gold),
        balanced_accuracy=balanced_accuracy(predicted.labels, gold),
        auc=auc(predicted.scores, gold) if len(test.label_space) == 2 else None,
        calibration_error=calibration_error(predicted.scores, gold),
        consistency=consistency(predicted.labels, test.constraints) if test.constraints else None,
        n_tokens=predicted.n_tokens,
    )

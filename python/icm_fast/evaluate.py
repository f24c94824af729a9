"""Everything that compares with gold labels; no other module reads them.

Gold is an int array, -1 where unknown; such examples are left out of every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.metrics import (
    accuracy,
    agreement,
    agreement_up_to_permutation,
    auc,
    balanced_accuracy,
    bootstrap_interval,
    calibration_error,
    consistency,
)
from icm_fast.types import (
    UNLABELLED,
    Constraint,
    Dataset,
    Example,
    FloatArray,
    IntArray,
    ScoreArray,
)

if TYPE_CHECKING:
    from icm_fast.scoring.protocol import Scorer
    from icm_fast.tasks.source import TaskSource

__all__ = [
    "Comparison",
    "MethodResult",
    "Predictions",
    "accuracy",
    "agreement",
    "agreement_up_to_permutation",
    "auc",
    "balanced_accuracy",
    "bootstrap_interval",
    "calibrate",
    "compare",
    "held_out",
    "load_gold",
    "many_shot",
    "predict",
    "shown_demonstrations",
]

_UNBOUNDED = 10**12


def load_gold(source: TaskSource, dataset: Dataset) -> IntArray:
    """Gold labels of ``dataset``, read again from where it came from; ``[n]`` int32.

    Raises:
        InputError: The source no longer holds an example of the data set, or holds another one
            under its id.
    """
    again, gold = source.load()
    known = {example.id: int(y) for example, y in zip(again.examples, gold, strict=True)}
    missing = [example.id for example in dataset.examples if example.id not in known]
    if missing:
        raise InputError(
            f"example {missing[0]!r} of the run ({len(missing)} in all) is no longer in task "
            f"{source.task!r}, data {source.data!r}; restore the data file of the run"
        )
    # Ids may be numbers of rows: rows that were sorted or put in between would pass for others.
    prompts = {example.id: example.prompt for example in again.examples}
    changed = [e.id for e in dataset.examples if prompts[e.id] != e.prompt]
    if changed:
        raise InputError(
            f"example {changed[0]!r} of the run ({len(changed)} in all) has another text now in "
            f"task {source.task!r}, data {source.data!r}; restore the data file of the run"
        )
    return np.array([known[example.id] for example in dataset.examples], dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """In-context predictions of test examples.

    Attributes:
        labels: ``[n_test]`` int32, argmax of the scores.
        scores: ``[n_test, n_labels]`` float32 log-probabilities.
        n_tokens: Tokens forwarded.
        n_shots: Demonstrations in context.
    """

    labels: IntArray
    scores: ScoreArray
    n_tokens: int
    n_shots: int


def many_shot(
    demonstrations: Dataset | None,
    labels: IntArray | None,
    test: Dataset,
    *,
    model: Any,
    config: SearchConfig | None = None,
    calibrated: bool = False,
    make_scorer: Callable[[Any, Dataset, SearchConfig], Scorer] | None = None,
) -> Predictions:
    """Predict ``test`` with labelled demonstrations in context, one prefix for all queries.

    Args:
        demonstrations: Data set of the demonstrations; None for zero-shot.
        labels: Their labels, ``[n]``; unlabelled ones are left out.
        test: Data set to predict.
        model: Loaded model.
        config: Settings of the scorer; of more demonstrations than ``context_demonstrations`` a
            random part is shown.
        calibrated: Take the argmax of log p - log q with q the mean prediction of the test
            examples, which removes a preference of the model for one label.
        make_scorer: Replaces ``icm_fast.scoring.factory.make_scorer``.

    Raises:
        InputError: The demonstrations do not fit the context of the model.
    """
    make = make_scorer or _local_scorer
    config = config or SearchConfig()
    if labels is not None:
        labels = _some(labels, config.context_demonstrations, config.seed)
    # All test examples see the same demonstrations, whatever the contexts of the search were.
    config = replace(config, context_order="tree", context_demonstrations=0)
    joined, state = _join(demonstrations, labels, test)
    n_shots = len(joined) - len(test)
    queries = np.arange(len(joined)) >= n_shots
    # No context holds two test examples, so the limit is checked on the longest one alone.
    longest = n_shots + _longest([e.prompt for e in test.examples], model)
    make(model, joined.subset([*range(n_shots), longest]), config)
    unbounded = replace(config, context_limit=_UNBOUNDED)
    scored = make(model, joined, unbounded).score(state, queries)
    scores = np.asarray(scored.scores[n_shots:], dtype=np.float32)
    if not np.isfinite(scores).all():
        raise InputError("the model returned NaN log-probabilities; use dtype float32")
    labels = predict(scores, calibrated=calibrated)
    return Predictions(labels, scores, int(scored.n_tokens), n_shots)


def shown_demonstrations(labels: IntArray, *, seed: int, most: int = 0) -> IntArray:
    """Which examples the contexts of :func:`many_shot` show, in their order.

    The order is the same for every test example and depends on no model.

    Args:
        labels: Labels of the demonstrations, ``[n]``, -1 where unlabelled.
        seed: ``config.seed`` of :func:`many_shot`.
        most: Its ``config.context_demonstrations``; 0 for all.

    Returns:
        ``[n_shown]`` int32, positions in ``labels``.
    """
    kept = np.flatnonzero(_some(labels, most, seed) != UNLABELLED).astype(np.int32)
    is_test = np.arange(len(kept) + 1) == len(kept)
    size = np.ones(len(is_test), np.int64)  # sizes do not move what stands in every context
    tree = _core.plan_tree(
        demonstration_tokens=size,
        first_extra=size * 0,
        query_tokens=size,
        query_first_extra=size * 0,
        labelled=~is_test,
        queried=is_test,
        root_tokens=0,
        tail_parents=np.zeros(0, np.int32),
        seed=seed,
        kv_budget_tokens=len(size),
        batch_tokens=len(size),
    )
    order: IntArray = kept[tree.context(len(kept))]
    return order


def _some(labels: IntArray, most: int, seed: int) -> IntArray:
    """At most ``most`` of the labels, drawn by the seed; all if that is 0."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    if not 0 < most < len(labelled):
        return labels
    # A stream of its own: the baselines draw from [seed, n], and must not decide what is shown.
    kept = np.random.default_rng([seed, len(labels), 1]).choice(labelled, most, replace=False)
    some = np.full(len(labels), UNLABELLED, np.int32)
    some[kept] = labels[kept]
    return some


def _longest(prompts: Sequence[str], model: Any) -> int:
    """Position of the prompt with the most tokens; of characters where the tokenizer is unknown."""
    tokenizer = getattr(model, "tokenizer", None)
    sizes = [
        len(tokenizer(prompt, add_special_tokens=False)["input_ids"] if tokenizer else prompt)
        for prompt in prompts
    ]
    return int(np.argmax(sizes))


def _local_scorer(model: Any, dataset: Dataset, config: SearchConfig) -> Scorer:
    from icm_fast.scoring.factory import make_scorer

    return make_scorer(model, dataset, config)


def predict(scores: ScoreArray, *, calibrated: bool = False) -> IntArray:
    """Argmax per row, ``[n]`` int32; ``calibrated`` as :func:`calibrate` has it."""
    values = calibrate(scores) if calibrated else scores
    labels: IntArray = values.argmax(axis=1).astype(np.int32)
    return labels


def calibrate(scores: ScoreArray) -> FloatArray:
    """Log-probabilities less the log of the mean prediction, ``[n, n_labels]`` float64."""
    values = scores.astype(np.float64)
    values = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    calibrated: FloatArray = values - np.log(np.exp(values).mean(axis=0))
    return calibrated


def _join(
    demonstrations: Dataset | None, labels: IntArray | None, test: Dataset
) -> tuple[Dataset, IntArray]:
    """Demonstrations that carry a label, then the unlabelled test examples."""
    unlabelled = np.full(len(test), UNLABELLED, dtype=np.int32)
    if demonstrations is None or labels is None:
        return _with_ids("test", test, ()), unlabelled
    if demonstrations.label_space != test.label_space:
        raise InputError(
            f"demonstrations have the labels {list(demonstrations.label_space)}, the test data "
            f"{list(test.label_space)}; use one label space"
        )
    kept = np.flatnonzero(labels != UNLABELLED)
    shots = tuple(demonstrations.examples[int(i)] for i in kept)
    state = np.concatenate([np.asarray(labels, dtype=np.int32)[kept], unlabelled])
    return _with_ids("test", test, _renamed("demonstration", shots)), state


def _with_ids(prefix: str, test: Dataset, before: tuple[Example, ...]) -> Dataset:
    constraints: tuple[Constraint, ...] = ()
    examples = before + _renamed(prefix, test.examples)
    return Dataset(examples, test.label_space, constraints, test.name, test.separator)


def _renamed(prefix: str, examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(Example(f"{prefix}:{e.id}", e.prompt, e.group, e.answer) for e in examples)


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Held-out figures of one way to predict.

    Attributes:
        method: ``zero-shot``, ``ICM many-shot`` or ``golden many-shot``.
        n_shots: Demonstrations in context.
        accuracy: Share of right predictions.
        interval: 95 % bootstrap interval of the accuracy over groups.
        calibrated_accuracy: Accuracy of the calibrated predictions.
        balanced_accuracy: Mean recall over the gold labels.
        auc: Area under the ROC curve; None unless there are two labels.
        calibration_error: Expected calibration error of the predicted labels.
        consistency: Share of the groups of test examples whose constraints all hold; None
            without any.
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
class Comparison:
    """Found labels against gold, and what each set of labels is worth in context.

    Attributes:
        agreement: Share of found labels that equal gold.
        permuted_agreement: The same under the best renaming of the labels.
        n_gold: Searched examples with gold.
        n_test: Held-out examples with gold.
        methods: One row per way to predict.
    """

    agreement: float
    permuted_agreement: float
    n_gold: int
    n_test: int
    methods: tuple[MethodResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "methods": [asdict(row) for row in self.methods]}


def held_out(source: TaskSource, dataset: Dataset, n: int) -> tuple[Dataset, IntArray]:
    """Test examples of the task of a run, none from a group that was searched.

    What ``source`` draws counts as searched, too: ``dataset`` may be one batch of it, scored by a
    model that was tuned on the others.

    Args:
        source: Where the searched data came from.
        dataset: The searched data.
        n: Most test examples.

    Returns:
        The test data and their gold labels; examples without gold are left out.

    Raises:
        InputError: Nothing with a gold label is left, or ``n`` is too small for a whole group.
    """
    from icm_fast.tasks.sampling import pick_groups

    if n < 1:
        raise InputError(f"the number of test examples must be 1 or more, got {n}")

    options = dict(source.options)
    if options.get("split") == "search":
        options["split"] = "test"
    # A description of a custom task may have a limit of its own, which only another one replaces.
    no_limit = _UNBOUNDED if source.task == "custom" else None
    everything, gold = replace(source, limit=no_limit, options=options).load()
    seen = (*dataset.examples, *source.load_dataset().examples)
    searched = {e.id for e in seen}
    groups = {e.group for e in seen if e.group is not None}
    free = [
        i
        for i, e in enumerate(everything.examples)
        if gold[i] != UNLABELLED and e.id not in searched and e.group not in groups
    ]
    if not free:
        raise InputError(
            f"task {source.task!r} has no example with gold outside the {len(searched)} searched "
            "ones; search fewer (--limit) so that some are held out, or raise n_groups where the "
            "task makes its data"
        )
    picked = pick_groups(
        [everything.examples[i] for i in free], n, source.seed, name="the number of test examples"
    )
    rows = [free[k] for k in picked]
    return everything.subset(rows), gold[rows]


def compare(
    source: TaskSource,
    dataset: Dataset,
    labels: IntArray,
    *,
    model: Any,
    config: SearchConfig,
    n_test: int = 100,
    make_scorer: Callable[[Any, Dataset, SearchConfig], Scorer] | None = None,
) -> Comparison:
    """Compare zero-shot, found labels and gold labels; call it only after the search.

    Raises:
        InputError: The source has no gold, or the model does not take the data.
    """
    gold = load_gold(source, dataset)
    if (gold == UNLABELLED).all():
        raise InputError(
            f"task {source.task!r} has no gold labels to evaluate against; add a label column"
        )
    test, test_gold = held_out(source, dataset, n_test)

    def row(method: str, shots: IntArray | None) -> MethodResult:
        predicted = many_shot(
            None if shots is None else dataset,
            shots,
            test,
            model=model,
            config=config,
            make_scorer=make_scorer,
        )
        return _method_result(method, predicted, test, test_gold)

    return Comparison(
        agreement=agreement(labels, gold),
        permuted_agreement=agreement_up_to_permutation(labels, gold, len(dataset.label_space)),
        n_gold=int((gold != UNLABELLED).sum()),
        n_test=len(test),
        methods=(
            row("zero-shot", None),
            row("ICM many-shot", labels),
            row("golden many-shot", gold),
        ),
    )


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

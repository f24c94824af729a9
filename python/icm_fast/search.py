"""The search: ask the engine, score durably, tell it, log its decisions."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from icm_fast.answers import answer, checked
from icm_fast.chains import make_search_engine
from icm_fast.concerns import Concern, Rival, find_rival, one_sided, search_concerns
from icm_fast.config import SearchConfig
from icm_fast.engine import labelling_utility
from icm_fast.progress import ProgressReporter, Quiet, SearchState
from icm_fast.runs.labels import labels_lines
from icm_fast.runs.provenance import versions
from icm_fast.runs.store import MemoryStore, open_store
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.types import UNLABELLED, Dataset, IntArray, ScoreArray

if TYPE_CHECKING:
    from icm_fast.scoring.protocol import Scorer
    from icm_fast.tasks.source import TaskSource


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        labels: ``[n]`` int32 index into the label space, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 LOO log-probabilities in the final state.
        utility: U(D) of these labels.
        n_evaluations: Distinct labellings scored.
        n_tokens_forwarded: Tokens that the model forwarded, in earlier parts of a
            resumed run too.
        reason: Why the search ended: ``converged``, ``settled``, ``max_iterations``,
            ``max_evaluations`` or ``max_tokens``.
        n_iterations: Search steps, null draws included.
        seconds: Wall-clock seconds of the process that finished the search.
        concerns: What speaks against the labels (:mod:`icm_fast.concerns`), gravest first.
        runner_up: The best scored labelling that differs in a quarter of the examples or more.
    """

    labels: IntArray
    scores: ScoreArray
    utility: float
    n_evaluations: int
    n_tokens_forwarded: int
    reason: str
    n_iterations: int
    seconds: float
    concerns: tuple[Concern, ...] = ()
    runner_up: Rival | None = None


def search(
    dataset: Dataset,
    *,
    model: Any,
    config: SearchConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    scorer: Scorer | None = None,
    progress: ProgressReporter | None = None,
    source: TaskSource | None = None,
) -> SearchResult:
    """Label a data set by maximising U(D) = alpha P(D) - I(D), without any supervision.

    Args:
        dataset: Examples, label space and constraints; never gold labels.
        model: Hub id, folder, .gguf file, (model, tokenizer) pair or loaded model.
        config: Settings; the preset ``default`` when absent.
        output_dir: Run folder. A search that was interrupted there goes on, a finished one
            returns its result at once. Without it nothing is written.
        scorer: Scores the labellings instead of the model, which then is only a name.
        progress: Shown while the search runs; nothing when absent.
        source: Where the data came from; recorded in the run folder for evaluation.

    Raises:
        InputError: Bad input, a run folder of another search, or a file system that refuses.
    """
    config = config or SearchConfig()
    lazy_scorer = LazyScorer(dataset, config, model, scorer)
    started = time.monotonic()
    with (
        open_store(output_dir, dataset, config, lazy_scorer, source) as store,
        progress or Quiet() as shown,
    ):
        engine = make_search_engine(config, dataset)
        collapse = CollapseWatch(dataset, shown)
        stopped = False
        while (ask := engine.ask()) is not None:
            if not stopped and engine.n_labelled and 0 < config.max_tokens <= store.n_tokens:
                engine.stop("max_tokens")
                stopped = True
                continue
            engine.tell(answer(engine, ask, store, lazy_scorer, config))
            store.log(engine.take_events())
            shown.update(_state(engine, store, config))
            collapse.look(engine.labels)
        store.log(engine.take_events())
        result = _result(engine, store, dataset, config)
        if config.context_order == "append":
            result = _rescored(result, store, lazy_scorer, dataset, config)
        result = replace(result, seconds=time.monotonic() - started)
        summary = store.finish(
            labels_lines(dataset, result.labels, result.scores), _summary(engine, store, result)
        )
    return _with_seconds(result, float(summary["seconds"]))


def _state(engine: Any, store: MemoryStore, config: SearchConfig) -> SearchState:
    return SearchState(
        utility=engine.utility,
        temperature=engine.temperature,
        iteration=engine.iteration,
        n_examples=len(engine.labels),
        n_labelled=engine.n_labelled,
        n_accepted=engine.n_accepted,
        n_evaluations=store.n_evaluations,
        n_scored_now=store.n_scored_now,
        max_evaluations=config.max_evaluations,
    )


class CollapseWatch:
    """Warns once when a complete labelling has become one-sided."""

    def __init__(self, dataset: Dataset, shown: ProgressReporter) -> None:
        self._dataset = dataset
        self._shown = shown
        self._warned = False

    def look(self, labels: IntArray) -> None:
        """Look at the labels of the current state."""
        if self._warned or (labels == UNLABELLED).any():
            return
        concern = one_sided(labels, self._dataset)
        if concern is not None:
            self._shown.warn(concern.text)
            self._warned = True


def _rescored(
    result: SearchResult,
    store: MemoryStore,
    scorer: LazyScorer,
    dataset: Dataset,
    config: SearchConfig,
) -> SearchResult:
    """The result with the scores of contexts that are a function of its labels alone."""
    score = checked(store, scorer, scorer.score_canonical)
    scores = store.beside("canonical", result.labels, score).scores
    utility = labelling_utility(dataset, result.labels, scores, config)
    concerns = search_concerns(result.labels, utility, dataset, config, result.runner_up)
    return replace(
        result,
        scores=scores,
        utility=utility,
        concerns=concerns,
        n_tokens_forwarded=store.n_tokens,
    )


def _result(
    engine: Any, store: MemoryStore, dataset: Dataset, config: SearchConfig
) -> SearchResult:
    labels = np.array(engine.result_labels, dtype=np.int32)
    utility = float(engine.result_utility)
    rival = find_rival(labels, dataset, config, store.asked())
    return SearchResult(
        labels=labels,
        scores=np.array(engine.result_scores, dtype=np.float32),
        utility=utility,
        concerns=search_concerns(labels, utility, dataset, config, rival),
        runner_up=rival,
        n_evaluations=store.n_evaluations,
        n_tokens_forwarded=store.n_tokens,
        reason=str(engine.reason),
        n_iterations=int(engine.iteration),
        seconds=0.0,
    )


def _summary(engine: Any, store: MemoryStore, result: SearchResult) -> dict[str, Any]:
    return {
        "utility": result.utility,
        "utility_in_search": float(engine.result_utility),
        "reason": result.reason,
        "n_examples": len(result.labels),
        "n_labelled": int((result.labels != UNLABELLED).sum()),
        "n_iterations": result.n_iterations,
        "n_accepted": int(engine.n_accepted),
        "n_evaluations": result.n_evaluations,
        "n_tokens_forwarded": result.n_tokens_forwarded,
        "n_evaluations_resumed": store.n_resumed,
        "concerns": [asdict(concern) for concern in result.concerns],
        "runner_up": None if result.runner_up is None else asdict(result.runner_up),
        "seconds": round(result.seconds, 3),
        "versions": versions(),
    }


def _with_seconds(result: SearchResult, seconds: float) -> SearchResult:
    return replace(result, seconds=seconds)

"""The search: ask the engine, score durably, tell the engine, log its decisions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from icm_fast.config import SearchConfig, check_config
from icm_fast.engine.answers import answer, checked, scored
from icm_fast.engine.bootstrap import SHOTS, Evidence, bootstrap
from icm_fast.engine.chains import make_search_engine
from icm_fast.engine.concerns import CollapseWatch
from icm_fast.engine.native import fixed_array
from icm_fast.engine.progress import Quiet, SearchState, Stopwatch
from icm_fast.engine.protocol import SearchEngine, SearchesElsewhere
from icm_fast.engine.result import SearchResult, compared, judged, rescored, result_of, summary_of
from icm_fast.runs.labels import labels_lines
from icm_fast.runs.store import MemoryStore, open_store
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.tracking import RunTracking, Step, TrackLike, tracked
from icm_fast.types import BoolArray, Dataset, IntArray, Reporter, ScoreArray, check_dataset

if TYPE_CHECKING:
    from icm_fast.model.loaded import ModelSpec
    from icm_fast.scoring.models import Opened
    from icm_fast.scoring.protocol import SimpleScorer
    from icm_fast.tasks.source import TaskSource


def search(
    dataset: Dataset,
    *,
    model: ModelSpec | Opened,
    config: SearchConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    scorer: SimpleScorer | None = None,
    progress: Reporter | None = None,
    source: TaskSource | None = None,
    track: TrackLike = None,
) -> SearchResult:
    """Label a data set by maximising U(D) = alpha P(D) - I(D), without any supervision.

    Args:
        dataset: Examples, label space and constraints; never gold labels.
        model: Hub id, folder, .gguf file, (model, tokenizer) pair, loaded model, or address of a
            server.
        config: Settings; the preset ``default`` when absent.
        output_dir: Run folder. An interrupted search resumes from it, a finished one returns its
            result at once. Without a folder nothing is written.
        scorer: Scores labellings in place of the model, whose name is then only recorded.
        progress: Receives the state of the search; nothing is shown when absent.
        source: Where the data came from; recorded in the run folder for evaluation.
        track: Called with each step of the search, or names trackers; see
            :mod:`icm_fast.tracking`.

    Raises:
        InputError: Bad input, a run folder of another search, or a file that cannot be written.
    """
    check_dataset(dataset)
    config = check_config(config)
    if isinstance(model, SearchesElsewhere) and scorer is None:
        return model.search(
            dataset,
            config=config,
            output_dir=output_dir,
            progress=progress,
            source=source,
            track=track,
        )
    engine = make_search_engine(config, dataset)  # refuses settings before there is a folder
    lazy_scorer = LazyScorer(dataset, config, model, scorer)
    settings = search_settings(lazy_scorer, dataset, config)
    with (
        open_store(output_dir, dataset, config, lazy_scorer, source) as store,
        progress or Quiet() as shown,
        tracked(track, output_dir, "search", settings, shown.warn) as tracking,
    ):
        return search_into(store, engine, dataset, config, lazy_scorer, shown, tracking)


def search_settings(
    scorer: LazyScorer, dataset: Dataset, config: SearchConfig
) -> dict[str, object]:
    """What trackers show beside the figures of a search."""
    return {"model": scorer.model_name, "n_examples": len(dataset), **config.to_dict()}


def search_into(
    store: MemoryStore,
    engine: SearchEngine,
    dataset: Dataset,
    config: SearchConfig,
    scorer: LazyScorer,
    shown: Reporter,
    tracking: RunTracking,
) -> SearchResult:
    """Search with an open store, from which known scores come and to which new ones go.

    Args:
        store: An open store; it is finished, not closed.
        engine: A new engine of these settings and data.
        dataset: Examples, label space and constraints, checked.
        config: Settings, checked.
        scorer: Scores what the store does not know.
        shown: Receives the state of the search.
        tracking: Receives the figures of each step.

    Raises:
        InputError: See :func:`search`.
    """
    watch = Stopwatch()
    steps = count(1)
    collapse = CollapseWatch(dataset, config, shown)
    stopped = False

    def show() -> None:
        state = _state(engine, store, config)
        shown.update(state)
        tracking.report(_step(next(steps), state, store))

    start: Evidence | None = None
    opinion: Evidence | None = None
    if config.start == "bootstrap" and engine.ask() is not None:
        start = bootstrapped(dataset, config, store, scorer, show)
        engine.tell(start.together)
    while (ask := engine.ask()) is not None:
        if not stopped and engine.n_labelled and 0 < config.max_tokens <= store.n_tokens:
            engine.stop("max_tokens")
            stopped = True
            continue
        engine.tell(answer(engine, ask, store, scorer, config))
        store.log(engine.take_events())
        show()
        collapse.look(engine.labels)
    store.log(engine.take_events())
    if start is None:
        opinion = second_opinion(dataset, config, store, scorer, show)
    result = result_of(engine, store, dataset, config)
    if config.context_order == "append":
        result = rescored(result, store, scorer, dataset, config)
    if opinion is not None:
        result = compared(result, opinion, dataset, config)
    result = judged(result, store, dataset, config, start or opinion)
    result = replace(result, seconds=watch.seconds())
    content = {**summary_of(engine, store, result), **scorer.computing()}
    if start is not None or opinion is not None:
        content["channel"] = _reads_texts(store, scorer, config)
    lines = labels_lines(dataset, result.labels, result.scores, result.confidence)
    summary = store.finish(lines, content)
    return replace(result, seconds=float(summary["seconds"]))


def bootstrapped(
    dataset: Dataset,
    config: SearchConfig,
    store: MemoryStore,
    scorer: LazyScorer,
    show: Callable[[], None],
) -> Evidence:
    """What a bootstrap finds: the answer to what an engine asks first, or a second opinion."""

    def evaluate(labels: IntArray, rows: BoolArray) -> ScoreArray:
        found = scored(labels, rows, store, scorer)
        show()
        return found

    def read(labels: IntArray) -> ScoreArray:
        found = store.beside("texts", labels, checked(store, scorer, scorer.score_texts))
        show()
        return found.scores

    return bootstrap(
        dataset,
        evaluate,
        read=read if _reads_texts(store, scorer, config) else None,
        fixed=fixed_array(config),
        rounds=config.bootstrap_rounds,
        shares=config.label_shares,
        seed=config.seed,
        shots=0 if config.context_demonstrations else SHOTS,
        enough=lambda: 0 < config.max_tokens <= store.n_tokens,
    )


def second_opinion(
    dataset: Dataset,
    config: SearchConfig,
    store: MemoryStore,
    scorer: LazyScorer,
    show: Callable[[], None],
) -> Evidence | None:
    """What a bootstrap finds after a search from other labels; None where that is not asked for.

    Nor is there one where the bound of tokens is reached before it is complete.
    """

    def spent() -> bool:
        return 0 < config.max_tokens <= store.n_tokens

    if not config.second_opinion or spent():
        return None
    found = bootstrapped(dataset, config, store, scorer, show)
    return None if spent() else found


def _reads_texts(store: MemoryStore, scorer: LazyScorer, config: SearchConfig) -> bool:
    """Whether texts after labels are asked for."""
    recorded = store.reads_texts
    return config.uses_channel and (scorer.reads_texts if recorded is None else recorded)


def _step(number: int, state: SearchState, store: MemoryStore) -> Step:
    """The figures of a step; what was scored in all is known once the replay is over."""
    replayed = not state.n_scored_now
    cost = {"evaluations": state.n_evaluations, "tokens": store.n_tokens}
    return Step("search", number, state.figures() | ({} if replayed else cost), replayed)


def _state(engine: SearchEngine, store: MemoryStore, config: SearchConfig) -> SearchState:
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

"""What a search returns, made from the engine's last state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.answers import checked
from icm_fast.engine.bootstrap import Evidence, evidence_labels
from icm_fast.engine.concerns import (
    Concern,
    Rival,
    find_rival,
    other_opinion,
    search_concerns,
    wording_of,
)
from icm_fast.engine.native import fixed_array, labelling_utility
from icm_fast.engine.protocol import SearchEngine
from icm_fast.engine.verdict import (
    Signs,
    agreement_above_chance,
    label_confidence,
    label_probabilities,
    signs_of,
    verdict_of,
)
from icm_fast.runs.provenance import versions
from icm_fast.runs.store import MemoryStore
from icm_fast.runs.verdict import Verdict
from icm_fast.scoring.lazy import LazyScorer
from icm_fast.types import UNLABELLED, Dataset, FloatArray, IntArray, ScoreArray


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        labels: ``[n]`` int32 index into the label space, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 LOO log-probabilities in the final state.
        utility: U(D) of these labels.
        n_evaluations: Distinct labellings scored.
        n_tokens_forwarded: Tokens that the model forwarded, earlier parts of a resumed
            run included.
        reason: Why the search ended: ``converged``, ``settled``, ``max_iterations``,
            ``max_evaluations`` or ``max_tokens``.
        n_iterations: Search steps, null draws included.
        seconds: Wall-clock seconds of the process that finished the search.
        concerns: Reasons to doubt the labels (:mod:`icm_fast.engine.concerns`), gravest first.
        runner_up: The best scored labelling that differs in at least a quarter of the examples.
        confidence: ``[n]`` probability of each label by all ways in which the model was asked
            (:func:`icm_fast.engine.verdict.label_confidence`); None where the search never scored
            examples alone, as with the preset ``paper``.
        signs: What speaks for the labels; None there too, and with too few labels.
        verdict: Whether the labels can be trusted; None likewise.
        probabilities: ``[n, n_labels]`` of all labels, of which confidence has the found ones; None
            likewise.
        shares: ``[n_labels]`` of the labels among examples that are not known, where a bootstrap
            saw that they are far from equal ones; None otherwise.
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
    confidence: FloatArray | None = None
    signs: Signs | None = None
    verdict: Verdict | None = None
    probabilities: FloatArray | None = None
    shares: FloatArray | None = None


def compared(
    result: SearchResult, opinion: Evidence, dataset: Dataset, config: SearchConfig
) -> SearchResult:
    """The result with a concern, first, where its labels are not those that a bootstrap finds.

    Args:
        result: What the search found, from another start.
        opinion: What a bootstrap found afterwards.
        dataset: Its examples.
        config: Its settings.
    """
    fixed, wording = fixed_array(config), wording_of(dataset)
    known = np.full(len(dataset), UNLABELLED, np.int32) if fixed is None else fixed
    others = evidence_labels(opinion.together, known, dataset.constraints)
    agreement = agreement_above_chance(result.labels, others, fixed, wording)
    concern = other_opinion(agreement)
    return result if concern is None else replace(result, concerns=(concern, *result.concerns))


def judged(
    result: SearchResult,
    store: MemoryStore,
    dataset: Dataset,
    config: SearchConfig,
    start: Evidence | None = None,
) -> SearchResult:
    """The result with confidence and verdict, where the search scored each example alone.

    Args:
        result: What the search found.
        store: Its scores.
        dataset: Its examples.
        config: Its settings.
        start: What its bootstrap found, at the start or as a second opinion, if it had one.
    """
    alone = scores_alone(store, config, len(dataset))
    if alone is None or not np.isfinite(result.scores).all():
        return result
    texts = None if start is None else start.texts
    fixed, wording = fixed_array(config), wording_of(dataset)
    signs = signs_of(result.labels, alone, result.scores, fixed, texts, wording)
    kinds = [concern.kind for concern in result.concerns]
    probabilities = label_probabilities(result.labels, alone, result.scores, start)
    return replace(
        result,
        confidence=label_confidence(result.labels, probabilities),
        signs=signs,
        verdict=verdict_of(signs, kinds),
        probabilities=probabilities,
        shares=None if start is None else start.shares,
    )


def scores_alone(store: MemoryStore, config: SearchConfig, n_examples: int) -> ScoreArray | None:
    """Scores of all examples with known labels alone in the context, ``[n, n_labels]``.

    Returns:
        None where the search never asked for them, or some are not finite.
    """
    fixed = fixed_array(config)
    nothing = np.full(n_examples, UNLABELLED, np.int32) if fixed is None else fixed
    known = store.lookup(nothing, lambda scores: bool(np.isfinite(scores).all()))
    return None if known is None else known.scores


def rescored(
    result: SearchResult,
    store: MemoryStore,
    scorer: LazyScorer,
    dataset: Dataset,
    config: SearchConfig,
) -> SearchResult:
    """The result with scores under contexts that depend on its labels alone."""
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


def result_of(
    engine: SearchEngine, store: MemoryStore, dataset: Dataset, config: SearchConfig
) -> SearchResult:
    """The result of a search that has ended, without its seconds."""
    labels = np.array(engine.result_labels, dtype=np.int32)
    utility = engine.result_utility
    rival = find_rival(labels, dataset, config, store.asked())
    return SearchResult(
        labels=labels,
        scores=np.array(engine.result_scores, dtype=np.float32),
        utility=utility,
        concerns=search_concerns(labels, utility, dataset, config, rival),
        runner_up=rival,
        n_evaluations=store.n_evaluations,
        n_tokens_forwarded=store.n_tokens,
        reason=engine.reason,
        n_iterations=engine.iteration,
        seconds=0.0,
    )


def summary_of(engine: SearchEngine, store: MemoryStore, result: SearchResult) -> dict[str, object]:
    """Content of summary.json."""
    return {
        "utility": result.utility,
        "utility_in_search": engine.result_utility,
        "reason": result.reason,
        "n_examples": len(result.labels),
        "n_labelled": int((result.labels != UNLABELLED).sum()),
        "n_iterations": result.n_iterations,
        "n_accepted": engine.n_accepted,
        "n_evaluations": result.n_evaluations,
        "n_tokens_forwarded": result.n_tokens_forwarded,
        "n_evaluations_resumed": store.n_resumed,
        "concerns": [asdict(concern) for concern in result.concerns],
        **_judgement(result),
        "runner_up": None if result.runner_up is None else asdict(result.runner_up),
        "seconds": round(result.seconds, 3),
        "versions": versions(),
    }


def _judgement(result: SearchResult) -> dict[str, object]:
    """Signs and verdict, where there are any; summaries of other searches stay as they were."""
    if result.signs is None or result.verdict is None:
        return {}
    return {"signs": result.signs.content(), "verdict": result.verdict.content()}

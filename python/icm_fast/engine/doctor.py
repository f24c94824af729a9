"""Checks before a long run: model, labels, boundaries, context length, cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.engine.native import check_fits
from icm_fast.engine.progress import clock
from icm_fast.errors import InputError
from icm_fast.model.lazy import LazyModel
from icm_fast.scoring.checks import check_scores
from icm_fast.tasks.duplicates import duplicates_text
from icm_fast.types import UNLABELLED, Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.model.loaded import LoadedModel
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.plan.text_ids import Tokenizer
    from icm_fast.scoring.protocol import MakeScorer, Scorer

TYPICAL_FINAL_EVALUATIONS = 30
"""Evaluations of complete labellings in a typical search; only the time estimate uses it."""

_TIMED_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one check.

    Attributes:
        check: What was looked at.
        passed: Whether a search can run.
        detail: What was found.
        note: Whether it passed, but is worth a look.
    """

    check: str
    passed: bool
    detail: str
    note: bool = False

    @property
    def state(self) -> str:
        """``ok``, ``note`` or ``FAIL``."""
        return "FAIL" if not self.passed else "note" if self.note else "ok"


def diagnose(
    load: Callable[[], Dataset], model: LazyModel, config: SearchConfig
) -> Iterator[Finding]:
    """Run the checks in order and stop at the first failure, since later checks rely on it.

    Args:
        load: Loads the data set.
        model: The model; the second check loads it.
        config: Settings of the planned search.
    """
    from icm_fast.model.hardware import describe_cpu

    yield Finding("processor", True, describe_cpu())
    steps = _steps(load, model, config)
    while True:
        try:
            yield next(steps)
        except StopIteration:
            return
        except InputError as error:
            yield Finding("input", False, str(error))
            return


def _steps(
    load: Callable[[], Dataset], model: LazyModel, config: SearchConfig
) -> Iterator[Finding]:
    from icm_fast.plan.pieces import tokenize_dataset
    from icm_fast.scoring.factory import make_scorer

    dataset = load()
    check_fits(config, dataset)
    yield Finding("data", True, _describe_data(dataset))
    copies = duplicates_text(dataset.examples)
    yield Finding("duplicates", True, copies or "no prompt occurs twice", copies is not None)
    loaded = model.load()
    yield Finding("model", True, _describe_model(loaded))
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    yield Finding("label tokens", True, _describe_labels(dataset, pieces.labels))
    yield Finding("boundaries", True, f"the pieces of all {len(dataset)} prompts join like text")
    yield from _reading(dataset, loaded.tokenizer, pieces)
    scorer = make_scorer(loaded, dataset, config)
    limit = config.context_limit or loaded.max_context
    yield Finding("context", True, _describe_context(scorer, pieces, limit))
    rate = _tokens_per_second(loaded, dataset, config, make_scorer)
    yield Finding("speed", True, f"{rate:,.0f} tokens per second")
    yield Finding("cost", True, _describe_cost(scorer, dataset, config, rate))


def _reading(dataset: Dataset, tokenizer: Tokenizer, pieces: TokenizedDataset) -> Iterator[Finding]:
    """How the model reads the data: what gets lost, how labels join, one whole prompt."""
    from icm_fast.plan.text_ids import Decoder, lost_texts_sentence, marked_text
    from icm_fast.tasks.joins import joined_labels

    lost = lost_texts_sentence(tokenizer, dataset.examples)
    yield Finding(
        "round trip", True, lost or "tokens turn back into the texts of all prompts", bool(lost)
    )
    labels = tuple(dataset.label_space)
    usual = joined_labels(labels, (example.prompt for example in dataset.examples))
    joins = "labels follow the prompts as in running text"
    if usual != labels:
        joins = f"labels {list(labels)} follow a word without a blank; {list(usual)} is usual"
    yield Finding("label join", True, joins, usual != labels)
    if not isinstance(tokenizer, Decoder):
        return
    ids = pieces.root + pieces.demonstration(0, 0, first=True)
    yield Finding(
        "prompt", True, f"example {dataset.examples[0].id!r}: {marked_text(tokenizer, ids)}"
    )


def _describe_data(dataset: Dataset) -> str:
    groups = len({e.group for e in dataset.examples if e.group is not None})
    return (
        f"{dataset.name}: {len(dataset)} examples, {groups} groups, "
        f"{len(dataset.constraints)} constraints"
    )


def _describe_model(loaded: LoadedModel) -> str:
    return (
        f"{loaded.name}: {loaded.n_parameters / 1e6:,.0f} M parameters, {loaded.dtype_name}, "
        f"context {loaded.max_context}"
    )


def _describe_context(scorer: Scorer, pieces: TokenizedDataset, limit: int) -> str:
    from icm_fast.scoring.bounded import BoundedScorer
    from icm_fast.scoring.factory import longest_context

    if isinstance(scorer, BoundedScorer):
        n_blocks = len(scorer.blocks)
        return f"up to {scorer.longest_context} of {limit} tokens, in {n_blocks} blocks of examples"
    needed = longest_context(pieces, len(pieces))
    return f"{needed} of {limit} tokens with all {len(pieces)} labelled"


def _describe_labels(dataset: Dataset, labels: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(
        f"{text!r} = {list(ids)}" for text, ids in zip(dataset.label_space, labels, strict=True)
    )


def _tokens_per_second(
    loaded: LoadedModel, dataset: Dataset, config: SearchConfig, make_scorer: MakeScorer
) -> float:
    """Speed of one small evaluation, after another one as a warm-up."""
    n = min(len(dataset), _TIMED_EXAMPLES)
    scorer = make_scorer(loaded, dataset.subset(range(n)), config)
    labels = balanced_labels(n, len(dataset.label_space))
    check_scores(dataset.subset(range(n)), scorer.score(labels).scores)
    started = time.monotonic()
    n_tokens = scorer.score(labels).n_tokens
    return float(n_tokens / max(time.monotonic() - started, 1e-9))


def _describe_cost(scorer: Scorer, dataset: Dataset, config: SearchConfig, rate: float) -> str:
    n, n_labels = len(dataset), len(dataset.label_space)
    full = scorer.predict_tokens(balanced_labels(n, n_labels))
    sizes = growth_sizes(n, config)
    growing = sum(scorer.predict_tokens(balanced_labels(n, n_labels, n_labelled=m)) for m in sizes)
    n_final = config.max_evaluations or TYPICAL_FINAL_EVALUATIONS
    total = growing + n_final * full
    return (
        f"{full:,} tokens and {clock(full / rate)} per evaluation once all are labelled; about "
        f"{total:,} tokens and {clock(total / rate)} for a search of {len(sizes) + n_final} "
        "evaluations (many settle after fewer)"
    )


def growth_sizes(n: int, config: SearchConfig) -> list[int]:
    """How many examples are labelled at each evaluation of a search that accepts every move.

    Known labels are there from the start, and beforehand all examples are scored under them alone
    where the start or the proposals lean on that.
    """
    known = sum(label != UNLABELLED for label in config.fixed_labels)
    leans = config.start == "zero-shot" or bool(config.prior_weight)
    sizes = [known] if known and leans else []
    labelled = known + min(config.n_initial, n - known)
    grows = "grow" in (config.moves or ())
    while labelled < n:
        sizes.append(labelled)
        step = math.floor(config.growth * labelled + 0.5) if grows else 1
        labelled += max(1, step)
    return sizes


def balanced_labels(n: int, n_labels: int, *, n_labelled: int | None = None) -> IntArray:
    """Labels that alternate over the first ``n_labelled`` examples, ``[n]`` int32."""
    labels = (np.arange(n) % n_labels).astype(np.int32)
    labels[n if n_labelled is None else n_labelled :] = UNLABELLED
    return labels

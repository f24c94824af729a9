"""Picks the scorer for a model, a data set and settings, and checks that they fit together."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model.forward.path import warn_of_slow_device
from icm_fast.model.loaded import LoadedModel
from icm_fast.model.sharing import turn_of
from icm_fast.plan.pieces import TokenizedDataset, tokenize_dataset
from icm_fast.plan.text_ids import lost_texts_sentence
from icm_fast.scoring.bounded import BoundedScorer
from icm_fast.scoring.elsewhere import ModelElsewhere
from icm_fast.scoring.growing import AppendingScorer
from icm_fast.scoring.local import NaiveScorer, TreeScorer
from icm_fast.scoring.models import TOKENIZING, local_weights
from icm_fast.scoring.protocol import Scorer, TextScoring
from icm_fast.scoring.servers.lazy import ServedModel
from icm_fast.scoring.servers.scorer import ServerScorer
from icm_fast.scoring.servers.texts import ServerTextScorer
from icm_fast.scoring.support import require_exact_sharing, require_known_head, require_tree_support
from icm_fast.scoring.texts import TextScorer
from icm_fast.types import Dataset

if TYPE_CHECKING:
    from icm_fast.scoring.models import ScoringModel


def make_scorer(loaded: ScoringModel, dataset: Dataset, config: SearchConfig) -> Scorer:
    """Tokenize the data set, check that it fits the model, and return the scorer.

    Args:
        loaded: A model in this process, of a server, or of other processes.
        dataset: What is scored.
        config: Settings.

    Raises:
        InputError: Labels or boundaries do not tokenize, the contexts exceed the model's
            limit, or the model can't share prefixes (at this length).
    """
    if isinstance(loaded, ServedModel):
        with TOKENIZING:
            return _server_scorer(loaded, dataset, config)
    if isinstance(loaded, ModelElsewhere):
        return loaded.scorer(dataset, config)
    with turn_of(loaded.model):  # tokenizers and probes change the state of the model, too
        scorer = _make_scorer(loaded, dataset, config)
        warn_of_slow_device(scorer.path)
    return scorer


def make_text_scorer(loaded: ScoringModel, dataset: Dataset, config: SearchConfig) -> TextScoring:
    """Return what scores texts after labels.

    Args:
        loaded: A model that :func:`~icm_fast.scoring.models.reads_texts`.
        dataset: What is scored.
        config: Settings.
    """
    if isinstance(loaded, ModelElsewhere):
        return loaded.scorer(dataset, config)
    if isinstance(loaded, ServedModel):
        return ServerTextScorer(loaded, dataset, config)
    with turn_of(loaded.model):
        return TextScorer(loaded, dataset, config)


def _make_scorer(
    loaded: LoadedModel, dataset: Dataset, config: SearchConfig
) -> TreeScorer | NaiveScorer | BoundedScorer:
    pieces = tokenize_dataset(dataset, loaded.tokenizer)
    check_embedded(pieces, loaded)
    _warn_of_lost_texts(loaded, dataset)
    limit = config.context_limit or loaded.max_context
    require_known_head(loaded)
    if 0 < config.context_demonstrations < len(pieces) - 1:
        require_tree_support(loaded)
        bounded = BoundedScorer(TreeScorer(loaded, pieces, config), pieces, config)
        check_bounded_context(bounded.longest_context, limit)
        return bounded
    check_context(pieces, limit)
    if config.scorer == "naive":
        return NaiveScorer(loaded, pieces, config)
    require_tree_support(loaded)
    if not config.context_limit:
        require_exact_sharing(loaded, longest_context(pieces, len(pieces)))
    if config.context_order == "append":
        return AppendingScorer(loaded, pieces, config)
    return TreeScorer(loaded, pieces, config)


def _server_scorer(served: ServedModel, dataset: Dataset, config: SearchConfig) -> Scorer:
    """The scorer of a model on a server; it sends whole prompts, whatever ``scorer`` says."""
    if config.int8 or config.context_order == "append":
        name = "int8" if config.int8 else "context_order=append"
        raise InputError(f"{name} is for models in this process, not for {served.name}; drop it")
    pieces = tokenize_dataset(dataset, served.tokenizer)
    _warn_of_lost_texts(served, dataset)
    limit = config.context_limit or served.max_context
    scorer = ServerScorer(served, pieces, config, tuple(dataset.label_space))
    if 0 < config.context_demonstrations < len(pieces) - 1:
        bounded = BoundedScorer(scorer, pieces, config)
        check_bounded_context(bounded.longest_context, limit)
        return bounded
    check_context(pieces, limit)
    return scorer


def make_piece_scorer(
    loaded: ScoringModel, pieces: TokenizedDataset, config: SearchConfig
) -> TreeScorer | ServerScorer:
    """A scorer of prompts that are token ids already, such as those of a chat template."""
    if isinstance(loaded, ServedModel):
        return ServerScorer(loaded, pieces, config)
    return TreeScorer(local_weights(loaded, "scoring token ids"), pieces, config)


def _warn_of_lost_texts(loaded: ScoringModel, dataset: Dataset) -> None:
    lost = lost_texts_sentence(loaded.tokenizer, dataset)
    if lost is not None:
        warnings.warn(lost, UserWarning, stacklevel=4)


def check_embedded(pieces: TokenizedDataset, loaded: LoadedModel) -> None:
    """Raise InputError if a text has a token without an embedding, such as one of images."""
    rows = len(loaded.model.get_input_embeddings().weight)
    texts = (pieces.root, *pieces.first_prompts, *pieces.later_prompts, *pieces.labels)
    largest = max((max(ids) for ids in texts if ids), default=0)
    if largest >= rows:
        token = loaded.tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"a text contains {token!r}, for which the model {loaded.name} has no embedding; "
            "remove it from the prompts"
        )


def check_bounded_context(needed: int, limit: int) -> None:
    """Raise InputError if bounded contexts exceed ``limit`` tokens."""
    if needed > limit:
        raise InputError(
            f"these demonstrations need contexts of up to {needed} tokens, but the limit is "
            f"{limit}; pass a smaller context_demonstrations"
        )


def longest_context(pieces: TokenizedDataset, n: int) -> int:
    """Maximum number of tokens before a label when the first ``n`` examples are all labelled."""
    # An upper bound: of the left-out example only the prompt is in its context.
    return int(pieces.demonstration_bounds()[:n].sum()) + len(pieces.root)


def check_context(pieces: TokenizedDataset, limit: int) -> None:
    """Raise InputError, naming the largest n that fits, if n examples exceed ``limit`` tokens."""
    n = len(pieces)
    needed = longest_context(pieces, n)
    if needed <= limit:
        return
    lengths = [longest_context(pieces, k) for k in range(1, n + 1)]
    fitting = int(np.searchsorted(np.array(lengths), limit, side="right"))
    if fitting == 0:
        raise InputError(
            f"the first example alone needs {lengths[0]} tokens, but the limit "
            f"is {limit}; shorten the prompts or pass a model with a longer context"
        )
    raise InputError(
        f"{n} examples need contexts of {needed} tokens, but the limit is {limit}; the largest "
        f"n that fits is {fitting}: pass limit={fitting} (--limit {fitting}), shorter prompts, or "
        f"context_demonstrations={max(1, fitting // 2)} (an approximation)"
    )

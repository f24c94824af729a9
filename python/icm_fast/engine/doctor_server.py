"""The doctor's checks of a model on a server: what it supports, its prefix cache, its rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from icm_fast.engine.doctor import (
    Finding,
    balanced_labels,
    context,
    cost,
    label_tokens,
    reading,
)
from icm_fast.engine.progress import Stopwatch
from icm_fast.plan.label_tree import label_tree
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.scoring.checks import check_scores
from icm_fast.scoring.factory import make_scorer, make_text_scorer

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.plan.pieces import TokenizedDataset
    from icm_fast.scoring.servers.lazy import ServedModel
    from icm_fast.types import Dataset

_TIMED_EXAMPLES = 8
_CACHE_PROBE_TOKENS = 1024
_CACHE_SHARE = 0.5
"""Most of a repeated prompt that a working cache leaves to compute; blocks are not split."""


def server_steps(served: ServedModel, dataset: Dataset, config: SearchConfig) -> Iterator[Finding]:
    """The findings about a server, after those about the data.

    Args:
        served: The opened server.
        dataset: What is to be searched.
        config: Settings of the planned search.

    Raises:
        InputError: Something does not fit; the message is the finding.
    """
    yield _server(served)
    yield _tokenizer(served)
    pieces = tokenize_dataset(dataset, served.tokenizer)
    yield label_tokens(dataset, pieces)
    yield Finding("boundaries", True, f"the pieces of all {len(dataset)} prompts join like text")
    yield from reading(dataset, served.tokenizer, pieces)
    served.client.vouch()
    yield Finding("known answer", True, "a known sentence is answered as before")
    scorer = make_scorer(served, dataset, config)
    yield context(scorer, pieces, config.context_limit or served.max_context)
    yield _prefix_cache(served, dataset, pieces)
    if config.uses_channel:
        yield _channel(served)
    nodes = 1 + len(label_tree(pieces).tail_tokens)
    rate, per_second = _rate(served, dataset, config, nodes)
    speed = {"tokens_per_second": rate, "requests_per_second": per_second}
    detail = f"{rate:,.0f} tokens per second beyond the cache, {per_second:,.1f} requests"
    yield Finding("speed", True, detail, fields=speed)
    asks = config.uses_channel and served.reads_texts
    texts = make_text_scorer(served, dataset, config) if asks else None
    yield cost(scorer, dataset, config, rate, len(dataset) * nodes, texts)


def _server(served: ServedModel) -> Finding:
    client = served.client
    facts, dialect = client.facts, client.dialect
    tokens = (
        "any token by its id"
        if dialect.is_exact
        else (f"the {dialect.first_width} most likely tokens only")
    )
    detail = f"{dialect.name} with {facts.model}, {tokens}, context {served.max_context}"
    if facts.n_parameters:
        detail += f", {facts.n_parameters / 1e6:,.0f} M parameters"
    fields = {
        "server": dialect.name,
        "model": facts.model,
        "max_context": served.max_context,
        "by_id": dialect.is_exact,
        "requests_in_flight": client.requests,
        "fingerprint": served.fingerprint,
    }
    return Finding("server", True, detail, not dialect.is_exact, fields)


def _channel(served: ServedModel) -> Finding:
    name = served.client.dialect.name
    if served.reads_texts:
        return Finding("channel", True, f"{name} also tells how probable texts are after labels")
    detail = (
        f"{name} does not tell how probable a text is, so the search leaves the channel out and "
        "finds worse labels; vLLM, SGLang and models in this process tell it"
    )
    return Finding("channel", True, detail, note=True)


def _tokenizer(served: ServedModel) -> Finding:
    check = served.token_check
    what = "tokens" if check.by_ids else "number of tokens"
    detail = f"the server reads {check.n_texts} known texts with the same {what}"
    return Finding("tokenizer", True, detail, not check.by_ids, {"by_ids": check.by_ids})


def _prefix_cache(served: ServedModel, dataset: Dataset, pieces: TokenizedDataset) -> Finding:
    """Send a long prompt, then one that differs at its end: how much is computed again?"""
    limit = min(served.max_context, _CACHE_PROBE_TOKENS)
    ids = list(pieces.root)
    rng = np.random.default_rng()  # another prompt at each call: nothing of it is cached yet
    for i in rng.integers(len(dataset), size=limit):
        more = pieces.demonstration(int(i), int(rng.integers(len(pieces.labels))), first=False)
        if len(ids) + len(more) > limit - 1:
            break
        ids += more
    end = [pieces.labels[0][0]]
    wanted = (pieces.labels[0][0],) if served.client.dialect.is_exact else ()
    watch = Stopwatch()
    first = served.client.answer(ids, wanted)
    seconds = watch.seconds()
    watch = Stopwatch()
    again = served.client.computed(ids + end, wanted)
    quicker = f"{seconds:.2f} s, then {watch.seconds():.2f} s"
    fields = {"tokens": len(ids) + 1, "computed_again": again, "first_computed": first.n_computed}
    if again is None:
        detail = f"the server does not say what it computes again ({quicker} for the same prefix)"
        return Finding("prefix cache", True, detail, True, fields)
    works = again <= _CACHE_SHARE * (len(ids) + 1)
    detail = f"{again:,} of {len(ids) + 1:,} tokens were computed again ({quicker})"
    if not works:
        detail += (
            "; switch the prefix cache of the server on, it is what the order of contexts saves"
        )
    return Finding("prefix cache", True, detail, not works, fields)


def _rate(
    served: ServedModel, dataset: Dataset, config: SearchConfig, nodes: int
) -> tuple[float, float]:
    """Tokens and requests per second of a small evaluation, after another one as a warm-up."""
    part = dataset.subset(range(min(len(dataset), _TIMED_EXAMPLES)))
    scorer = make_scorer(served, part, config)
    labels = balanced_labels(len(part), len(part.label_space))
    check_scores(part, scorer.score(labels).scores)
    # Other labels: the same ones would be in the server's cache.
    other = ((labels + 1) % len(part.label_space)).astype(np.int32)
    watch = Stopwatch()
    n_tokens = scorer.score(other).n_tokens
    seconds = max(watch.seconds(), 1e-9)
    return n_tokens / seconds, len(part) * nodes / seconds

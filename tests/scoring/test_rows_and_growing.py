"""Parts of a labelling, and contexts that grow: the same scores as whole prompts, for less."""

import numpy as np
import pytest
import torch

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.plan.leave_one_out import Stages
from icm_fast.scoring import local
from icm_fast.scoring.factory import make_scorer
from icm_fast.scoring.growing import AppendingScorer
from reference import reference_leave_one_out
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)

TOLERANCE = 1e-4
LABELS = {"single": SINGLE, "multi": MULTI, "prefix": PREFIX}
FAMILIES = ["llama", "gemma3_text", "mistral"]


def all_rows(labels):
    return np.ones(len(labels), np.bool_)


# ---- Rows ----


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", ["tree", "naive"])
def test_a_row_does_not_depend_on_the_others(name, kind):
    dataset = reviews(LABELS[kind])
    labels = mixed_labels(dataset)
    scorer = make_scorer(tiny_loaded("qwen3"), dataset, SearchConfig(scorer=name))
    whole = scorer.score(labels)
    for step in (2, 3, 5):
        rows = np.arange(len(dataset)) % step == 1
        part = scorer.score_rows(labels, rows)
        assert np.array_equal(part.scores[rows], whole.scores[rows])
        assert np.isnan(part.scores[~rows]).all()
        assert part.n_tokens < whole.n_tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_in_stages_are_the_same_bits(dtype):
    loaded = tiny_loaded("llama", dtype=getattr(torch, dtype))
    assert loaded.dtype_name == dtype
    dataset = reviews(MULTI)
    labels = mixed_labels(dataset, unlabelled=())
    scorer = make_scorer(loaded, dataset, SearchConfig())
    whole, seen = scorer.score(labels).scores, []

    def look(scores):
        seen.append(int(np.isfinite(scores).all(axis=1).sum()))
        return False

    plan = scorer.plan(labels)
    staged = scorer.score_rows(labels, all_rows(labels), enough=look)
    assert np.array_equal(staged.scores, whole)
    assert staged.n_tokens == plan.n_tokens


def test_scoring_stops_when_it_is_enough_and_begins_with_what_matters(monkeypatch):
    monkeypatch.setattr("icm_fast.scoring.local.STAGE_TOKENS", 1)
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset, unlabelled=())
    for name in ("tree", "naive"):
        scorer = make_scorer(tiny_loaded("llama"), dataset, SearchConfig(scorer=name))
        whole = scorer.score(labels)
        for wanted in (0, 5):
            priority = np.where(np.arange(len(dataset)) == wanted, -100.0, 0.0)

            def has_it(scores, wanted=wanted):
                return bool(np.isfinite(scores[wanted]).all())

            part = scorer.score_rows(labels, all_rows(labels), enough=has_it, priority=priority)
            scored = np.isfinite(part.scores).all(axis=1)
            assert scored[wanted]
            assert scored.sum() <= 2  # the example, and the one whose context ends beside it
            assert np.array_equal(part.scores[scored], whole.scores[scored])
            assert part.n_tokens < whole.n_tokens


# ---- Contexts that grow ----


def history(dataset):
    """Additions, a lookup, a change of the last example, one of an early example, and back."""
    full = mixed_labels(dataset, unlabelled=())
    states = []
    for n in range(3, len(dataset) + 1):
        states.append(np.where(np.arange(len(dataset)) < n, full, -1).astype(np.int32))
    last, early = states[-1].copy(), states[-1].copy()
    last[-1] = 1 - last[-1]
    early[0] = 1 - early[0]
    return [*states, states[2], last, early, states[-1]]


def oracle(loaded, dataset, labels, contexts):
    return reference_leave_one_out(
        dataset, labels, model=loaded.model, tokenizer=loaded.tokenizer, orders=contexts
    )


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("generic", [False, True])
def test_grown_contexts_score_like_whole_prompts(family, kind, generic):
    loaded = tiny_loaded(family, bos=True, generic=generic)
    dataset = reviews(LABELS[kind])
    scorer = make_scorer(loaded, dataset, SearchConfig(context_order="append"))
    assert isinstance(scorer, AppendingScorer)
    for labels in history(dataset):
        plan = scorer.plan_rows(labels, Stages(all_rows(labels)))
        if plan.tree.is_kept:  # only looked at
            scorer._cache.finish(np.zeros(plan.tree.n_segments, np.bool_))
        scored = scorer.score(labels)
        expected = oracle(loaded, dataset, labels, plan.contexts)
        assert np.abs(scored.scores - expected).max() <= TOLERANCE
        assert scored.n_tokens == plan.n_tokens
        for i, context in enumerate(plan.contexts):
            others = [j for j in range(len(dataset)) if labels[j] >= 0 and j != i]
            assert sorted(context.tolist()) == others


def test_an_addition_costs_one_encoding_and_one_query_per_example():
    dataset = reviews(SINGLE)
    scorer = make_scorer(tiny_loaded("llama"), dataset, SearchConfig(context_order="append"))
    states = history(dataset)[: len(dataset) - 2]
    scorer.score(states[0])
    prompts, _ = scorer._pieces.query_lengths()
    for labels, before in zip(states[1:], states[:-1], strict=True):
        new = int(np.flatnonzero((labels >= 0) & (before < 0))[0])
        demonstration = len(scorer._pieces.demonstration(new, int(labels[new]), first=False))
        scored = scorer.score(labels)
        n_before = int((before >= 0).sum())
        # In the context of each example that was there, and of the unlabelled ones together.
        encodings = n_before + (labels < 0).any()
        assert scored.n_tokens == encodings * demonstration + prompts.sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_held_gives_the_same_bits_as_what_is_not(dtype):
    loaded = tiny_loaded("llama", dtype=getattr(torch, dtype))
    assert loaded.dtype_name == dtype
    dataset = reviews(MULTI)
    config = SearchConfig(context_order="append")
    warm = make_scorer(loaded, dataset, config)
    states = history(dataset)
    for k, labels in enumerate(states):
        scored = warm.score(labels)
        cold = make_scorer(loaded, dataset, config)
        for earlier in states[:k]:
            cold.visit(earlier)
        again = cold.score(labels)
        assert np.array_equal(scored.scores, again.scores)
        assert scored.n_tokens <= again.n_tokens


def test_a_search_that_was_stopped_early_holds_only_what_was_forwarded(monkeypatch):
    monkeypatch.setattr("icm_fast.scoring.local.STAGE_TOKENS", 1)
    dataset = reviews(SINGLE)
    labels = mixed_labels(dataset, unlabelled=())
    loaded = tiny_loaded("llama")
    scorer = make_scorer(loaded, dataset, SearchConfig(context_order="append"))
    scorer.score_rows(labels, all_rows(labels), enough=lambda scores: True)
    held = scorer._cache.held_tokens
    scored = scorer.score(labels)
    assert 0 < held < scorer._cache.held_tokens
    contexts = scorer.plan_rows(labels, Stages(all_rows(labels))).contexts
    expected = oracle(loaded, dataset, labels, contexts)
    assert np.abs(scored.scores - expected).max() <= TOLERANCE


def test_a_small_budget_gives_up_nothing_but_speed():
    dataset = reviews(SINGLE)
    loaded = tiny_loaded("llama")
    for budget in (1, 150, 300, 600, 1200):
        config = SearchConfig(context_order="append", kv_budget_tokens=budget)
        scorer = make_scorer(loaded, dataset, config)
        for labels in history(dataset):
            scored = scorer.score(labels)
            order = np.array(scorer._orders.order_of(labels), np.int32)
            assert scorer._cache.held_tokens <= budget
            plan = scorer.plan_rows(labels, Stages(all_rows(labels)))
            if plan.tree.is_kept:
                scorer._cache.finish(np.zeros(plan.tree.n_segments, np.bool_))
            expected = oracle(loaded, dataset, labels, plan.contexts)
            assert np.abs(scored.scores - expected).max() <= TOLERANCE, (budget, order)


def test_a_pool_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("icm_fast.scoring.growing.available_bytes", lambda: 10_000)
    with pytest.raises(InputError, match=r"kv_budget_tokens=\d+ or less"):
        make_scorer(tiny_loaded("llama"), reviews(SINGLE), SearchConfig(context_order="append"))


def test_appending_needs_the_tree():
    with pytest.raises(InputError, match="scorer=tree"):
        SearchConfig(context_order="append", scorer="naive")


# ---- Whole searches ----


def search(dataset, loaded, folder, **settings):
    config = SearchConfig(
        preset="paper", context_order="append", n_initial=2, max_iterations=60, seed=4, **settings
    )
    return icm_fast.search(dataset, model=loaded, config=config, output_dir=folder)


def test_the_result_has_the_scores_of_its_labels_alone(tmp_path):
    dataset, loaded = reviews(MULTI), tiny_loaded("llama", bos=True)
    result = search(dataset, loaded, tmp_path)
    config = SearchConfig(seed=4)
    canonical = make_scorer(loaded, dataset, config).score(result.labels)
    assert np.array_equal(result.scores, canonical.scores)
    again = search(dataset, loaded, tmp_path)
    assert np.array_equal(again.scores, result.scores)
    assert (again.utility, again.n_tokens_forwarded) == (result.utility, result.n_tokens_forwarded)


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_known_labels_stay_in_growing_contexts(tmp_path, prior_weight):
    dataset, loaded = reviews(SINGLE), tiny_loaded("llama")
    fixed = np.full(len(dataset), -1)
    fixed[[1, 4]] = 0, 1
    result = search(dataset, loaded, tmp_path, fixed_labels=fixed, prior_weight=prior_weight)
    assert result.labels[[1, 4]].tolist() == [0, 1]
    canonical = make_scorer(loaded, dataset, SearchConfig(seed=4)).score(result.labels)
    assert np.array_equal(result.scores, canonical.scores)


def test_a_search_with_growing_contexts_resumes_to_the_same_decisions(tmp_path, monkeypatch):
    dataset, loaded = reviews(SINGLE), tiny_loaded("llama", dtype=torch.bfloat16)
    search(dataset, loaded, tmp_path / "whole")
    plain = AppendingScorer.score_rows
    calls = []

    def counted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(AppendingScorer, "score_rows", counted)
    for stop in (2, 4, 7):
        calls.clear()
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            search(dataset, loaded, folder)
        search(dataset, loaded, folder)
        for name in ("labels.jsonl", "events.jsonl"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_pools_share_a_device(monkeypatch):
    """That of the growing contexts and that of the final scores, held at once."""
    monkeypatch.setattr(local, "device_tokens", lambda loaded: 900)
    scorer = make_scorer(
        tiny_loaded("llama"), reviews(SINGLE), SearchConfig(context_order="append")
    )
    assert scorer._cache.n_slots == 450
    assert scorer.canonical._config.kv_budget_tokens == 450

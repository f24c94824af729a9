"""Texts after labels: what is shared changes no score, and nothing is scored after itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.model import load_model
from icm_fast.plan.texts import MAX_SHOWN, context_of_rows, plan_texts, shown_contexts
from icm_fast.scoring.factory import make_text_scorer
from icm_fast.scoring.texts import calibrated_texts
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import (
    MULTI,
    PREFIX,
    SINGLE,
    WAYS,
    byte_tokenizer,
    metaspace_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)

LABELS = {"single": SINGLE, "multi": MULTI, "prefix": PREFIX}


def plan_of(dataset, labels, tokenizer=None, batch_tokens=4096):
    return plan_texts(
        dataset, tokenizer or byte_tokenizer(), labels, seed=0, batch_tokens=batch_tokens
    )


def whole_text(dataset, row, label, shown, labels):
    """The prompt of a text after a label, and where the text begins, by hand."""
    parts = []
    for one in [*shown, row]:
        body, question = dataset.examples[one].prompt.split("\n")
        name = dataset.label_space[label if one == row else int(labels[one])]
        parts.append(f"{question}{name}\n{body}")
    return dataset.opening + dataset.separator.join(parts), dataset.examples[row].prompt.split(
        "\n"
    )[0]


@pytest.fixture(scope="module", params=WAYS)
def loaded(request):
    return tiny_loaded(*WAYS[request.param])


@pytest.mark.parametrize("kind", LABELS)
def test_every_family_scores_like_whole_prompts(loaded, kind):
    dataset = reviews(LABELS[kind])
    for labels in (np.full(len(dataset), -1, np.int32), mixed_labels(dataset)):
        shared = make_text_scorer(loaded, dataset, SearchConfig()).score_texts(labels)
        whole = make_text_scorer(loaded, dataset, SearchConfig(scorer="naive")).score_texts(labels)
        assert shared.scores.dtype == np.float32
        assert np.abs(shared.scores - whole.scores).max() <= 1e-4
        assert shared.n_tokens < whole.n_tokens
        assert np.ptp(whole.scores, axis=1).max() > 0.05, "all labels are alike"


@pytest.mark.parametrize("preamble", ["", "Judge each review."])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("make", [byte_tokenizer, metaspace_tokenizer])
def test_the_tokens_of_a_text_after_a_label_are_those_of_the_whole_prompt(make, bos, preamble):
    dataset = replace(reviews(MULTI), preamble=preamble)
    labels, tokenizer = mixed_labels(dataset), make(bos)
    for state in (labels, np.full(len(dataset), -1, np.int32)):
        plan = plan_of(dataset, state, tokenizer)
        shown = shown_contexts(state, 0)
        for leaf in plan.leaves:
            text, own = whole_text(
                dataset, leaf.row, leaf.label, shown[plan.contexts[leaf.row]], state
            )
            ids = tokenizer(text)["input_ids"]
            assert list(plan.ids_before(leaf) + leaf.scored) == list(ids)
            assert own.endswith(tokenizer.decode(leaf.scored).strip())


def test_the_probability_of_a_text_is_among_the_tokens_of_all_texts():
    loaded, dataset = tiny_loaded("llama"), reviews()
    labels = np.full(len(dataset), -1, np.int32)
    scorer = make_text_scorer(loaded, dataset, SearchConfig())
    plan = scorer.plan(labels)
    index = torch.tensor(plan.vocabulary)
    totals = np.zeros((len(dataset), len(dataset.label_space)))
    for leaf in plan.leaves:
        ids = [*plan.ids_before(leaf), *leaf.scored]
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, :, index]
        found = logits.log_softmax(-1)
        for at, token in enumerate(leaf.scored, start=len(ids) - len(leaf.scored)):
            totals[leaf.row, leaf.label] += float(found[at - 1, plan.vocabulary.index(token)])
    expected = calibrated_texts(totals, plan)
    assert np.abs(scorer.score_texts(labels).scores - expected).max() <= 1e-4


def test_no_example_is_scored_after_itself_and_contexts_hold_as_many_of_each_label():
    rng = np.random.default_rng(3)
    labels = rng.integers(-1, 3, 200).astype(np.int32)
    shown = shown_contexts(labels, 5)
    assert sorted(row for rows in shown for row in rows) == np.flatnonzero(labels >= 0).tolist()
    assert max(map(len, shown)) <= MAX_SHOWN
    chosen = context_of_rows(shown, len(labels))
    assert all(row not in shown[chosen[row]] for row in range(len(labels)))
    counts = np.array([[(labels[rows] == y).sum() for y in range(3)] for rows in shown])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.bincount(chosen, minlength=len(shown)).min() >= len(labels) // len(shown) // 2
    assert shown != shown_contexts(labels, 6)


def test_contexts_hold_no_more_than_those_of_a_bounded_search():
    loaded, dataset = tiny_loaded("llama"), reviews()
    labels = mixed_labels(dataset, unlabelled=())
    config = SearchConfig(context_demonstrations=2)
    plan = make_text_scorer(loaded, dataset, config).plan(labels)
    assert len(np.unique(plan.contexts)) == len(dataset) // 2
    assert plan.longest_context < plan_of(dataset, labels).longest_context


def test_one_demonstration_is_seen_by_all_others():
    labels = np.array([-1, 1, -1], np.int32)
    shown = shown_contexts(labels, 0)
    assert sorted(map(len, shown)) == [0, 1]
    assert 1 not in shown[context_of_rows(shown, 3)[1]]


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_batches_are_of_their_size_and_no_slot_is_used_twice_at_a_time(batch_tokens):
    dataset = reviews()
    plan = plan_of(dataset, mixed_labels(dataset), batch_tokens=batch_tokens)
    assert sorted(plan.batch_segments) == list(range(len(plan.ids)))
    descendants = {s: set() for s in range(len(plan.ids))}
    for s in range(len(plan.ids)):
        at = int(plan.parent[s])
        while at >= 0:
            descendants[at].add(s)
            at = int(plan.parent[at])
    slots = [range(o, o + n) for o, n in zip(plan.kv_offset, plan.n_tokens, strict=True)]
    ran = set()
    for begin, end in zip(plan.batch_offsets[:-1], plan.batch_offsets[1:], strict=True):
        batch = plan.batch_segments[begin:end].tolist()
        assert plan.n_tokens[batch].sum() <= batch_tokens or len(batch) == 1
        needed = {s for s in ran if descendants[s] - ran}
        assert all(plan.parent[s] < 0 or plan.parent[s] in needed for s in batch)
        for s in batch:
            assert slots[s].start % 2 == 0
            assert slots[s].stop <= plan.pool_tokens
            assert not any(set(slots[s]) & set(slots[other]) for other in needed)
            needed.add(s)
        ran |= set(batch)


def test_batches_change_no_bit():
    loaded, dataset = tiny_loaded("llama"), reviews()
    labels = mixed_labels(dataset)
    found = [
        make_text_scorer(loaded, dataset, SearchConfig(batch_tokens=size)).score_texts(labels)
        for size in (1, 50, 4096)
    ]
    assert all(np.array_equal(found[0].scores, one.scores) for one in found)
    assert len({one.n_tokens for one in found}) == 1


def test_scores_have_no_preference_for_a_label_and_do_not_grow_with_length():
    loaded, dataset = tiny_loaded("llama"), reviews()
    scorer = make_text_scorer(loaded, dataset, SearchConfig())
    labels = mixed_labels(dataset)
    scores, contexts = scorer.score_texts(labels).scores, scorer.plan(labels).contexts
    assert np.abs(scores.mean(axis=1)).max() <= 1e-6
    for context in np.unique(contexts):
        assert np.abs(scores[contexts == context].mean(axis=0)).max() <= 1e-6


def test_a_prompt_of_one_line_and_equal_texts():
    rows = [Example(str(k), text) for k, text in enumerate(("It rains", "It rains", "Sun is out"))]
    dataset = Dataset(tuple(rows), LabelSpace((" no", " yes")))
    loaded = load_model((tiny_model("llama"), byte_tokenizer()))
    for labels in (np.full(3, -1, np.int32), np.array([0, 1, -1], np.int32)):
        found = make_text_scorer(loaded, dataset, SearchConfig()).score_texts(labels)
        assert np.isfinite(found.scores).all()
        plan = plan_of(dataset, labels)
        assert all(leaf.scored for leaf in plan.leaves)


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_data_sets(n):
    loaded, dataset = tiny_loaded("llama"), reviews(n=n)
    states = ([-1] * n, [0] * n, [-1] * (n - 1) + [1], [1] + [-1] * (n - 1))
    for labels in map(np.array, states):
        found = make_text_scorer(loaded, dataset, SearchConfig()).score_texts(labels)
        assert np.isfinite(found.scores).all()
    icm_fast.search(dataset, model=loaded)


def test_the_last_line_is_scored_where_it_is_what_tells_examples_apart():
    texts = ("It rains", "The sun is out", "Snow fell")
    last = [Example(str(k), f"Classify.\nWeather: {t} Kind:") for k, t in enumerate(texts)]
    first = [Example(str(k), f"Weather: {t}\nKind:") for k, t in enumerate(texts)]
    space, labels = LabelSpace((" bad", " good")), np.array([0, 1, -1], np.int32)
    tokenizer = byte_tokenizer()
    for rows, head in ((last, "bad\nClassify.\nWeather:"), (first, "Kind: bad\nWeather:")):
        plan = plan_of(Dataset(tuple(rows), space), labels, tokenizer)
        for leaf in plan.leaves:
            assert texts[leaf.row].endswith(tokenizer.decode(leaf.scored).split(" Kind:")[0][-3:])
            before = tokenizer.decode(plan.ids_before(leaf))
            assert leaf.label or head in before + tokenizer.decode(leaf.scored)
    questions = [Example(str(k), f"A film.\nIs it {t}?") for k, t in enumerate(texts)]
    plan = plan_of(Dataset(tuple(questions), space), labels, tokenizer)
    assert len({leaf.scored for leaf in plan.leaves}) == 3


@pytest.mark.parametrize("n_labels", [2, 20])
def test_the_pool_holds_one_context_and_two_batches(n_labels):
    text = "a film that goes on and on " * 12
    rows = tuple(Example(str(k), f"Review: {k} {text}\nIs {k} good?") for k in range(40))
    dataset = Dataset(rows, LabelSpace(tuple(f" l{k}" for k in range(n_labels))))
    labels = (np.arange(40) % n_labels).astype(np.int32)
    labels[20:] = -1
    plan = plan_of(dataset, labels, batch_tokens=1024)
    root = max(int(n) for n, parent in zip(plan.n_tokens, plan.parent, strict=True) if parent < 0)
    assert plan.pool_tokens <= root + 4 * 1024


def test_contexts_are_shortened_until_they_fit_the_model():
    loaded, dataset = tiny_loaded("llama"), reviews()
    labels = mixed_labels(dataset, unlabelled=())
    whole = make_text_scorer(loaded, dataset, SearchConfig()).plan(labels)
    config = SearchConfig(context_limit=whole.longest_context - 1)
    plan = make_text_scorer(loaded, dataset, config).plan(labels)
    assert plan.longest_context <= config.context_limit
    assert len(np.unique(plan.contexts)) > len(np.unique(whole.contexts))


def test_texts_longer_than_the_context_are_refused():
    loaded = tiny_loaded("llama")
    scorer = make_text_scorer(loaded, reviews(), SearchConfig(context_limit=12))
    with pytest.raises(InputError, match="channel=False"):
        scorer.score_texts(mixed_labels(reviews()))

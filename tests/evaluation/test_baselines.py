"""Labels and prompts that found labels are compared with."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.evaluation.baselines import bootstrapped_labels, initial_labels, perturbed_labels
from icm_fast.evaluation.many_shot import many_shot, predict
from icm_fast.evaluation.metrics import calibration_error, consistency, seeds_interval
from icm_fast.evaluation.prompt_formats import ASSISTANT_DIALOGUE, assistant_pieces, chat_pieces
from icm_fast.scoring.local import TreeScorer
from icm_fast.types import Constraint
from tiny_models import (
    MULTI,
    SINGLE,
    byte_tokenizer,
    metaspace_tokenizer,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
)

GOLD = np.array([0, 1, 2, 0, 1, 2, 0, 1, -1, 2], np.int32)


@pytest.mark.parametrize("share", [0.0, 1 / 3, 5 / 9, 1.0])
def test_perturbed_labels_have_the_accuracy_asked_for(share):
    labels = perturbed_labels(GOLD, share, 3, seed=4)
    known = GOLD >= 0
    assert (labels == GOLD)[known].mean() == pytest.approx(share)
    assert labels[~known].tolist() == [-1]
    assert set(labels[known].tolist()) <= {0, 1, 2}
    again, other = perturbed_labels(GOLD, share, 3, seed=4), perturbed_labels(GOLD, share, 3, 5)
    assert np.array_equal(labels, again)
    assert share == 1.0 or not np.array_equal(labels, other)
    with pytest.raises(InputError, match=r"1\.5"):
        perturbed_labels(GOLD, 1.5, 3, seed=0)


def test_initial_labels_of_each_kind():
    for kind, right in (("golden", True), ("worst", False)):
        labels = initial_labels(kind, GOLD, 3, k=5, seed=1)
        chosen = labels >= 0
        assert chosen.sum() == 5
        assert ((labels == GOLD)[chosen] == right).all()
    drawn = [initial_labels("random", GOLD, 3, k=5, seed=s) for s in range(40)]
    shares = [(y == GOLD)[y >= 0].mean() for y in drawn]
    assert 0.2 < np.mean(shares) < 0.47
    assert (initial_labels("golden", GOLD, 3, k=99, seed=0) == GOLD).all()
    with pytest.raises(InputError, match="golden, worst or random"):
        initial_labels("gold", GOLD, 3, k=5, seed=1)
    with pytest.raises(InputError, match="no example has a gold label"):
        initial_labels("golden", np.array([-1, -1]), 3, k=5, seed=1)


def test_bootstrapping_uses_its_own_few_labels():
    loaded, dataset = tiny_loaded("llama"), reviews(SINGLE)
    import icm_fast.evaluation.baselines as baselines

    config = SearchConfig(seed=2)
    whole = predict(many_shot(None, None, dataset, model=loaded).scores, calibrated=True)
    assert np.array_equal(bootstrapped_labels(dataset, loaded, config), whole)
    few, baselines.N_FEW_SHOT = baselines.N_FEW_SHOT, 3
    try:
        labels = bootstrapped_labels(dataset, loaded, config)
    finally:
        baselines.N_FEW_SHOT = few
    order = np.random.default_rng([2, 8]).permutation(8)
    shown, rest = np.sort(order[:3]), np.sort(order[3:])
    assert np.array_equal(labels[shown], whole[shown])
    second = many_shot(
        dataset.subset(shown.tolist()),
        whole[shown],
        dataset.subset(rest.tolist()),
        model=loaded,
        config=config,
    )
    assert np.array_equal(labels[rest], predict(second.scores, calibrated=True))


@pytest.mark.parametrize("preamble", ["", "Judge the films."])
@pytest.mark.parametrize("labels", [SINGLE, MULTI])
@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), metaspace_tokenizer()])
def test_prompts_after_the_assistant_dialogue_are_those_of_the_whole_text(
    labels, tokenizer, preamble
):
    dataset = replace(reviews(labels), preamble=preamble)
    pieces = assistant_pieces(dataset, tokenizer)
    for i, example in enumerate(dataset.examples):
        text = f"{ASSISTANT_DIALOGUE}\n\n{dataset.opening}{example.prompt}"
        whole = list(tokenizer(text)["input_ids"])
        assert [*pieces.root, *pieces.prompt(i, first=True)] == whole
        for y, label in enumerate(labels):
            ids = list(tokenizer(text + label)["input_ids"])
            assert [*whole, *pieces.labels[y]] == ids
    assert len(pieces.root) > 200


def chat_tokenizer():
    from copy import deepcopy

    tokenizer = deepcopy(byte_tokenizer())
    tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "[assistant]{{ '\\n' }}"
    )
    return tokenizer


def test_chat_prompts_score_the_answer_after_the_template():
    dataset, tokenizer = reviews(SINGLE), chat_tokenizer()
    pieces = chat_pieces(dataset, tokenizer)
    prompt = [*pieces.root, *pieces.prompt(1, first=True)]
    assert tokenizer.decode(prompt) == (
        "<s>[user] Review: dull\nSentiment:\n\nAnswer with one of: positive, negative.\n"
        "[assistant]\n"
    )
    assert prompt.count(1) == 1  # the template's own beginning, no second one
    assert [tokenizer.decode(ids) for ids in pieces.labels] == ["positive", "negative"]
    told = chat_pieces(replace(dataset, preamble="Judge."), tokenizer)
    prompt = tokenizer.decode([*told.root, *told.prompt(1, first=True)])
    assert prompt.startswith("<s>[user] Judge.\n\nReview: dull\n")
    with pytest.raises(InputError, match="the preamble holds '</s>', a control token"):
        chat_pieces(replace(dataset, preamble="Judge</s> it"), tokenizer)
    with pytest.raises(InputError, match="no chat template"):
        chat_pieces(dataset, byte_tokenizer())


def tokenizer_with(template):
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


USER = "U: {{ messages[0]['content'] }}\nA:"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"


def rendered(template):
    tokenizer = tokenizer_with(template)
    pieces = chat_pieces(reviews(), tokenizer)
    return tokenizer.decode(pieces.root + pieces.first_prompts[0])


def test_thinking_is_off_where_the_template_has_a_switch():
    assert rendered(USER + SWITCH).endswith("A:<think>\n\n</think>")
    assert rendered(USER + "{% if thinking %}<think>{% endif %}").endswith("A:")


def test_a_template_that_always_thinks_is_refused():
    with pytest.raises(InputError, match="opens <think> before the answer"):
        rendered(USER + "<think>\n")


def test_the_template_of_gpt_oss_is_led_to_its_answer():
    text = rendered("U: {{ messages[0]['content'] }}<|start|>assistant")
    assert text.endswith("<|start|>assistant<|channel|>final<|message|>")


@pytest.mark.parametrize("today", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"])
def test_templates_see_the_same_date_on_every_day(today):
    assert rendered(today + USER).startswith("26 Jul 2024")


def test_a_template_that_fails_is_one_line():
    for template in ("{{ raise_exception('no\nsystem') }}", "{{ nothing.at.all }}", "{% if %}"):
        with pytest.raises(InputError, match="cannot render a prompt") as caught:
            rendered(template)
        assert "\n" not in str(caught.value)


def test_a_long_root_is_forwarded_once_and_changes_no_score():
    loaded, dataset = tiny_loaded("llama", max_position_embeddings=4096), reviews(SINGLE)
    pieces = assistant_pieces(dataset, loaded.tokenizer)
    nothing = np.full(len(dataset), -1, np.int32)
    scored = TreeScorer(loaded, pieces, SearchConfig()).score(nothing)
    prompts = sum(len(pieces.prompt(i, first=True)) for i in range(len(dataset)))
    assert scored.n_tokens == len(pieces.root) + prompts
    import torch

    for i in range(len(dataset)):
        ids = torch.tensor([[*pieces.root, *pieces.prompt(i, first=True)]])
        logits = loaded.model(ids).logits[0, -1].float()
        expected = logits[[label[0] for label in pieces.labels]].log_softmax(-1)
        assert np.abs(scored.scores[i] - expected.detach().numpy()).max() < 1e-4


def test_calibration_error_by_hand():
    # Confidence 0.8 throughout: three in four right is an error of 0.05.
    scores = np.log(np.array([[0.8, 0.2]] * 4, np.float32))
    gold = np.array([0, 0, 0, 1])
    assert calibration_error(scores, gold, n_bins=1) == pytest.approx(0.05, abs=1e-6)
    # In two bins, by order: all right (0.2 off), half right (0.3 off).
    assert calibration_error(scores, gold, n_bins=2) == pytest.approx(0.25, abs=1e-6)
    assert np.isnan(calibration_error(scores, np.array([-1] * 4)))
    shifted = scores + 7  # no probabilities before they are renormalised
    assert calibration_error(shifted, gold, n_bins=1) == pytest.approx(0.05, abs=1e-5)


def test_consistency_counts_groups_of_labelled_examples():
    one_true = ((False, True), (True, False))
    constraints = [
        Constraint(a, b, one_true) for a, b in ((0, 1), (1, 2), (0, 3), (4, 5), (7, 8), (6, 7))
    ]
    labels = np.array([0, 1, 1, -1, 1, 0, 0, 1, 0])
    # 0-1-2 breaks one of its two, 4-5 and 6-7-8 hold; 3 has no label.
    assert consistency(labels, constraints) == pytest.approx(2 / 3)
    assert consistency(labels, constraints[:1]) == 1.0
    assert np.isnan(consistency(np.array([0, -1, -1, -1]), constraints[:3]))


def test_intervals_cover_seeds_and_groups():
    rng = np.random.default_rng(0)
    own = [[(s, i) for i in range(100)] for s in range(3)]
    pairs = [[(s, i // 20) for i in range(100)] for s in range(3)]
    same = [(rng.random(100) < 0.7).astype(float) for _ in range(3)]
    apart = [(rng.random(100) < share).astype(float) for share in (0.4, 0.7, 1.0)]
    low, high = seeds_interval(same, own)
    assert low < np.mean([y.mean() for y in same]) < high
    wide = seeds_interval(apart, own)
    assert wide[1] - wide[0] > 2 * (high - low)
    doubled = [np.repeat(y[:5], 20) for y in same]
    grouped, single = seeds_interval(doubled, pairs), seeds_interval(doubled, own)
    assert grouped[1] - grouped[0] > single[1] - single[0]
    assert seeds_interval(same, own) == (low, high)


def test_examples_that_several_seeds_test_count_once():
    rng = np.random.default_rng(1)
    values = (rng.random(400) < 0.7).astype(float)
    one = seeds_interval([values], [range(400)])
    shared = seeds_interval([values] * 3, [range(400)] * 3)
    own = seeds_interval([values] * 3, [[(s, i) for i in range(400)] for s in range(3)])
    width = one[1] - one[0]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 400), rel=0.1)
    assert shared[1] - shared[0] == pytest.approx(width, rel=0.1)
    assert own[1] - own[0] < 0.8 * width


def test_examples_without_gold_do_not_count():
    values = np.array([1.0, 1.0, np.nan, 1.0])
    assert seeds_interval([values], [range(4)]) == (1.0, 1.0)

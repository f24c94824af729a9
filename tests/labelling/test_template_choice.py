"""The prompt whose predictions tell most about the texts, as far as others confirm it."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.labelling.template_choice import (
    SAMPLE_ROWS,
    SampledPrompts,
    choose_template,
    confirmed,
    expected,
    sampled_prompts,
)

N = 60
TRUTH = np.arange(N) % 2


def prompt(size, towards=TRUTH, noise=0.3, seed=0):
    """Log-probabilities that favour a label of each row by about ``size``."""
    rng = np.random.default_rng(seed)
    logits = size * rng.normal(scale=noise, size=(N, 2))
    logits[np.arange(N), towards] += size
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


OTHER = (np.arange(N) // 2) % 2


def test_predictions_that_are_sure_and_differ_tell_most():
    one_for_all = np.tile(np.log(np.float32([0.99, 0.01])), (N, 1))
    told = confirmed([prompt(0.2, seed=1), prompt(2.0, seed=2), one_for_all])
    assert told.argmax() == 1
    assert told[1] > 3 * told[0]
    assert told[2] == pytest.approx(0, abs=1e-3)


def test_what_no_other_prompt_confirms_does_not_count():
    told = confirmed([prompt(1.0, seed=1), prompt(3.0, OTHER, seed=2), prompt(0.8, seed=3)])
    assert told[1] < 0.5 * min(told[0], told[2])


def test_of_two_the_surer_one_tells_more():
    told = confirmed([prompt(1.0, seed=1), prompt(2.0, seed=2)])
    assert told.argmax() == 1


def test_what_labels_share_in_probability_does_not_matter():
    scores = [prompt(1.0, seed=1), prompt(2.0, seed=2), prompt(0.5, seed=3)]
    assert confirmed([s - np.float32(7) for s in scores]) == pytest.approx(confirmed(scores))
    biased = [s + np.float32([1, 0]) for s in scores]
    assert confirmed(biased).argmax() == confirmed(scores).argmax()


def chosen(scores):
    asked = []

    def score(template, n_rows):
        asked.append((template, n_rows))
        return scores[template]

    return choose_template("".join(scores), score), asked


def test_the_best_template_is_chosen_and_the_first_of_equal_ones():
    found, asked = chosen({"a": prompt(0.1), "b": prompt(2.0), "c": prompt(2.0)})
    assert found == "b"
    assert asked == [(template, SAMPLE_ROWS) for template in "abc"]
    counted = sampled_prompts(3, 10**6)
    assert (counted.n_prompts, counted.n_passes) == (sum(n for _, n in asked), len(asked))


def test_a_prompt_after_which_the_labels_are_expected_is_chosen():
    """Evidence that is twice as strong does not make up for labels that nobody asked for."""
    found, _ = chosen({"a": prompt(2.0) - 6, "b": prompt(1.0), "c": prompt(0.5) - 6})
    assert found == "b"
    found, _ = chosen({"a": prompt(2.0) - 1, "b": prompt(1.0), "c": prompt(0.5)})
    assert found == "a"


def test_what_is_expected_is_the_mean_over_rows_and_labels():
    scores = np.log(np.float32([[0.5, 0.25], [0.125, 0.0625]]))
    assert expected([scores, scores - 1]) == pytest.approx(
        np.log(2) * np.array([-2.5, -2.5]) - [0, 1]
    )


def test_a_single_template_is_not_scored():
    assert chosen({"a": None}) == ("a", [])
    assert sampled_prompts(1, 100) == SampledPrompts(0, 0)

"""The prompt whose predictions tell most about the texts."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.labelling.template_choice import (
    FIRST_ROWS,
    SAMPLE_ROWS,
    SampledPrompts,
    choose_template,
    mutual_information,
    sampled_prompts,
)


def logs(*rows):
    return np.log(np.array(rows, np.float32))


SURE_AND_DIFFERENT = logs([0.99, 0.01], [0.01, 0.99])
SURE_OF_ONE = logs([0.99, 0.01], [0.99, 0.01])
UNSURE = logs([0.5, 0.5], [0.5, 0.5])


def test_predictions_that_are_sure_and_differ_tell_most():
    h = -(0.99 * np.log(0.99) + 0.01 * np.log(0.01))
    assert mutual_information(SURE_AND_DIFFERENT) == pytest.approx(np.log(2) - h, abs=1e-6)
    assert mutual_information(SURE_OF_ONE) == pytest.approx(0, abs=1e-6)
    assert mutual_information(UNSURE) == pytest.approx(0, abs=1e-6)


def test_what_labels_share_in_probability_does_not_matter():
    shifted = SURE_AND_DIFFERENT - np.float32(7)
    assert mutual_information(shifted) == pytest.approx(mutual_information(SURE_AND_DIFFERENT))


def chosen(scores, templates="abc"):
    asked = []

    def score(template, n_rows):
        asked.append((template, n_rows))
        return scores[template, n_rows] if (template, n_rows) in scores else scores[template]

    return choose_template(templates, score), asked


def test_the_best_template_is_chosen_and_the_first_of_equal_ones():
    found, asked = chosen({"a": UNSURE, "b": SURE_AND_DIFFERENT, "c": SURE_AND_DIFFERENT})
    assert found == "b"
    assert asked[:3] == [(template, FIRST_ROWS) for template in "abc"]
    assert asked[3:] == [(template, SAMPLE_ROWS) for template in "bc"]
    counted = sampled_prompts(3, 10**6)
    assert (counted.n_prompts, counted.n_passes) == (sum(n for _, n in asked), len(asked))


def test_more_rows_decide_between_the_best_two():
    scores = {"a": UNSURE, "b": SURE_AND_DIFFERENT, "c": SURE_OF_ONE + np.float32(0.0)}
    scores["c", FIRST_ROWS] = logs([0.9, 0.1], [0.1, 0.9])
    scores["b", SAMPLE_ROWS] = UNSURE
    scores["c", SAMPLE_ROWS] = SURE_AND_DIFFERENT
    assert chosen(scores)[0] == "c"


def test_a_single_template_is_not_scored():
    assert chosen({}, "a") == ("a", [])
    assert sampled_prompts(1, 100) == SampledPrompts(0, 0)

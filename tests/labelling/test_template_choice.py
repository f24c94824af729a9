"""The prompt whose predictions tell most about the texts."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.labelling.template_choice import choose_template, mutual_information


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


def test_the_best_template_is_chosen_and_the_first_of_equal_ones():
    scores = {"a": UNSURE, "b": SURE_AND_DIFFERENT, "c": SURE_AND_DIFFERENT}
    assert choose_template("abc", scores.__getitem__) == "b"


def test_a_single_template_is_not_scored():
    assert choose_template(["a"], lambda template: pytest.fail("scored")) == "a"

"""Confidence against gold, on numbers that can be counted by hand."""

import numpy as np
import pytest

from icm_fast.errors import InputError
from icm_fast.evaluation.gold import column_gold
from icm_fast.evaluation.reliability import reliability
from icm_fast.tasks.rows import Row


def ints(*values):
    return np.array(values, dtype=np.int32)


def test_bins_and_coverage():
    labels, gold = ints(0, 1, 1, 0, -1, 1), ints(0, 1, 0, 0, 0, -1)
    sure = np.array([1.0, 0.95, 0.55, 0.55, 0.9, 0.8])
    found = reliability(labels, sure, gold)
    assert found.n == 4  # one has no label, one no gold
    assert found.accuracy == 0.75
    assert found.confidence == pytest.approx((1.0 + 0.95 + 0.55 + 0.55) / 4)
    low, high = found.bins
    assert (low.low, low.high, low.n, low.accuracy) == (0.5, 0.6, 2, 0.5)
    assert (high.n, high.accuracy) == (2, 1.0)
    assert high.confidence == pytest.approx(0.975)
    assert found.error == pytest.approx((2 * 0.05 + 2 * 0.025) / 4)
    # Rows of equal confidence enter together.
    assert found.coverage == ((0.25, 1.0), (0.5, 1.0), (1.0, 0.75))


def test_nothing_to_compare():
    assert reliability(ints(-1, 0), np.array([0.5, 0.5]), ints(0, -1)) is None


def rows(*values):
    return [Row(k, f"line {k + 1}", {"gold": value}) for k, value in enumerate(values)]


def test_gold_of_a_column():
    gold = column_gold(rows("no", "yes", "", None, " Yes "), "gold", ("no", "yes"))
    assert gold.tolist() == [0, 1, -1, -1, 1]


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("golden", ("no",), "no column 'golden'; did you mean 'gold'"),
        ("gold", ("", None), "holds no gold label"),
        ("gold", ("maybe",), "line 1: gold 'maybe' is not a label"),
    ],
)
def test_gold_that_cannot_be_used(column, values, told):
    with pytest.raises(InputError, match=told):
        column_gold(rows(*values), column, ("no", "yes"))

"""Wrong answers are refused."""

import numpy as np
import pytest

from benchmarks.engines.peers.protocol import PROBED_PROMPTS
from benchmarks.engines.references import FIRST_PROMPTS, References, sampled_positions
from benchmarks.engines.verify import LIMITS, compare

REFERENCE = np.log([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.9, 0.1]])


@pytest.mark.parametrize("dtype", LIMITS)
def test_limits_are_inclusive_and_kept(dtype):
    median, maximum = LIMITS[dtype]
    assert compare(REFERENCE, REFERENCE, dtype).correct
    assert compare(REFERENCE + 0.9 * median, REFERENCE, dtype).correct
    assert not compare(REFERENCE + 1.1 * median, REFERENCE, dtype).correct
    one_off = REFERENCE.copy()
    one_off[2, 1] += 1.1 * maximum
    verdict = compare(one_off, REFERENCE, dtype)
    assert not verdict.correct
    assert verdict.maximum == pytest.approx(1.1 * maximum)
    assert verdict.median == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_wrong(value):
    wrong = REFERENCE.copy()
    wrong[0, 0] = value
    assert not compare(wrong, REFERENCE, "bfloat16").correct


def test_answers_of_other_prompts_are_wrong():
    assert not compare(REFERENCE[::-1], REFERENCE, "bfloat16").correct
    assert not compare(REFERENCE[:, ::-1], REFERENCE, "bfloat16").correct


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="cannot compare"):
        compare(REFERENCE[:2], REFERENCE, "float32")
    with pytest.raises(ValueError, match="cannot compare"):
        compare(REFERENCE[:0], REFERENCE[:0], "float32")


def test_a_reference_that_hardly_varies_is_a_weak_check():
    assert compare(REFERENCE, REFERENCE, "bfloat16").tells_apart
    flat = REFERENCE[:1] + 1e-3 * REFERENCE
    assert not compare(flat, flat, "bfloat16").tells_apart


def test_references_judge_what_was_measured():
    known = {k: row.tolist() for k, row in enumerate(REFERENCE) if k != 1}
    references = References({"natural": known})
    scores = [row.tolist() for row in REFERENCE]
    scores[1] = [0.0, 0.0]  # not sampled
    assert references.judge("natural", scores, "float32").n_compared == 3
    assert references.judge("natural", scores[:3], "float32").n_compared == 2
    assert references.judge("natural", scores[:1], "float32").correct
    scores[3] = [-1.0, -1.0]
    assert not references.judge("natural", scores, "bfloat16").correct


@pytest.mark.parametrize(
    ("n", "order", "expected"),
    [
        (64, "ours", [0, 21, 42, 63]),
        (64, "natural", [0, 1, 2, 3, 32, 63]),
        (3, "natural", [0, 1, 2]),
        (2, "ours", [0, 1]),
    ],
)
def test_sampled_positions(n, order, expected):
    assert sampled_positions(n, order) == expected


def test_a_slow_peers_first_prompts_have_references():
    assert FIRST_PROMPTS == PROBED_PROMPTS

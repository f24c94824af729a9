"""Philox and the draws made from it."""

import numpy as np
import pytest
from engine_cases import Case, no_graph, noise_scorer, run_steps

from icm_fast import _core
from icm_fast.config import SearchConfig
from reference import ReferenceRng
from reference import philox4x32 as reference_philox

# The known answers that Random123 ships for philox4x32-10.
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("philox", [_core.philox4x32, reference_philox])
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(philox, counter, key, words):
    assert tuple(philox(counter, key)) == words


def test_uniform_lies_in_the_unit_interval_and_fills_it():
    rng = ReferenceRng(seed=2**40 + 1)
    draws = np.array([rng.uniform(3, t, 0) for t in range(2000)])
    assert 0.0 <= draws.min() < 0.01
    assert 0.99 < draws.max() < 1.0
    assert abs(draws.mean() - 0.5) < 0.03


def test_every_word_of_the_counter_matters():
    rng = ReferenceRng(seed=1)
    base = rng.uniform(2, 5, 0)
    assert base == rng.uniform(2, 5, 0)
    others = [rng.uniform(3, 5, 0), rng.uniform(2, 6, 0), rng.uniform(2, 5, 1)]
    others += [rng.uniform(2, 5 + 2**32, 0), ReferenceRng(1 + 2**32).uniform(2, 5, 0)]
    assert len({base, *others}) == 6


def _first_drawn(seed: int, group_weight: int) -> tuple[int, int]:
    """Return the example labelled at the start and the one of the first move."""
    n = 6
    pairs = np.array([(0, 1), (2, 3), (4, 5)], dtype=np.int32)
    tables = np.ones((3, 2, 2), dtype=np.uint8)
    config = SearchConfig(
        preset="paper", n_initial=1, group_weight=group_weight, max_iterations=1, seed=seed
    )

    def score(labels):
        # Every label disagrees, so that a labelled example is no null draw.
        labels = np.asarray(labels)
        return np.stack([-1.0 * (labels == 0), -1.0 * (labels != 0)], axis=1).astype(np.float32)

    case = Case(n, 2, pairs, tables, score, config)
    init, move, *_ = run_steps(case, case.start())
    return init["changes"][0][0], move["changes"][0][0]


def test_weighted_draw_prefers_group_partners():
    draws = [_first_drawn(seed, group_weight=5) for seed in range(1500)]
    partner = np.mean([b == (a ^ 1) for a, b in draws])
    itself = np.mean([b == a for a, b in draws])
    # Weights: 5 for the partner, 1 for each of the 5 others; 4 standard errors.
    assert abs(partner - 0.5) < 4 * np.sqrt(0.25 / 1500)
    assert abs(itself - 0.1) < 4 * np.sqrt(0.09 / 1500)
    starts = np.bincount([a for a, _ in draws], minlength=6) / 1500
    assert np.abs(starts - 1 / 6).max() < 4 * np.sqrt(5 / 36 / 1500)


@pytest.mark.parametrize(("n", "n_initial", "n_labels"), [(10, 8, 2), (10, 8, 3), (5, 8, 2)])
def test_initial_labels_are_balanced(n, n_initial, n_labels):
    scorer = noise_scorer(n, n_labels, 0)
    seen = set()
    for seed in range(20):
        config = SearchConfig(preset="paper", n_initial=n_initial, seed=seed)
        case = Case(n, n_labels, *no_graph(n_labels), scorer, config)
        labels = case.start().ask().labels
        counts = np.bincount(labels[labels >= 0], minlength=n_labels)
        assert counts.sum() == min(n, n_initial)
        assert counts.max() - counts.min() <= 1
        seen.add(labels.tobytes())
    assert len(seen) > 5

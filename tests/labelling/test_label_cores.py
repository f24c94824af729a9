"""Which rows are searched: spread, balanced, without equal texts, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from icm_fast.labelling.cores import candidates, kept_demonstrations, make_cores
from icm_fast.scoring.posterior import own_margins

N, SIZE = 200, 12


def unknown(n=N):
    return np.full(n, -1, np.int32)


def drawn(n_labels=3, known=None, seed=0, predicted=None):
    rng = np.random.default_rng(1)
    predicted = np.arange(N) % n_labels if predicted is None else predicted
    known = unknown() if known is None else known
    return candidates(
        predicted, rng.normal(size=N), known, n_labels, share=0.5, needed=12, seed=seed
    )


def cores(lists=None, texts=None, known=None, n_cores=3, size=SIZE, seed=0):
    texts = texts or {row: f"text {row}" for row in range(N)}
    known = unknown() if known is None else known
    return make_cores(lists or drawn(), texts, known, n_cores=n_cores, size=size, seed=seed)


def test_margins_are_over_the_best_other_label():
    odds = np.array([[2.0, 0.5, 1.0], [0.0, 3.0, 1.0]])
    assert own_margins(odds, np.array([0, 2])).tolist() == [1.0, -2.0]


def test_candidates_are_the_surest_of_each_label():
    margins = np.arange(N, dtype=float)
    lists = candidates(np.arange(N) % 2, margins, unknown(), 2, share=0.1, needed=1, seed=0)
    assert [sorted(rows) for rows in lists] == [[*range(180, 200, 2)], [*range(181, 200, 2)]]
    assert lists[0] != sorted(lists[0])  # drawn by the seed, not in the order of the table


def test_there_are_enough_candidates_of_a_rare_label():
    predicted = np.zeros(N, int)
    predicted[:5] = 1
    assert sorted(drawn(2, predicted=predicted)[1]) == [0, 1, 2, 3, 4]


def test_cores_share_no_row_and_no_text():
    texts = {row: f"Text  {row // 2} " for row in range(N)}
    texts |= {row: texts[row].replace("  ", "\n") for row in range(0, N, 4)}
    found = cores(texts=texts)
    rows = [row for core in found for row in core.rows.tolist()]
    assert len(rows) == len(set(rows)) == 3 * SIZE
    assert len({" ".join(texts[row].split()) for row in rows}) == len(rows)


def test_cores_have_as_many_rows_of_each_label():
    for core in cores():
        assert np.bincount(core.rows % 3).tolist() == [SIZE // 3] * 3


def test_a_rare_label_gives_all_that_it_has():
    predicted = np.zeros(N, int)
    predicted[:5] = 1
    first, *_ = cores(drawn(2, predicted=predicted), size=20)
    assert set(range(5)) <= set(first.rows.tolist())
    assert len(first.rows) == 20


def test_known_rows_come_first_and_take_half_at_most():
    known = unknown()
    known[:30] = np.arange(30) % 3
    found = cores(drawn(known=known), known=known)
    for core in found:
        assert (core.known >= 0).sum() == SIZE // 2
        assert np.bincount(core.known[core.known >= 0]).tolist() == [2, 2, 2]
        assert core.known.tolist() == known[core.rows].tolist()


def test_few_known_rows_leave_later_cores_as_they_are():
    few, more = unknown(), unknown()
    few[[0, 1]] = 0
    more[[0, 1, 2]] = 0
    lists = drawn()
    lists = [[row for row in rows if row > 2] for rows in lists]
    one, two = (cores(lists, known=known, n_cores=2) for known in (few, more))
    assert one[0].rows.tolist() != two[0].rows.tolist()
    assert (one[1].known >= 0).sum() == (two[1].known >= 0).sum() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_cores_are_the_same_every_time(seed):
    one, two = (cores(drawn(seed=seed), seed=seed) for _ in range(2))
    assert [core.rows.tolist() for core in one] == [core.rows.tolist() for core in two]


def test_another_seed_makes_other_cores():
    one, two = (cores(drawn(seed=seed), seed=seed) for seed in (0, 1))
    assert [core.rows.tolist() for core in one] != [core.rows.tolist() for core in two]


def test_the_surest_rows_of_each_label_become_demonstrations():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, -1], np.int32)
    confidence = np.array([0.1, 0.9, 0.8, 0.2, 0.3, 0.1, 0.2, 9.0])
    kept = kept_demonstrations(labels, confidence, unknown(8), 2, 0.5)
    assert np.flatnonzero(kept).tolist() == [1, 2, 4, 6]
    known = unknown(8)
    known[0] = 0
    kept = kept_demonstrations(labels, confidence, known, 2, 0.5)
    assert np.flatnonzero(kept).tolist() == [0, 1, 4, 6]

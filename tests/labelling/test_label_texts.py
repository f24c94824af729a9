"""Rows that are asked the other way round: what they say about how much a row alone counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from label_fakes import rows

from icm_fast.engine.verdict import FEWEST_LABELS
from icm_fast.labelling import LabelConfig, LabelTask, label_rows
from icm_fast.labelling import texts as labelling_texts
from icm_fast.labelling.decide import row_scores
from icm_fast.labelling.evidence import CoreEvidence, decide
from icm_fast.labelling.plan import plan_labelling
from icm_fast.labelling.tables import ListTable
from icm_fast.labelling.texts import TextSample, sampled_rows
from icm_fast.model.lazy import LazyModel
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - a fixture

N = 600
TRUTH = np.arange(N, dtype=np.int32) % 2
TASK = LabelTask(text="review", labels=("negative", "positive"), template="{review}. It is")
CONFIG = LabelConfig(cores=2, core_size=6, chunk_rows=4)


def view(noise, seed):
    """Evidence that is right but for noise of its own, ``[N, 2]``."""
    margin = 2.0 * TRUTH - 1.0 + noise * np.random.default_rng(seed).normal(size=N)
    return np.stack([-margin, margin], axis=1) / 2


def sample(scores, n=N):
    drawn = np.sort(np.random.default_rng(7).permutation(N)[:n]).astype(np.int32)
    return TextSample(drawn, scores[drawn])


def test_the_better_view_counts_more():
    texts = sample(view(1.5, 3), 300)
    good, bad = view(0.5, 1), view(2.0, 2)
    assert texts.alone_weight(bad, good) < 0.3
    assert texts.alone_weight(good, bad) > 1.5
    alike = [texts.alone_weight(view(1.0, k), view(1.0, k + 50)) for k in range(10, 30)]
    assert np.median(alike) == pytest.approx(1.0, abs=0.3)


def test_a_view_that_only_repeats_the_other_one_counts_little():
    """What both have in common is told once, though each alone agrees with the texts."""
    cored = view(1.0, 1)
    alone = cored + 0.7 * view(2.0, 2)
    assert sample(view(1.0, 3)).alone_weight(alone, cored) < 0.5


def test_texts_that_tell_nothing_decide_nothing():
    noise = np.random.default_rng(0).normal(size=(N, 2))
    assert sample(noise).alone_weight(view(1.0, 1), view(1.0, 2)) is None
    assert sample(-view(0.5, 1)).alone_weight(view(1.0, 1), view(1.0, 2)) is None


def decided(texts, alone, cored):
    as_scores = [
        (v - np.logaddexp.reduce(v, axis=1, keepdims=True)).astype(np.float32)
        for v in (alone, cored)
    ]
    few = np.arange(12, dtype=np.int32)
    core = CoreEvidence(few, TRUTH[few], row_scores(as_scores[1][few], 1), np.ones(12, np.bool_))
    return decide(
        lambda: iter([as_scores[0]]),
        [lambda: iter([as_scores[1]])],
        [core],
        known=np.full(N, -1, np.int32),
        per_row=1,
        config=LabelConfig(),
        texts=texts,
    )


def test_labels_are_better_where_the_rows_alone_are_worse():
    alone, cored, texts = view(3.0, 1), view(0.8, 2), sample(view(1.0, 3), 300)
    with_texts, without = decided(texts, alone, cored), decided(None, alone, cored)
    right = [(found.labels == TRUTH).mean() for found in (with_texts, without)]
    assert right[0] > right[1] + 0.01
    assert with_texts.signs.texts > 0.4
    assert without.signs.texts is None
    few = TextSample(texts.rows[: FEWEST_LABELS - 1], texts.scores[: FEWEST_LABELS - 1])
    assert decided(few, alone, cored).signs.texts is None


def test_rows_are_drawn_by_the_seed():
    assert sampled_rows(5, 0) == [0, 1, 2, 3, 4]
    drawn = sampled_rows(5000, 0)
    assert len(set(drawn)) == labelling_texts.SAMPLE_ROWS
    assert drawn == sorted(drawn) != sampled_rows(5000, 1)


@pytest.fixture(scope="module")
def tiny():
    return tiny_loaded("llama")


def labelled(model, folder=None, n=40, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    return label_rows(
        ListTable(rows(n)), TASK, model=LazyModel(model), config=config, folder=folder
    )


def test_they_are_asked_once_and_kept(tiny, tmp_path, monkeypatch):
    found = labelled(tiny, tmp_path / "run")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run/views").iterdir()}
    assert len(kept) == 4  # alone, after two cores, texts
    monkeypatch.setattr(labelling_texts, "texts_after", None)
    again = labelled(tiny, tmp_path / "run")
    assert again.n_tokens == found.n_tokens
    assert (again.decision.probabilities == found.decision.probabilities).all()
    assert again.decision.signs == found.decision.signs
    assert found.decision.signs.texts is not None


def test_what_a_kill_loses_is_asked_again(tiny, tmp_path):
    labelled(tiny, tmp_path / "run")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "run/views").iterdir()}
    texts = next(
        path
        for path in (tmp_path / "run/views").iterdir()
        if len(whole[path.name]) == min(map(len, whole.values()))
    )
    texts.write_bytes(whole[texts.name][:-7])
    labelled(tiny, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run/views").iterdir()} == whole


def test_other_presets_do_not_ask(tiny, tmp_path):
    found = labelled(tiny, tmp_path / "run", preset="annealing")
    assert len(list((tmp_path / "run/views").iterdir())) == 3
    assert found.decision.signs.texts is None
    silent = labelled(tiny, tmp_path / "silent", channel=False)
    assert len(list((tmp_path / "silent/views").iterdir())) == 3
    assert silent.decision.signs.texts is None


def test_texts_without_room_after_a_demonstration_are_not_asked_for(tiny, tmp_path):
    long = {"n": 99, "review": "a good film, " + 20 * "very long, "}
    config = dataclasses.replace(CONFIG, context_limit=100)
    table = ListTable([*rows(40), long])
    found = label_rows(table, TASK, model=LazyModel(tiny), config=config, folder=tmp_path / "run")
    assert len(found.decision.labels) == 41
    assert len(list((tmp_path / "run/views").iterdir())) == 4


def test_many_labels_would_be_many_passes():
    assert CONFIG.for_labels(20) is CONFIG
    assert CONFIG.for_labels(21).channel is False


def test_the_plan_counts_them(tiny, tmp_path):
    for part in (tiny.model, tiny.tokenizer):
        part.save_pretrained(tmp_path / "tiny")
    plan = plan_labelling(ListTable(rows(40)), TASK, str(tmp_path / "tiny"), CONFIG)
    assert plan.texts_tokens > 0
    assert any(line.startswith("texts ") for line in plan.lines())
    annealing = dataclasses.replace(CONFIG, preset="annealing")
    other = plan_labelling(ListTable(rows(40)), TASK, str(tmp_path / "tiny"), annealing)
    assert other.texts_tokens == 0
    assert other.search_tokens > plan.search_tokens


def test_a_table_of_equal_texts_has_as_many_cores_as_it_has_texts_for(tiny):
    table = ListTable([{"n": k, "review": "a good film"} for k in range(20)])
    found = label_rows(table, TASK, model=LazyModel(tiny), config=CONFIG)
    assert len(set(found.decision.labels.tolist())) == 1

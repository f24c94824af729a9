"""Whole labellings with a real (random) model: bits do not depend on chunks, plans on no run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from label_fakes import rows

from icm_fast.config import SearchConfig
from icm_fast.evaluation.many_shot import FixedContext
from icm_fast.labelling import LabelConfig, LabelTask, label_rows
from icm_fast.labelling.plan import plan_labelling
from icm_fast.labelling.tables import ListTable
from icm_fast.model.lazy import LazyModel
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - a fixture

N = 14
TASK = LabelTask(text="review", labels=("negative", "positive"), template="{review}. It is")
CONFIG = LabelConfig(cores=2, core_size=6, chunk_rows=4)
TABLE = ListTable(rows(N))


@pytest.fixture(scope="module")
def tiny():
    return tiny_loaded("llama")


def labelled(model, folder=None, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    return label_rows(TABLE, TASK, model=LazyModel(model), config=config, folder=folder)


@pytest.fixture(scope="module")
def whole(tiny):
    return labelled(tiny, chunk_rows=1000)


@pytest.mark.parametrize("changed", [{"chunk_rows": 1}, {"chunk_rows": 5}, {"batch_tokens": 16}])
def test_no_bit_depends_on_chunks_or_batches(tiny, whole, changed):
    found = labelled(tiny, **changed).decision
    for name in ("labels", "confidence", "probabilities", "decided_by", "votes"):
        assert getattr(found, name).tobytes() == getattr(whole.decision, name).tobytes(), name


@pytest.mark.parametrize("shots", [0, 5])
def test_the_scores_of_an_example_do_not_depend_on_those_beside_it(tiny, shots):
    demonstrations = reviews() if shots else None
    labels = np.array([0, 1, 0, 1, 0, -1, -1, -1], np.int32) if shots else None
    context = FixedContext(demonstrations, labels, model=tiny, config=SearchConfig(seed=3))
    space = LabelSpace((" positive", " negative"))
    examples = [
        Example(f"e{i}", f"Review: {row['review']}\nIt is") for i, row in enumerate(rows(9))
    ]

    def scores(some):
        return context.score(Dataset(tuple(some), space)).scores

    together = scores(examples)
    for size in (1, 2, 4):
        parts = [scores(examples[i : i + size]) for i in range(0, 9, size)]
        assert np.concatenate(parts).tobytes() == together.tobytes()
    assert scores(examples[::-1])[::-1].tobytes() == together.tobytes()


def test_the_plan_counts_what_a_run_forwards(tiny, tmp_path, monkeypatch):
    path = str(tmp_path / "model")
    tiny.model.save_pretrained(path)
    tiny.tokenizer.save_pretrained(path)
    forwarded: dict[bool, int] = {False: 0, True: 0}
    score = FixedContext.score

    def counted(context, test):
        scored = score(context, test)
        forwarded[context.n_shots > 0] += scored.n_tokens
        return scored

    monkeypatch.setattr(FixedContext, "score", counted)
    labelled(tiny)
    monkeypatch.setattr("icm_fast.model.load_model", lambda *a, **k: pytest.fail("loads weights"))
    plan = plan_labelling(TABLE, TASK, path, CONFIG)
    assert (plan.n_rows, plan.n_cores, plan.core_rows, plan.n_duplicates) == (N, 2, 6, 0)
    assert plan.template_tokens == 0
    assert plan.plain_tokens == forwarded[False]
    # How many demonstrations there are, and how long ones, is known only when they are found.
    assert forwarded[True] <= plan.core_tokens <= 1.3 * forwarded[True]
    assert plan.n_tokens >= plan.plain_tokens + plan.search_tokens + plan.core_tokens
    assert "14, longest 21 tokens" in next(plan.lines())

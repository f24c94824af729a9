"""A table that fits in one core goes by the search of all its rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from label_fakes import rows

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.labelling import LabelConfig, LabelTask, label_rows
from icm_fast.labelling.tables import ListTable
from icm_fast.model.lazy import LazyModel
from icm_fast.tasks.constraints import Exclusive
from icm_fast.types import Dataset, Example, LabelSpace
from tiny_models import one_thread, tiny_loaded  # noqa: F401 - a fixture

N = 24
LABELS = ("negative", "positive")
TASK = LabelTask(text="review", labels=LABELS, template="{review}. It is")


@pytest.fixture(scope="module")
def tiny():
    return tiny_loaded("llama", max_position_embeddings=4096)


def labelled(tiny, table=None, task=TASK, **settings):
    table = rows(N) if table is None else table
    config = LabelConfig(chunk_rows=5, **settings)
    return label_rows(ListTable(table), task, model=LazyModel(tiny), config=config).decision


def searched(tiny, **settings):
    """The same rows, as the labelling reads them."""
    examples = tuple(
        Example(f"row-{k}", f"{row['review']}. It is") for k, row in enumerate(rows(N), start=1)
    )
    dataset = Dataset(examples, LabelSpace(tuple(f" {label}" for label in LABELS)))
    return icm_fast.search(dataset, model=tiny, config=SearchConfig(**settings))


def test_labels_are_the_most_probable_ones_of_a_search(tiny):
    found, expected = labelled(tiny), searched(tiny)
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert found.labels.tolist() == expected.probabilities.argmax(axis=1).tolist()
    assert found.confidence == pytest.approx(found.probabilities.max(axis=1))
    own = expected.probabilities[np.arange(N), expected.labels]
    assert expected.confidence == pytest.approx(own, abs=1e-6)
    assert found.signs == expected.signs
    assert found.signs.texts is not None
    assert found.concerns == tuple(concern.kind for concern in expected.concerns)
    assert found.counts() == {"known": 0, "search": N, "prediction": 0, "abstained": 0}
    assert found.shares_from == "assumed"
    assert 0 < found.votes.max() <= found.n_views == 2


def test_a_concern_of_the_search_makes_the_verdict_worse(tiny):
    found = label_rows(ListTable(rows(N)), TASK, model=LazyModel(tiny), config=LabelConfig())
    levels = ("trust", "doubt", "reject")
    worse = dataclasses.replace(found.decision, concerns=("no-signal",))
    plain = dataclasses.replace(found.decision, concerns=())
    one, other = (dataclasses.replace(found, decision=d).verdict.level for d in (worse, plain))
    assert levels.index(one) == min(levels.index(other) + 1, 2)


def test_known_labels_stay(tiny):
    table = rows(N)
    for k in (2, 5):
        table[k]["sure"] = "positive"
    for k in (0, 7):
        table[k]["sure"] = "negative"
    for row in table:
        row.setdefault("sure", "")
    found = labelled(tiny, table, TASK.with_known("sure"))
    assert found.labels[[0, 2, 5, 7]].tolist() == [0, 1, 1, 0]
    assert found.confidence[[0, 2, 5, 7]].tolist() == [1.0] * 4
    assert found.counts()["known"] == 4


def test_given_shares_are_met(tiny):
    found = labelled(tiny, shares=(0.25, 0.75))
    assert found.shares == pytest.approx([0.25, 0.75], abs=0.02)
    assert found.label_counts()[1] > 12
    assert found.shares_from == "given"
    assert (found.votes == found.n_views).sum() >= 12, "views are read with the shares in mind"


def test_the_least_certain_abstain(tiny):
    whole, some = labelled(tiny), labelled(tiny, abstain=0.25)
    without = some.labels < 0
    assert without.sum() == 6
    assert whole.confidence[without].max() <= whole.confidence[~without].min()
    assert (some.labels[~without] == whole.labels[~without]).all()
    assert some.confidence == pytest.approx(some.probabilities.max(axis=1))


def test_rules_are_kept(tiny):
    table = [{**row, "of": f"g{k // 2}", "says": f"a{k % 2}"} for k, row in enumerate(rows(N))]
    task = LabelTask(
        text="review",
        labels=("false", "true"),
        template="{review}. This is",
        group="of",
        answer="says",
        rules=(Exclusive(),),
    )
    found = labelled(tiny, table, task).labels.reshape(-1, 2)
    assert (found.sum(axis=1) <= 1).all()


def test_other_presets_go_by_their_scores(tiny):
    found = labelled(tiny, preset="annealing")
    assert found.signs.texts is None
    assert found.counts()["search"] == N


def test_comparisons_go_by_their_scores(tiny):
    """Both orders of a pair hardly err apart, so their probabilities are no two opinions."""
    pairs = [{"one": row["review"], "two": f"a film, {k}"} for k, row in enumerate(rows(8))]
    task = LabelTask(
        compare=("one", "two"), template="A: {one}\nB: {two}\nClaim: A is better. It is"
    )
    found = labelled(tiny, pairs, task)
    assert found.labels.tolist() == found.probabilities.argmax(axis=1).tolist()
    assert found.signs is None, "eight pairs are too few for a verdict"

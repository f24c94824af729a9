"""A table that fits in one core: its labels are those of a search of all rows."""

from __future__ import annotations

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


def test_labels_confidence_and_signs_are_those_of_a_search(tiny):
    found, expected = labelled(tiny), searched(tiny)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
    assert found.signs == expected.signs
    assert found.signs.texts is not None
    assert found.counts() == {"known": 0, "search": N, "prediction": 0, "abstained": 0}
    assert found.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert found.shares_from == "assumed"
    own = found.probabilities[np.arange(N), found.labels]
    assert own == pytest.approx(found.confidence)
    assert 0 < found.votes.max() <= found.n_views == 2


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


def test_the_least_certain_abstain(tiny):
    whole, some = labelled(tiny), labelled(tiny, abstain=0.25)
    without = some.labels < 0
    assert without.sum() == 6
    assert whole.confidence[without].max() <= whole.confidence[~without].min()
    assert (some.labels[~without] == whole.labels[~without]).all()


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

"""Whole labellings with a real (random) model: bits do not depend on chunks, plans on no run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from label_fakes import rows

from icm_fast import InputError, plan_leave_one_out
from icm_fast.config import SearchConfig
from icm_fast.evaluation.many_shot import FixedContext, shown_demonstrations
from icm_fast.labelling import LabelConfig, LabelTask, label_rows
from icm_fast.labelling.plan import plan_labelling
from icm_fast.labelling.tables import ListTable
from icm_fast.model.lazy import LazyModel
from icm_fast.plan.pieces import tokenize_dataset
from icm_fast.runs.finished import read_run
from icm_fast.scoring.local import NaiveScorer
from icm_fast.types import Dataset, Example, LabelSpace
from reference import reference_leave_one_out
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - a fixture

N = 14
TASK = LabelTask(text="review", labels=("negative", "positive"), template="{review}. It is")
CONFIG = LabelConfig(cores=2, core_size=6, chunk_rows=4)
TABLE = ListTable(rows(N))
FILES = ("labelling.json", "settings.json")


@pytest.fixture(scope="module")
def tiny():
    return tiny_loaded("llama")


TOLD = dataclasses.replace(
    TASK, labels={"negative": "not worth it", "positive": ""}, instruction="Judge the films."
)


def labelled(model, folder=None, task=TASK, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    return label_rows(TABLE, task, model=LazyModel(model), config=config, folder=folder)


def test_every_score_is_that_of_the_whole_text_with_the_preamble_before_it(tiny, monkeypatch):
    """Rows alone and rows after a core, against one plain forward pass for each."""
    text = "Judge the films.\n\nLabels:\n- negative: not worth it\n- positive"
    assert TOLD.preamble == text
    checked = []
    score = FixedContext.score

    def compared(context, test):
        found = score(context, test)
        shots = context._demonstrations
        labels = [] if shots is None else context._labels
        order = shown_demonstrations(np.array(labels, np.int32), seed=0) if len(labels) else []
        before = [shots.examples[i].prompt + shots.label_space[labels[i]] for i in order]
        plain = dataclasses.replace(
            test,
            preamble="",
            examples=tuple(
                Example(e.id, "\n\n".join((text, *before, e.prompt))) for e in test.examples
            ),
        )
        naive = NaiveScorer(tiny, tokenize_dataset(plain, tiny.tokenizer), SearchConfig())
        whole = naive.score(np.full(len(test), -1, np.int32)).scores
        np.testing.assert_allclose(found.scores, whole, atol=1e-5)
        checked.append(len(order))
        return found

    monkeypatch.setattr(FixedContext, "score", compared)
    labelled(tiny, task=TOLD)
    assert checked.count(0) == 4
    assert sum(n > 0 for n in checked) == 8


def test_a_search_of_a_core_begins_with_the_preamble(tiny, tmp_path):
    labelled(tiny, tmp_path / "told", task=TOLD)
    for folder in (tmp_path / "told" / "cores").iterdir():
        run = read_run(folder)
        assert run.dataset.preamble == TOLD.preamble
        scores = reference_leave_one_out(
            run.dataset,
            run.labels,
            model=tiny.model,
            tokenizer=tiny.tokenizer,
            orders=plan_leave_one_out(
                run.dataset, run.labels, model=(tiny.model, tiny.tokenizer)
            ).contexts,
        )
        np.testing.assert_allclose(run.scores, scores, atol=1e-4)


def test_a_labelling_without_a_preamble_is_recorded_as_before(tiny, tmp_path):
    """Folders of earlier versions resume; an instruction makes another labelling."""
    labelled(tiny, tmp_path / "plain")
    labelled(tiny, tmp_path / "told", task=TOLD)
    plain, told = (
        [json.loads((tmp_path / name / file).read_text()) for file in FILES]
        for name in ("plain", "told")
    )
    assert set(told[0]) - set(plain[0]) == {"preamble"}
    assert set(told[1]["task"]) - set(plain[1]["task"]) == {"instruction", "descriptions"}
    for name, task in (("plain", TOLD), ("told", TASK)):
        with pytest.raises(InputError, match="different labelling: preamble is"):
            labelled(tiny, tmp_path / name, task=task)


def test_the_context_limit_counts_the_preamble(tiny):
    long = dataclasses.replace(TASK, instruction="word " * 30)
    before = len(tiny.tokenizer(long.preamble)["input_ids"])
    with pytest.raises(InputError, match=f"row 0: .* tokens after {before} of the instruction"):
        labelled(tiny, task=long, context_limit=before)


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


@pytest.mark.parametrize("task", [TASK, TOLD], ids=["plain", "instruction"])
def test_the_plan_counts_what_a_run_forwards(tiny, tmp_path, monkeypatch, task):
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
    labelled(tiny, task=task)
    monkeypatch.setattr("icm_fast.model.load_model", lambda *a, **k: pytest.fail("loads weights"))
    plan = plan_labelling(TABLE, task, path, CONFIG)
    assert (plan.n_rows, plan.n_cores, plan.core_rows, plan.n_duplicates) == (N, 2, 6, 0)
    assert plan.template_tokens == 0
    assert plan.plain_tokens == forwarded[False]
    # How many demonstrations there are, and how long ones, is known only when they are found.
    assert forwarded[True] <= plan.core_tokens <= 1.3 * forwarded[True]
    assert plan.n_tokens >= plan.plain_tokens + plan.search_tokens + plan.core_tokens
    lines = list(plan.lines())
    assert "14, longest 21 tokens" in lines[0]
    assert plan.preamble_tokens == len(tiny.tokenizer(task.preamble)["input_ids"])
    assert any(line.startswith("instruct ") for line in lines) == (task is TOLD)


def test_more_cores_read_the_table_once_more_each(tiny):
    """For their view; not to look for the rows of the core."""
    read = []

    class Counting(ListTable):
        def rows(self):
            read.append(1)
            return super().rows()

    counts = []
    for cores in (1, 2):
        read.clear()
        config = dataclasses.replace(CONFIG, cores=cores)
        label_rows(Counting(rows(N)), TASK, model=LazyModel(tiny), config=config)
        counts.append(len(read))
    assert counts[1] == counts[0] + 1

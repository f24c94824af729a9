"""Batches of whole groups; labelling them one after the other with a model that is tuned on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_fast import Constraint, Dataset, Example, InputError, LabelSpace, SearchConfig
from icm_fast.training.sft import TuningConfig, fine_tune, iterate, split_batches
from listeners import Listener
from tiny_models import one_thread, reviews, tiny_loaded  # noqa: F401 - in force by its import

SEARCH = SearchConfig(seed=1, max_evaluations=4)
TUNING = TuningConfig(epochs=2, batch_size=2, learning_rate=0.01, dtype="float32")


def grouped(sizes):
    examples = [
        Example(f"{g}-{k}", f"Text {g} {k}:", group=f"g{g}")
        for k in range(max(sizes))
        for g, size in enumerate(sizes)
        if k < size
    ]
    return Dataset(tuple(examples), LabelSpace((" no", " yes")))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(5, 9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_example_once_and_whole_groups(sizes, size, seed):
    dataset = grouped(sizes)
    batches = split_batches(dataset, size, seed)
    assert sorted(int(i) for rows in batches for i in rows) == list(range(len(dataset)))
    assert all(1 <= len(rows) <= size for rows in batches)
    assert all((np.diff(rows) > 0).all() for rows in batches)
    homes = [{dataset.examples[i].group for i in rows} for rows in batches]
    assert sum(map(len, homes)) == len(set().union(*homes))


def test_batches_depend_on_the_seed_and_keep_constraints():
    yes_or_no = ((False, True), (True, False))
    pairs = tuple(Constraint(k, k + 20, yes_or_no) for k in range(20))
    plain = grouped([1] * 40)
    dataset = Dataset(plain.examples, plain.label_space, pairs)
    one, again, other = (split_batches(dataset, 10, seed) for seed in (0, 0, 1))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in again]
    assert [rows.tolist() for rows in one] != [rows.tolist() for rows in other]
    assert len(one) == 4
    assert sum(len(dataset.subset(rows.tolist()).constraints) for rows in one) == 20


def test_batches_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="has 5 examples, but the batch size is 4; raise it"):
        split_batches(grouped([1, 5]), 4, 0)
    with pytest.raises(InputError, match="must be an integer of 1 or more, got 0"):
        split_batches(grouped([1]), 0, 0)


def run(folder, progress=None, model=None):
    return iterate(
        reviews(),
        model=model or tiny_loaded("llama"),
        batch_size=3,
        search_config=SEARCH,
        tuning_config=TUNING,
        output_dir=folder,
        progress=progress,
    )


def test_each_batch_is_labelled_by_the_model_tuned_on_those_before_it(tmp_path):
    base = tiny_loaded("llama")
    result = run(tmp_path, model=base)
    assert [len(rows) for rows in result.batches] == [3, 3, 2]
    for rows, found in zip(result.batches, result.searches, strict=True):
        assert result.labels[rows].tolist() == found.labels.tolist()
    first, second, _ = result.batches
    from icm_fast import search

    tuned = fine_tune(
        reviews().subset(first.tolist()), result.labels[first], model=base, config=TUNING
    )
    expected = search(reviews().subset(second.tolist()), model=tuned.model, config=SEARCH)
    with_base = search(reviews().subset(second.tolist()), model=base, config=SEARCH)
    assert np.array_equal(result.searches[1].scores, expected.scores)
    assert not np.array_equal(result.searches[1].scores, with_base.scores)
    whole = fine_tune(reviews(), result.labels, model=base, config=TUNING)
    assert result.model.fingerprint == whole.model.fingerprint
    for number in range(3):
        assert (tmp_path / f"batch-{number:03d}" / "search" / "summary.json").is_file()
        assert (tmp_path / f"batch-{number:03d}" / "tuning" / "adapter").is_dir()


@pytest.mark.parametrize("interrupted_at", [2, 3])
def test_an_interrupted_one_goes_on(interrupted_at, tmp_path):
    whole = run(None)

    def stop(text):
        if len(shown.lines) == interrupted_at:
            raise KeyboardInterrupt

    shown = Listener(on_say=stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, shown)
    said = shown.lines
    again = run(tmp_path)
    assert again.labels.tolist() == whole.labels.tolist()
    assert again.model.fingerprint == whole.model.fingerprint
    assert said[0] == "batch 1 of 3: labelling 3 examples"
    assert said[1] == "batch 1 of 3: tuning on 3 labels"

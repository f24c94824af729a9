"""Arguments of another kind than the public functions take end in one InputError."""

import numpy as np
import pytest

import icm_fast
from icm_fast import InputError, LabelSpace, SearchConfig, evaluate
from icm_fast.evaluation.many_shot import many_shot
from run_fakes import FakeLoaded, FakeScorer, toy_dataset

DATA = toy_dataset(6)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (None, "dataset must be an icm_fast.Dataset, got NoneType"),
        ([1, 2], "got list"),
        ((DATA, np.zeros(6, np.int32)), "load_task returns the data set and gold"),
    ],
)
def test_a_dataset_is_one(dataset, words):
    with pytest.raises(InputError, match=words):
        icm_fast.search(dataset, model="x", scorer=FakeScorer(6))
    with pytest.raises(InputError, match=words):
        icm_fast.leave_one_out(dataset, [0] * 6, model="x")


@pytest.mark.parametrize("config", [{"seed": 1}, "paper", 3])
def test_a_config_is_one(config):
    with pytest.raises(InputError, match=r"config must be an icm_fast.SearchConfig, got"):
        icm_fast.search(DATA, model="x", config=config, scorer=FakeScorer(6))
    for function in (icm_fast.leave_one_out, icm_fast.plan_leave_one_out):
        with pytest.raises(InputError, match=r"config must be an icm_fast.SearchConfig, got"):
            function(DATA, [0] * 6, model="x", config=config)
    with pytest.raises(InputError, match=r"config must be an icm_fast.SearchConfig, got"):
        many_shot(None, None, DATA, model=FakeLoaded(), config=config)


@pytest.mark.parametrize("model", [None, 3, b"x", ["smollm2"]])
def test_a_model_is_one(model):
    with pytest.raises(InputError, match="a model must be"):
        icm_fast.search(DATA, model=model)
    with pytest.raises(InputError, match="a model must be"):
        icm_fast.leave_one_out(DATA, [0] * 6, model=model)


@pytest.mark.parametrize("folder", ["", 3, b"runs"])
def test_an_output_folder_is_one(folder):
    with pytest.raises(InputError, match="output_dir"):
        icm_fast.search(DATA, model="x", scorer=FakeScorer(6), output_dir=folder)


@pytest.mark.parametrize("labels", ["ab", [1, 2], ("a", None)])
def test_labels_are_texts(labels):
    with pytest.raises(ValueError, match="label"):
        LabelSpace(labels)


def test_agreement_takes_what_looks_like_labels():
    assert evaluate.agreement([0, 1, -1], [0, 0, 1]) == 0.5
    assert evaluate.accuracy([0, 1], [0, 1]) == 1.0
    for other in ([0], [[0], [1]], [0.5, 1.0], [float("nan"), 1.0]):
        with pytest.raises(InputError, match="labels and gold"):
            evaluate.agreement([0, 1], other)


class Refusing(FakeScorer):
    def score(self, labels, queries=None):
        raise InputError("the data do not fit")


def test_refused_settings_do_not_take_the_folder(tmp_path):
    with pytest.raises(InputError, match="do not fit"):
        icm_fast.search(DATA, model="x", scorer=Refusing(6), output_dir=tmp_path)
    config = SearchConfig(seed=1, max_evaluations=3)
    icm_fast.search(DATA, model="x", config=config, scorer=FakeScorer(6), output_dir=tmp_path)
    with pytest.raises(InputError, match="holds a different run"):
        icm_fast.search(DATA, model="x", scorer=Refusing(6), output_dir=tmp_path)
    assert (tmp_path / "summary.json").is_file()


def test_a_refused_search_leaves_no_folder(tmp_path):
    config = SearchConfig(start="given", initial_labels=(0, 1))
    with pytest.raises(InputError, match="initial_labels has 2 entries"):
        icm_fast.search(
            DATA, model="x", config=config, scorer=FakeScorer(6), output_dir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()

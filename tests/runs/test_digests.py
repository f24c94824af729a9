"""Damage of a finished run is noticed before anything of it is believed."""

import json

import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.runs.finished import read_run
from run_fakes import FakeScorer, toy_dataset

CONFIG = SearchConfig(preset="paper", max_evaluations=8, n_initial=2)


def search(folder):
    return icm_fast.search(
        toy_dataset(6), model="fake", config=CONFIG, output_dir=folder, scorer=FakeScorer(6)
    )


@pytest.fixture
def folder(tmp_path):
    search(tmp_path / "run")
    return tmp_path / "run"


def replace(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("examples.jsonl", "Question 0?", "Question 8?"),
        ("labels.jsonl", '"margin": 1', '"margin": 2'),
        ("events.jsonl", '"n_asks": 1', '"n_asks": 7'),
        ("config.yaml", "seed: 0", "seed: 8"),
    ],
)
def test_a_plausible_edit_of_a_file_is_refused(folder, name, before, after):
    # Found by fuzzing: other texts, labels and settings were reported and exported in silence.
    replace(folder / name, before, after)
    with pytest.raises(InputError, match=rf"{name} is not as the search wrote it") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)
    replace(folder / "summary.json", '"digests"', '"former"')
    read_run(folder)  # as the message says


def test_a_plausible_edit_of_the_summary_is_refused_by_every_reader(folder):
    replace(folder / "summary.json", '"n_accepted": ', '"n_accepted": 1')
    for read in (read_run, search):
        with pytest.raises(InputError, match=r"summary\.json: it is not as the search wrote it"):
            read(folder)


@pytest.mark.parametrize("digests", [None, [], {}, {"summary.json": 1}, {"../x": "0" * 64}])
def test_a_made_up_list_of_digests_is_one_line(folder, digests):
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digests": digests}))
    with pytest.raises(InputError, match=r"summary\.json"):
        read_run(folder)


def test_a_finished_run_stays_as_it_is_when_the_search_is_repeated(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    search(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

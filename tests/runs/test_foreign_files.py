"""A folder that holds something else does not become a run, and huge files are not read."""

import os

import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.files import MAX_BYTES, read_file
from run_fakes import FakeScorer, run_bytes, toy_dataset

CONFIG = SearchConfig(preset="paper", max_evaluations=4, n_initial=2)


def run(folder):
    return icm_fast.search(
        toy_dataset(6), model="fake", config=CONFIG, output_dir=folder, scorer=FakeScorer(6)
    )


@pytest.mark.parametrize("name", ["thesis.tex", ".git", "\x1b[31m"])
def test_a_folder_with_other_files_is_refused(tmp_path, name):
    folder = tmp_path / "mine"
    (folder / name).mkdir(parents=True)
    with pytest.raises(InputError, match="which no run wrote; choose a new or an empty folder"):
        run(folder)
    assert {path.name for path in folder.iterdir()} == {name, ".lock"}


def test_several_files_are_counted(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"holds 'a' and 2 more") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_an_interrupted_run_left_is_ours(tmp_path):
    (tmp_path / ".config.yaml.tmp").write_text("torn")
    (tmp_path / ".lock").touch()
    run(tmp_path)
    assert (tmp_path / "summary.json").exists()


def test_files_added_to_a_run_do_not_matter(tmp_path):
    run(tmp_path)
    before = run_bytes(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "summary.json").unlink()
    run(tmp_path)
    after = run_bytes(tmp_path)
    assert after.pop("notes.txt") == b"mine"
    assert after == before


def test_a_huge_hole_after_the_records_is_refused_at_once(tmp_path):
    run(tmp_path)
    os.truncate(tmp_path / "evaluations.bin", 2**40)
    with pytest.raises(InputError, match=r"record \d+ of \d+ is corrupt"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "examples.jsonl", "summary.json", "labels.jsonl"])
def test_a_huge_file_is_refused_by_its_size(tmp_path, name):
    run(tmp_path)
    os.truncate(tmp_path / name, 2**40)
    with pytest.raises(InputError, match=r"has 1,099,511,627,776 bytes, but at most"):
        run(tmp_path)
    with pytest.raises(InputError, match="are read; fix"):
        read_file(tmp_path / name, "fix")


def test_the_limit_is_a_gibibyte():
    assert MAX_BYTES == 2**30

"""Chunks that come before their turn: durable at once, and the same file in the end."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from icm_fast.errors import InputError
from icm_fast.labelling.chunks_ahead import ChunksAhead
from icm_fast.labelling.view_file import ViewFile, ViewShape

SHAPE = ViewShape(n_items=50, n_labels=3, chunk=4)
DIGEST = "ab" * 32


def scores(chunk: int) -> np.ndarray:
    return np.random.default_rng(chunk).normal(size=(SHAPE.size(chunk), 3)).astype(np.float32)


def keep(folder: Path, chunks: list[int]) -> None:
    """Store chunks in this order, as one process does."""
    path = folder / "view.bin"
    with ViewFile(path, SHAPE, DIGEST) as file, ChunksAhead(file, DIGEST) as store:
        for chunk in chunks:
            assert chunk not in store
            store.keep(chunk, scores(chunk), 10 + chunk)
            assert chunk in store


def missing(folder: Path) -> list[int]:
    with (
        ViewFile(folder / "view.bin", SHAPE, DIGEST) as file,
        ChunksAhead(file, DIGEST) as store,
    ):
        return [chunk for chunk in range(SHAPE.n_chunks) if chunk not in store]


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "in order").mkdir()
    keep(tmp_path / "in order", list(range(SHAPE.n_chunks)))
    assert [path.name for path in (tmp_path / "in order").iterdir()] == ["view.bin"]
    return (tmp_path / "in order" / "view.bin").read_bytes()


@pytest.mark.parametrize("seed", range(8))
def test_any_order_in_any_number_of_processes_gives_the_same_file(whole, tmp_path, seed):
    rng = random.Random(seed)
    left = list(range(SHAPE.n_chunks))
    while left:
        rng.shuffle(left)
        now, left = left[: rng.randint(1, 5)], []
        keep(tmp_path, now)
        left = missing(tmp_path)
        assert not set(left) & set(now)
    assert (tmp_path / "view.bin").read_bytes() == whole
    assert not (tmp_path / "view.ahead").exists()


def test_a_torn_end_is_scored_again_and_no_more(whole, tmp_path):
    keep(tmp_path, [3, 5, 1])
    path = tmp_path / "view.ahead"
    path.write_bytes(path.read_bytes()[:-7])
    assert missing(tmp_path) == [0, 1, 2, 4, *range(6, SHAPE.n_chunks)]
    keep(tmp_path, missing(tmp_path))
    assert (tmp_path / "view.bin").read_bytes() == whole


def test_what_is_in_the_view_already_is_not_kept_twice(whole, tmp_path):
    keep(tmp_path, [2, 1])
    ahead = (tmp_path / "view.ahead").read_bytes()
    keep(tmp_path, [0])
    (tmp_path / "view.ahead").write_bytes(ahead)  # as if the process had died before removing it
    assert missing(tmp_path) == list(range(3, SHAPE.n_chunks))
    assert not (tmp_path / "view.ahead").exists()


def test_the_file_stays_small_where_one_chunk_is_always_late(tmp_path, monkeypatch):
    monkeypatch.setattr("icm_fast.labelling.chunks_ahead._SPARE", 2)
    sizes = []
    with ViewFile(tmp_path / "v.bin", SHAPE, DIGEST) as file, ChunksAhead(file, DIGEST) as store:
        for first in range(0, 12, 2):
            order = (first + 1, first + 3, first) if first < 10 else (first,)
            for chunk in order:
                if chunk not in store:
                    store.keep(chunk, scores(chunk), 1)
            sizes.append(store.path.stat().st_size if store.path.exists() else 0)
    record = 16 + 4 * 3 * 4 + 4
    assert max(sizes) <= 48 + 6 * record


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "belongs to another labelling"), (b"x" * 200, "belongs to another labelling")],
)
def test_other_files_are_refused(tmp_path, content, message):
    keep(tmp_path, [0])
    (tmp_path / "view.ahead").write_bytes(content)
    with pytest.raises(InputError, match=message):
        missing(tmp_path)


def test_scores_of_no_model_are_refused(tmp_path):
    path = tmp_path / "view.bin"
    with ViewFile(path, SHAPE, DIGEST) as file, ChunksAhead(file, DIGEST) as store:
        store.keep(4, np.full((4, 3), np.nan, np.float32), 1)
    with pytest.raises(InputError, match="that no model gives"):
        missing(tmp_path)


def test_a_link_in_its_place_is_refused(tmp_path):
    keep(tmp_path, [0])
    (tmp_path / "view.ahead").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="is a symbolic link"):
        missing(tmp_path)

"""The file of scores: a kill costs one chunk, and damage is found."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from icm_fast import InputError, files
from icm_fast.labelling.view_file import ViewFile, ViewShape

SHAPE = ViewShape(n_items=10, n_labels=3, chunk=4)
DIGEST, OTHER = "ab" * 32, "cd" * 32
TOKENS = (5, 7, 11)


def chunk(k):
    scores = np.random.default_rng(k).normal(size=(SHAPE.size(k), 3)).astype(np.float32)
    return scores


def fill(path, n=3):
    with ViewFile(path, SHAPE, DIGEST) as file:
        for k in range(file.n_done, n):
            file.append(chunk(k), TOKENS[k])


def read(path):
    with ViewFile(path, SHAPE, DIGEST) as file:
        return file.n_tokens, [scores.tobytes() for scores in file.chunks()]


WHOLE = (sum(TOKENS), [chunk(k).tobytes() for k in range(3)])


def test_what_was_written_is_read(tmp_path):
    fill(tmp_path / "a")
    assert read(tmp_path / "a") == WHOLE
    with ViewFile(tmp_path / "a", SHAPE, DIGEST) as file:
        assert file.is_whole
        assert file.n_done == SHAPE.n_chunks == 3


def test_a_torn_end_at_any_byte_is_scored_again(tmp_path):
    path = tmp_path / "a"
    fill(path, 0)
    header = path.stat().st_size
    fill(path)
    content = path.read_bytes()
    ends = [header]
    for k in range(3):
        ends.append(ends[-1] + SHAPE.record_bytes(k))
    assert ends[-1] == len(content)
    for size in range(header, len(content) + 1):
        path.write_bytes(content[:size])
        n_tokens, chunks = read(path)
        done = sum(end <= size for end in ends[1:])
        assert (n_tokens, chunks) == (sum(TOKENS[:done]), WHOLE[1][:done])
        assert path.stat().st_size == ends[done]
    path.write_bytes(content[: ends[1] + 3])
    fill(path)
    assert path.read_bytes() == content


def test_a_flipped_byte_anywhere_is_refused_or_scored_again(tmp_path):
    path = tmp_path / "a"
    fill(path)
    content = path.read_bytes()
    last = len(content) - SHAPE.record_bytes(2)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        if at < last:
            with pytest.raises(InputError, match=r"^[^\n]*delete"):
                fill(path)
        else:
            fill(path)  # as after a kill in the middle of writing
            assert path.read_bytes() == content


def test_bytes_after_the_end_and_scores_of_no_model_are_refused(tmp_path):
    path = tmp_path / "a"
    fill(path)
    with open(path, "ab") as file:
        file.write(b"xy")
    with pytest.raises(InputError, match="2 bytes too many; delete it"):
        read(path)
    path.unlink()
    with ViewFile(path, SHAPE, DIGEST) as file:
        file.append(np.full((4, 3), np.nan, np.float32), 1)
    with pytest.raises(InputError, match="scores that no model gives"):
        read(path)


@pytest.mark.parametrize(
    ("shape", "digest"),
    [(SHAPE, OTHER), (ViewShape(11, 3, 4), DIGEST), (ViewShape(10, 2, 4), DIGEST)],
)
def test_scores_of_something_else_are_refused(tmp_path, shape, digest):
    fill(tmp_path / "a")
    with pytest.raises(InputError, match="belongs to another labelling or is damaged"):
        ViewFile(tmp_path / "a", shape, digest)


def test_links_and_pipes_are_refused(tmp_path):
    fill(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "a symbolic link"), ("pipe", "a pipe")):
        with pytest.raises(InputError, match=kind):
            ViewFile(tmp_path / name, SHAPE, DIGEST)


def test_a_full_disk_leaves_the_former_chunks(tmp_path, monkeypatch):
    path = tmp_path / "a"
    fill(path, 1)
    before = path.read_bytes()

    def half(descriptor, content):
        os.write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ViewFile(path, SHAPE, DIGEST) as file:
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_all", half)
            with pytest.raises(InputError, match="No space left on device; free disk space"):
                file.append(chunk(1), TOKENS[1])
        assert path.read_bytes() == before
        file.append(chunk(1), TOKENS[1])  # the same object works on
    fill(path)
    assert read(path) == WHOLE

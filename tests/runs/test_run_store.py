import errno
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest

import icm_fast
from icm_fast.config import SearchConfig
from icm_fast.errors import InputError
from icm_fast.files import write_atomically
from icm_fast.runs.event_log import EventLog, event_line
from icm_fast.runs.finished import read_run
from icm_fast.runs.score_log import ScoredLabelling, ScoreLog
from run_fakes import REPOSITORY, FakeScorer, run_bytes, toy_dataset

CONFIG = SearchConfig(preset="paper", max_evaluations=8, n_initial=2)
FINGERPRINT = "ab" * 32
HEADER = 56


def run(folder, *, dataset=None, config=CONFIG, scorer=None, model="fake"):
    dataset = dataset or toy_dataset(6)
    scorer = scorer or FakeScorer(len(dataset), len(dataset.label_space))
    return icm_fast.search(dataset, model=model, config=config, output_dir=folder, scorer=scorer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return run_bytes(folder)


# --- killed at any instant ---------------------------------------------------


def die_at(call: int) -> None:
    """Make the ``call``-th write, fsync or rename of this process its last, a write half done."""
    count = 0

    def counted(name):
        original = getattr(os, name)

        def wrapper(*arguments, **keywords):
            nonlocal count
            count += 1
            if count == call:
                if name == "write":
                    original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(9)
            return original(*arguments, **keywords)

        return wrapper

    for name in ("write", "fsync", "replace", "ftruncate"):
        setattr(os, name, counted(name))


def run_in_child_until(call: int, folder) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            die_at(call)
            run(folder)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_death_at_every_system_call_leaves_the_same_bytes(tmp_path, whole):
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        code = run_in_child_until(call, folder)
        assert code in (0, 9)
        run(folder)
        assert run_bytes(folder) == whole, f"died at call {call}"
        if code == 0:
            break
    assert call > 30


SLOW_RUN = """
import sys
from run_fakes import FakeScorer, toy_dataset
import icm_fast
icm_fast.search(toy_dataset(6), model="fake", output_dir=sys.argv[1],
                config=icm_fast.SearchConfig(preset="paper", max_evaluations=8, n_initial=2),
                scorer=FakeScorer(6, 2, delay=0.1))
"""


@pytest.mark.parametrize("n_records", [0, 2, 5])
def test_kill_9_and_run_again(tmp_path, whole, n_records):
    folder = tmp_path / "run"
    paths = [str(REPOSITORY / "tests"), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
    )
    store = folder / "evaluations.bin"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if store.exists() and store.stat().st_size >= HEADER + n_records * record_bytes():
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    run(folder)
    assert run_bytes(folder) == whole


def test_events_are_readable_while_the_search_runs(tmp_path):
    class Watching(FakeScorer):
        sizes = ()

        def score(self, labels, queries=None):
            self.sizes += ((tmp_path / "events.jsonl").stat().st_size,)
            return super().score(labels, queries)

    scorer = Watching(6)
    run(tmp_path, scorer=scorer)
    assert scorer.sizes[-1] > scorer.sizes[0]


def test_the_preamble_is_recorded_where_there_is_one(tmp_path):
    told = replace(toy_dataset(6), preamble="Answer: yes\nor no?")
    run(tmp_path / "told", dataset=told)
    found = read_run(tmp_path / "told").dataset
    assert found == told
    assert found.fingerprint() == told.fingerprint() != toy_dataset(6).fingerprint()
    run(tmp_path / "told", dataset=told)
    with pytest.raises(InputError, match=r"different run: preamble is 'Answer: yes.*None here"):
        run(tmp_path / "told")
    run(tmp_path / "plain")
    assert "preamble" not in (tmp_path / "plain" / "config.yaml").read_text()


# --- another run -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": replace(CONFIG, seed=1)}, "seed is 0 there and 1"),
        ({"dataset": toy_dataset(7)}, "n_examples is 6 there and 7 here"),
        ({"dataset": toy_dataset(6, (" x", " y"))}, "labels is"),
        ({"dataset": replace(toy_dataset(6), preamble="Hm.")}, "preamble is None there and 'Hm.'"),
    ],
)
def test_folder_of_a_different_run_is_refused(tmp_path, change, message):
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=f"different run: {message}.*delete this one"):
        run(tmp_path, **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_weights_under_the_same_name_are_refused_when_scoring(tmp_path):
    class Failing(FakeScorer):
        def score(self, labels, queries=None):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().score(labels, queries)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, scorer=Failing(6))
    other = FakeScorer(6)
    other.fingerprint = "fake-2"
    with pytest.raises(InputError, match="model_fingerprint is 'fake-1' there and 'fake-2' here"):
        run(tmp_path, scorer=other)


def test_other_model_under_another_name_is_refused(tmp_path):
    run(tmp_path)
    other = FakeScorer(6)
    other.fingerprint = "fake-2"
    with pytest.raises(InputError, match="model_fingerprint"):
        run(tmp_path, scorer=other, model="other")


def test_folder_with_results_but_no_config_is_refused(tmp_path):
    (tmp_path / "labels.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"labels\.jsonl but no config\.yaml"):
        run(tmp_path)
    assert (tmp_path / "labels.jsonl").read_text() == "{}\n"


def test_config_that_is_none_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match="not the configuration of a run"):
        run(tmp_path)


def test_two_processes_cannot_write_one_run(tmp_path):
    class Nested(FakeScorer):
        def score(self, labels, queries=None):
            with pytest.raises(InputError, match="written by another process"):
                run(tmp_path)
            return super().score(labels, queries)

    run(tmp_path, scorer=Nested(6))


# --- a file system that refuses ----------------------------------------------


def test_output_below_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*Not a directory; free disk space"):
        run(tmp_path / "file" / "run")


def full_after(n_bytes: int):
    """A replacement of ``os.write`` on a disk with ``n_bytes`` left."""
    original = os.write
    left = n_bytes

    def write(descriptor, content):
        nonlocal left
        part = bytes(content)[:left]
        left -= len(part)
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, part)

    return write


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, whole, share):
    folder = tmp_path / "run"
    room = int(share * sum(map(len, whole.values())))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after(room))
        with pytest.raises(InputError, match="No space left on device"):
            run(folder)
    left = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert not [name for name in left if name.endswith(".tmp")]
    for name in ("config.yaml", "examples.jsonl", "labels.jsonl"):
        assert left.get(name, whole[name]) == whole[name]
    if "evaluations.bin" in left:
        assert whole["evaluations.bin"].startswith(left["evaluations.bin"])
        assert (len(left["evaluations.bin"]) - HEADER) % record_bytes() == 0
    run(folder)
    assert run_bytes(folder) == whole


def test_atomic_write_keeps_the_former_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "write", full_after(2))
    with pytest.raises(InputError, match=r"cannot write .*a\.txt"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# --- evaluations.bin ---------------------------------------------------------


def record_bytes(n=6, n_labels=2):
    return n + 8 + 4 * n * n_labels + 4


def evaluation(k, n=6, n_labels=2):
    labels = np.full(n, -1, np.int32)
    labels[: k % n] = k % n_labels
    return ScoredLabelling(labels, np.full((n, n_labels), -k, np.float32), 100 + k)


def filled(path, count=3, n_labels=2):
    log = ScoreLog(path, 6, n_labels, FINGERPRINT)
    for k in range(count):
        log.append(evaluation(k, n_labels=n_labels))
    log.close()
    return path.read_bytes()


@pytest.mark.parametrize("n_labels", [2, 200, 40_000])
def test_log_gives_back_what_was_written(tmp_path, n_labels):
    filled(tmp_path / "e.bin", 3, n_labels)
    log = ScoreLog(tmp_path / "e.bin", 6, n_labels, FINGERPRINT)
    log.close()
    for k, found in enumerate(log.labellings):
        expected = evaluation(k, n_labels=n_labels)
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.scores, expected.scores)
        assert found.n_tokens == expected.n_tokens
    assert len(log.labellings) == 3


def test_every_torn_tail_is_cut(tmp_path):
    path = tmp_path / "e.bin"
    content = filled(path)
    for size in range(HEADER, len(content)):
        path.write_bytes(content[:size])
        log = ScoreLog(path, 6, 2, FINGERPRINT)
        log.close()
        n_whole = (size - HEADER) // record_bytes()
        assert len(log.labellings) == n_whole
        assert path.read_bytes() == content[: HEADER + n_whole * record_bytes()]


def test_corrupt_last_record_counts_as_torn(tmp_path):
    path = tmp_path / "e.bin"
    content = bytearray(filled(path))
    content[-10] ^= 1
    path.write_bytes(content)
    log = ScoreLog(path, 6, 2, FINGERPRINT)
    log.close()
    assert len(log.labellings) == 2


def test_corrupt_middle_record_is_an_error(tmp_path):
    path = tmp_path / "e.bin"
    content = bytearray(filled(path))
    content[HEADER + record_bytes() + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"record 2 of 3 is corrupt .* byte {HEADER + record_bytes()}"
    ):
        ScoreLog(path, 6, 2, FINGERPRINT)
    assert path.read_bytes() == content


def test_log_of_another_run_is_refused(tmp_path):
    filled(tmp_path / "e.bin")
    with pytest.raises(InputError, match="belongs to another run or is corrupt"):
        ScoreLog(tmp_path / "e.bin", 6, 2, "cd" * 32)


def test_layout_on_disk(tmp_path):
    content = filled(tmp_path / "e.bin", 1)
    assert content[:8] == b"ICMEVAL\x00"
    assert int.from_bytes(content[52:56], "little") == zlib.crc32(content[:52])
    record = content[HEADER:]
    assert len(record) == record_bytes()
    assert int.from_bytes(record[-4:], "little") == zlib.crc32(record[:-4])


# --- events.jsonl ------------------------------------------------------------


def test_replayed_events_leave_the_file_alone_and_a_torn_line_is_replaced(tmp_path):
    path = tmp_path / "events.jsonl"
    events = [{"move": "single", "utility": k / 3} for k in range(4)]
    expected = b"".join(map(event_line, events))
    path.write_bytes(expected[:-7])
    log = EventLog(path)
    for event in events[:3]:
        log.append(event)
    assert path.read_bytes() == expected[:-7]
    log.append(events[3])
    log.finish()
    log.close()
    assert path.read_bytes() == expected


def test_lines_behind_the_last_event_are_cut(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(event_line({"a": 1}) + event_line({"a": 2}))
    log = EventLog(path)
    log.append({"a": 1})
    log.finish()
    log.close()
    assert path.read_bytes() == event_line({"a": 1})


def test_infinities_become_null():
    assert event_line({"threshold": -float("inf"), "changes": [(0, -1, 1)]}) == (
        b'{"threshold": null, "changes": [[0, -1, 1]]}\n'
    )

"""Threads that share one model take turns; a forked child scores, or says at once why not."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from icm_fast import leave_one_out
from icm_fast.config import SearchConfig
from icm_fast.model import ModelRunner, load_model
from icm_fast.scoring.factory import make_scorer
from tiny_models import (
    byte_tokenizer,
    mixed_labels,
    one_thread,  # noqa: F401
    reviews,
    tiny_loaded,
    tiny_model,
)

ROUNDS = 3


def at_once(*calls):
    """Results of calls that begin together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def labellings(dataset, n):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 2, len(dataset)).astype(np.int32) for _ in range(n)]


@pytest.mark.parametrize("scorer", ["tree", "naive"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_threads_that_share_a_model_score_as_one_after_the_other(family, scorer):
    dataset = reviews()
    given = labellings(dataset, 4)
    loaded = load_model((tiny_model(family), byte_tokenizer()))
    alone = [leave_one_out(dataset, labels, model=loaded, scorer=scorer) for labels in given]
    for _ in range(ROUNDS):
        fresh = load_model((tiny_model(family), byte_tokenizer()))
        calls = [
            partial(leave_one_out, dataset, labels, model=fresh, scorer=scorer) for labels in given
        ]
        for scores, expected in zip(at_once(*calls), alone, strict=True):
            assert np.array_equal(scores, expected)


def test_threads_that_share_a_pair_take_turns():
    """Each call wraps the pair anew, but the layers are the same objects."""
    dataset = reviews()
    labels = mixed_labels(dataset)
    pair = (tiny_model("gpt_neox"), byte_tokenizer())
    calls = [
        partial(leave_one_out, dataset, labels, model=pair, scorer=scorer)
        for scorer in ("tree", "naive", "tree", "naive")
    ]
    expected = [call() for call in calls]
    for scores, alone in zip(at_once(*calls), expected, strict=True):
        assert np.array_equal(scores, alone)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context_order": "append"},
        {"context_demonstrations": 3},
        {"scorer": "naive"},
    ],
    ids=["tree", "append", "bounded", "naive"],
)
def test_threads_that_share_a_scorer(settings):
    """It holds one pool, and perhaps a cache of prefixes."""
    dataset = reviews()
    loaded = tiny_loaded("llama")
    scorer = make_scorer(loaded, dataset, SearchConfig(**settings))
    given = labellings(dataset, 4)
    alone = [scorer.score(labels).scores for labels in given]
    for _ in range(ROUNDS):
        scored = at_once(*(partial(scorer.score, labels) for labels in given))
        for found, expected in zip(scored, alone, strict=True):
            assert np.array_equal(found.scores, expected)


def test_runs_whose_batches_alternate_keep_their_own_positions():
    """Two plans of one thread: the second is shorter than the contexts of the first."""
    dataset = reviews()
    loaded = tiny_loaded("llama")
    scorer = make_scorer(loaded, dataset, SearchConfig(batch_tokens=64))
    long = scorer.plan(mixed_labels(dataset))
    short = scorer.plan(np.full(len(dataset), -1, np.int32))

    def states(plan):
        wanted = np.ones(plan.tree.n_segments, np.bool_)
        stages = ModelRunner(loaded).stages(plan.tree, plan.segment_ids, wanted)
        return (hidden.numpy().copy() for _, hidden in stages)

    expected = list(states(long))
    assert len(expected) > 2
    first, second = states(long), states(short)
    found = [next(first)]
    list(second)
    found += list(first)
    for ours, alone in zip(found, expected, strict=True):
        assert np.array_equal(ours, alone)


def test_threads_that_load_at_once(tmp_path):
    dataset = reviews()
    labels = mixed_labels(dataset)
    for family in ("llama", "qwen2"):
        tiny_model(family).save_pretrained(tmp_path / family)
        byte_tokenizer().save_pretrained(tmp_path / family)
    calls = [
        partial(leave_one_out, dataset, labels, model=tmp_path / family)
        for family in ("llama", "qwen2", "llama", "qwen2")
    ]
    expected = [call() for call in calls]
    for scores, alone in zip(at_once(*calls), expected, strict=True):
        assert np.array_equal(scores, alone)


def test_an_error_under_the_lock_leaves_it_free():
    dataset = reviews()
    loaded = tiny_loaded("llama")
    scorer = make_scorer(loaded, dataset, SearchConfig())
    labels = mixed_labels(dataset)
    expected = scorer.score(labels).scores

    def interrupted():
        def stop(_):
            raise KeyboardInterrupt

        rows = np.ones(len(labels), np.bool_)
        with pytest.raises(KeyboardInterrupt):
            make_scorer(loaded, dataset, SearchConfig(scorer="naive")).score_rows(
                labels, rows, enough=stop
            )

    at_once(interrupted, interrupted)
    assert np.array_equal(at_once(lambda: scorer.score(labels))[0].scores, expected)


def test_a_thread_that_scores_may_score_within():
    """As a callback of a search does."""
    dataset = reviews()
    loaded = tiny_loaded("llama")
    labels = mixed_labels(dataset)
    expected = leave_one_out(dataset, labels, model=loaded)
    within = []

    def enough(_):
        within.append(leave_one_out(dataset, labels, model=loaded))
        return False

    naive = make_scorer(loaded, dataset, SearchConfig(scorer="naive"))
    naive.score_rows(labels, np.ones(len(labels), np.bool_), enough=enough)
    assert within
    assert all(np.array_equal(scores, expected) for scores in within)


FORKS = """
import os, signal, sys, threading
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from icm_fast import leave_one_out
from icm_fast.model import load_model
from tiny_models import byte_tokenizer, mixed_labels, reviews, tiny_model

scorer, family, inside = sys.argv[2:5]
torch.set_num_threads(2)
big = torch.ones(600, 600)
big @ big + big.exp()  # starts torch's own threads
dataset = reviews()
labels = mixed_labels(dataset)
loaded = load_model((tiny_model(family, vocab_size=50_000), byte_tokenizer()))

def score(model=loaded):
    return leave_one_out(dataset, labels, model=model, scorer=scorer)

def child(expected):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            same = np.allclose(score(), expected, atol=1e-5)
            anew = load_model((tiny_model(family, vocab_size=50_000), byte_tokenizer()))
            same = same and np.allclose(score(anew), expected, atol=1e-5)
            code = 0 if same else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

expected = score()
stopping = threading.Event()
def keep_scoring():
    while not stopping.is_set():
        score()
thread = threading.Thread(target=keep_scoring)
if inside == "inside":
    thread.start()
codes = [child(expected) for _ in range(5 if inside == "inside" else 1)]
stopping.set()
if inside == "inside":
    thread.join()
assert np.allclose(score(), expected, atol=1e-5)
# What the child leaves behind at its end: objects whose threads are the parent's.
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    loaded.cache.clear()
    os._exit(0)
codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(codes)
sys.exit(any(codes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("when", ["between", "inside"])
@pytest.mark.parametrize(
    ("scorer", "family"), [("tree", "llama"), ("tree", "gpt_neox"), ("naive", "llama")]
)
def test_a_forked_child_scores(scorer, family, when):
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, tests, scorer, family, when],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
    )
    assert done.returncode == 0, f"{done.stdout[-500:]} {done.stderr[-2000:]}"
    assert f"-{signal.SIGALRM.value}" not in done.stdout

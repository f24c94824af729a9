"""Threads that share an engine take turns; nothing is read while another thread changes it."""

import threading

import numpy as np
from engine_cases import group_graph, noise_scorer

from icm_fast import _core
from icm_fast.config import SearchConfig
from icm_fast.engine.native import engine_settings

N, LABELS = 60, 2
TABLE = ((0, 1), (1, 0))


def make_engine():
    settings = engine_settings(SearchConfig(seed=3, max_iterations=200))
    return _core.Engine(N, LABELS, *group_graph(N, 3, TABLE), **settings)


def run(engine, score):
    while not engine.done:
        ask = engine.ask()
        if ask is None:
            break
        engine.tell(score(ask.labels))


def test_readers_in_other_threads_see_whole_states():
    score = noise_scorer(N, LABELS, 7)
    alone = make_engine()
    run(alone, score)
    engine = make_engine()
    stopping = threading.Event()
    failures = []

    def read():
        while not stopping.is_set():
            labels, scores = engine.labels, engine.result_scores
            engine.take_events()
            if len(labels) != N or scores.shape != (N, LABELS) or engine.reason is None:
                failures.append(labels)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        run(engine, score)
    finally:
        stopping.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert np.array_equal(engine.result_labels, alone.result_labels)
    assert engine.n_asks == alone.n_asks


def test_answers_of_several_threads_are_taken_one_after_the_other():
    """More answers than asks: those that come too late are refused, and nothing breaks."""
    engine = make_engine()
    score = noise_scorer(N, LABELS, 7)
    unexpected = []

    def answer():
        for _ in range(300):
            ask = engine.ask()
            if ask is None:
                return
            try:
                engine.tell(score(ask.labels))
            except ValueError as error:
                if "the search is over" not in str(error):
                    unexpected.append(error)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not unexpected
    assert engine.result_labels.shape == (N,)

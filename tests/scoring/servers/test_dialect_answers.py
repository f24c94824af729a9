"""What a server may answer: the documented form is read, any other one is refused by name."""

import itertools
import json
import random

import pytest

from icm_fast.scoring.servers.llama_cpp import LlamaCpp
from icm_fast.scoring.servers.openai import OpenAICompletions
from icm_fast.scoring.servers.schedule import run_in_order, waits_for
from icm_fast.scoring.servers.sglang import SGLang
from icm_fast.scoring.servers.transport import UnusableError
from icm_fast.scoring.servers.vllm import VLLM

WANTED = (7042, 450)

RECORDED = {
    # vLLM 0.32.0, CPU build: ids as keys, since they were asked for.
    "vllm": (
        VLLM(),
        '{"choices": [{"index": 0, "text": " Paris", "logprobs": {"text_offset": [0], '
        '"token_logprobs": [-0.26], "tokens": ["token_id:7042"], "top_logprobs": '
        '[{"token_id:7042": -0.26, "token_id:450": -4.5}]}, "finish_reason": "length"}], '
        '"usage": {"prompt_tokens": 6, "total_tokens": 7, "completion_tokens": 1, '
        '"prompt_tokens_details": {"cached_tokens": 4}}}',
        2,
    ),
    # Documented form: lists of (log-probability, id, text).
    "sglang": (
        SGLang(),
        '{"text": " Paris", "meta_info": {"prompt_tokens": 6, "cached_tokens": 4, '
        '"completion_tokens": 1, "output_token_ids_logprobs": [[[-0.26, 7042, null], '
        '[-4.5, 450, " L"]]], "output_top_logprobs": [[[-0.26, 7042, null]]]}}',
        2,
    ),
    # llama.cpp, xllamacpp 2026.10.11549.
    "llama.cpp": (
        LlamaCpp(),
        '{"index": 0, "content": " Paris", "tokens": [], "stop": true, "tokens_evaluated": 6, '
        '"timings": {"cache_n": 4, "prompt_n": 2}, "completion_probabilities": [{"id": 7042, '
        '"token": " Paris", "bytes": [32], "logprob": -0.26, "top_logprobs": [{"id": 7042, '
        '"token": " Paris", "bytes": [32], "logprob": -0.26}, {"id": 450, "token": " L", '
        '"bytes": [32, 76], "logprob": -4.5}]}]}',
        2,
    ),
    # Documented form of completions: texts as keys.
    "openai": (
        OpenAICompletions({7042: " Paris", 450: " L"}.__getitem__),
        '{"choices": [{"text": " Paris", "logprobs": {"tokens": [" Paris"], "top_logprobs": '
        '[{" Paris": -0.26, " L": -4.5}]}}], "usage": {"prompt_tokens": 6}}',
        None,
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_documented_form_is_read(name):
    dialect, text, n_computed = RECORDED[name]
    answer = dialect.read(json.loads(text), WANTED)
    assert answer.logprobs == {7042: -0.26, 450: -4.5}
    assert (answer.n_prompt, answer.n_computed) == (6, n_computed)


def changed(value, draw):
    """A copy of JSON content with one part replaced by something odd."""
    odd = [None, [], {}, "x", -1, 0.5, float("nan"), 10**400, -(10**400), True, [[]], {"id": {}}]
    if draw.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return draw.choice(odd)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], draw)}
    place = draw.randrange(len(value))
    return [*value[:place], changed(value[place], draw), *value[place + 1 :]]


@pytest.mark.parametrize("name", RECORDED)
def test_another_form_is_refused_or_gives_log_probabilities(name):
    dialect, text, _ = RECORDED[name]
    draw, refused = random.Random(name), 0
    for _ in range(3000):
        try:
            answer = dialect.read(changed(json.loads(text), draw), WANTED)
        except UnusableError:
            refused += 1
        else:
            assert set(answer.logprobs) <= set(WANTED)
            assert all(-1e30 <= value <= 0 for value in answer.logprobs.values())
    assert refused > 500


def test_prompts_wait_for_the_first_one_with_their_prefix():
    # Contexts of four examples as a tree: 0 and 1 share most, 2 and 3 share most.
    assert waits_for([10, 10, 10, 10], [0, 7, 4, 7]) == [-1, 0, 0, 2]
    assert waits_for([5, 5, 5], [0, 0, 0]) == [-1, 0, 0]
    assert waits_for([5, 5, 8], [0, 5, 5]) == [-1, 0, 0]
    assert waits_for([9, 9, 9, 9], [0, 3, 5, 3]) == [-1, 0, 1, 0]
    assert waits_for([], []) == []


def test_every_prompt_finds_its_prefix_computed():
    draw = random.Random(3)
    prompts = sorted(tuple(draw.choices(range(3), k=draw.randint(1, 9))) for _ in range(200))

    def common(a, b):
        pairs = enumerate(zip(a, b, strict=False))
        return next((k for k, (x, y) in pairs if x != y), min(len(a), len(b)))

    shared = [0, *(common(a, b) for a, b in itertools.pairwise(prompts))]
    after = waits_for([len(p) for p in prompts], shared)
    done = []

    def work(k):
        best = max((common(prompts[k], prompts[j]) for j in done), default=0)
        assert best >= shared[k]
        done.append(k)
        return k

    order = [k for k, _ in run_in_order(work, after, 1, lambda: None)]
    assert order == list(range(200)), "one at a time is depth-first"
    done.clear()
    assert sorted(k for k, _ in run_in_order(work, after, 8, lambda: None)) == list(range(200))


def test_a_failure_stops_what_is_left():
    stopped = []

    def work(k):
        if k == 3:
            raise ValueError("no")
        return k

    with pytest.raises(ValueError, match="no"):
        list(run_in_order(work, [-1, 0, 0, 0, 0, 0], 1, lambda: stopped.append(True)))
    assert stopped == [True]

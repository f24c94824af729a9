"""The peers that need no environment of their own, on a tiny model; vLLM's checks on a fake."""

import dataclasses
import sys
import types

import numpy as np
import pytest
from bench_case import SESSIONS, case_on

from benchmarks.engines.peers.protocol import Job, log_softmax, measure
from benchmarks.engines.peers.transformers_naive import NaiveSession
from benchmarks.engines.workload import make_workload
from tiny_models import one_thread  # noqa: F401


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def workload(request, model_folders, claims_file):
    """The second model has sliding windows that are shorter than every context."""
    return make_workload(case_on(model_folders[request.param], claims_file))


def run(workload, peer, order, **settings):
    job = workload.job(workload.ordered(order), threads=1, cpus=[0], **settings)
    return measure(SESSIONS[peer](job), job)


def test_all_peers_agree_on_our_order(workload):
    ours = np.array(run(workload, "ours", "ours", repeats=2)["scores"])
    assert np.ptp(ours, axis=0).max() > 0.1
    whole = run(workload, "transformers-naive", "ours", options={"batch_size": 1})
    assert np.abs(ours - whole["scores"]).max() < 1e-4
    padded = run(workload, "transformers-naive", "ours", options={"batch_size": 3})
    assert np.abs(ours - padded["scores"]).max() < 1e-4
    cached = run(workload, "transformers-cache", "ours", repeats=2)
    assert np.abs(ours - cached["scores"]).max() < 1e-4


def test_cache_agrees_on_the_natural_order(workload):
    whole = run(workload, "transformers-naive", "natural", options={"batch_size": 1})
    cached = run(workload, "transformers-cache", "natural", repeats=2)
    assert np.abs(np.array(whole["scores"]) - cached["scores"]).max() < 1e-4


def test_tokens_are_counted_per_cold_repeat(workload):
    ours = run(workload, "ours", "ours", repeats=3)
    assert ours["tokens_forwarded"] == workload.plan.n_tokens
    assert ours["details"]["kv_pool_bytes"] > 0
    cached = run(workload, "transformers-cache", "ours", repeats=3)
    assert cached["tokens_forwarded"] <= workload.plan.n_tokens
    assert len(cached["seconds"]) == 3
    assert cached["repeat_difference"] == 0
    whole = run(workload, "transformers-naive", "natural", options={"batch_size": 1})
    assert whole["tokens_forwarded"] == workload.plan.naive_tokens


def test_naive_probes_batch_sizes(workload):
    details = run(workload, "transformers-naive", "natural")["details"]
    rates = details["probed_tokens_per_second"]
    assert set(rates) == {1, 2, 4, 8}
    assert details["batch_size"] == max(rates, key=rates.get)


def test_ours_refuses_prompts_that_are_not_its_own(workload):
    job = workload.job(workload.ordered("natural"), threads=1, cpus=[0])
    with pytest.raises(RuntimeError, match="is not that of the job"):
        SESSIONS["ours"](job)


class SlowSession:
    """Takes one second per token by its own clock."""

    reuses_prefix = False
    divisible = True
    packages = ("icm-fast", "no-such-package")

    def __init__(self, clock):
        self.clock = clock
        self.tokens_forwarded = 0
        self.details = {}
        self.resets = 0

    def reset(self):
        self.resets += 1
        self.tokens_forwarded = 0

    def label_logits(self, prompts):
        self.tokens_forwarded += sum(map(len, prompts))
        self.clock.now += sum(map(len, prompts))
        return [[0.0, float(len(prompt))] for prompt in prompts]


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


@pytest.mark.parametrize(
    ("max_seconds", "measured"), [(0, 10), (1000, 10), (35, 7), (20, 4), (1, 4)]
)
def test_slow_peer_measures_a_part(clock, max_seconds, measured):
    prompts = [[1] * 5 for _ in range(10)]
    job = Job(prompts, [0, 1], "", "float32", 1, [0], repeats=2, max_seconds=max_seconds)
    session = SlowSession(clock)
    result = measure(session, job)
    assert result["n_measured"] == measured
    assert result["measured_share"] == pytest.approx(measured / 10)
    assert result["seconds"] == [5.0 * measured] * 2
    assert len(result["scores"]) == measured
    assert session.resets >= 2
    assert result["versions"]["no-such-package"] == "not installed"
    assert result["processors_used"] < 1


def test_repeats_that_differ_are_told(clock):
    class Drifting(SlowSession):
        def label_logits(self, prompts):
            self.clock.now += 1
            return [[0.0, float(self.resets)] for _ in prompts]

    job = Job([[1, 2]], [0, 1], "", "float32", 1, [0], repeats=2)
    assert measure(Drifting(clock), job)["repeat_difference"] > 0.05


def test_log_softmax():
    found = log_softmax([1000.0, 1000.0 + np.log(3.0)])
    assert np.allclose(np.exp(found), [0.25, 0.75])


class FakeEngine:
    """As much of vllm.LLM as the peer uses; ``known`` are the tokens whose scores come back."""

    known = (5, 6)
    empties = True

    def __init__(self, **settings):
        self.settings = settings

    def reset_prefix_cache(self):
        return self.empties

    def generate(self, requests, sampling, use_tqdm):
        found = {t: types.SimpleNamespace(logprob=-float(t)) for t in self.known}
        outputs = [types.SimpleNamespace(logprobs=[found])]
        return [types.SimpleNamespace(outputs=outputs, num_cached_tokens=1) for _ in requests]


@pytest.fixture
def vllm_session(monkeypatch):
    from benchmarks.engines.peers.vllm_engine import VllmSession

    class Engine(FakeEngine):
        pass

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, lambda **fields: fields
    monkeypatch.setitem(sys.modules, "vllm", module)
    job = Job([[1, 2, 3], [1, 2]], [5, 6], "m", "bfloat16", 1, [0], options={"block_size": 128})
    return VllmSession(job), job, Engine


def test_vllm_asks_for_the_labels_alone(vllm_session):
    session, job, _ = vllm_session
    result = measure(session, job)
    assert result["scores"][0] == pytest.approx(log_softmax([-5.0, -6.0]))
    assert result["tokens_forwarded"] == 3
    assert session._engine.settings["block_size"] == 128
    assert session._engine.settings["enable_prefix_caching"]
    assert session._sampling["logprob_token_ids"] == [5, 6]


def test_vllm_that_drops_a_label_is_an_error(vllm_session):
    session, job, engine = vllm_session
    engine.known = (5, 7)
    with pytest.raises(RuntimeError, match=r"no log-probability of the tokens \[6\]"):
        measure(session, job)


def test_vllm_that_keeps_its_cache_is_an_error(vllm_session):
    session, job, engine = vllm_session
    engine.empties = False
    with pytest.raises(RuntimeError, match="did not empty"):
        measure(session, job)


def test_equal_lengths_need_no_mask(workload, monkeypatch):
    ordered = workload.ordered("ours")
    job = workload.job(ordered, threads=1, cpus=[0], options={"batch_size": 2})
    session = NaiveSession(job)
    seen = []
    layers = session._model.base_model
    forward = layers.forward
    monkeypatch.setattr(
        layers, "forward", lambda **inputs: seen.append(set(inputs)) or forward(**inputs)
    )
    prompt = ordered.prompts[0]
    same = session.label_logits([prompt, prompt])
    assert np.allclose(same[0], same[1], atol=1e-4)
    assert "attention_mask" not in seen[0]
    session.label_logits([prompt, prompt[:-3]])
    assert "attention_mask" in seen[1]


def test_job_fields_have_defaults():
    job = Job([], [], "", "float32", 1, [0])
    assert dataclasses.replace(job, repeats=3).repeats == 3

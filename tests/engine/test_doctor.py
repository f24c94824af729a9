"""What the doctor says is what the scorer of a search then does."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

import icm_fast
from icm_fast._core import cpu_isa
from icm_fast.config import SearchConfig
from icm_fast.engine.doctor import balanced_labels, diagnose
from icm_fast.model.forward import cpu
from icm_fast.model.forward.cpu import CpuForward
from icm_fast.model.forward.generic import GenericForward
from icm_fast.model.lazy import LazyModel
from icm_fast.plan.text_ids import marked_text
from icm_fast.scoring import factory
from icm_fast.types import Dataset, Example
from run_fakes import REPOSITORY
from tiny_models import (  # noqa: F401
    MULTI,
    SINGLE,
    byte_tokenizer,
    one_thread,
    reviews,
    tiny_loaded,
    tiny_model,
)


def findings(loaded, dataset, config):
    """Fields of every finding, by check."""
    found = {f.check: f for f in diagnose(lambda: dataset, LazyModel(loaded), config)}
    assert all(f.passed for f in found.values()), found
    json.dumps([dict(f.fields) for f in found.values()], allow_nan=False)
    return {check: finding.fields for check, finding in found.items()}


def scorers_of_a_search(monkeypatch, loaded, dataset, config):
    """The scorers that a search makes, after it ended."""
    made = []
    original = factory.make_scorer

    def noted(*arguments):
        made.append(original(*arguments))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(factory, "make_scorer", noted)
        icm_fast.search(dataset, model=loaded, config=config)
    return made


QUICK = SearchConfig(max_evaluations=3, n_initial=2)
WAYS = {
    "native": ("llama", {}, "native decoder", CpuForward),
    "unknown family": ("gpt_neox", {}, "transformers", GenericForward),
    "bounded": ("qwen2", {"context_demonstrations": 4}, "native decoder", CpuForward),
    "growing": ("mistral", {"context_order": "append"}, "native decoder", CpuForward),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("labels", [SINGLE, MULTI], ids=["single", "multi"])
def test_path_threads_tokens_and_memory_are_those_of_the_search(monkeypatch, way, labels):
    family, settings, name, kind = WAYS[way]
    if family == "mistral":
        settings = settings | {"context_limit": 4096}
    # gpt_neox has as many heads of keys as of queries, whatever the configuration says.
    loaded, dataset = tiny_loaded(family, num_key_value_heads=4), reviews(labels)
    config = SearchConfig(**({"max_evaluations": 3, "n_initial": 2} | settings))
    said = findings(loaded, dataset, config)
    (scorer,) = scorers_of_a_search(monkeypatch, loaded, dataset, config)

    forward = scorer.runner.forward
    assert (said["forward"]["name"], type(forward)) == (name, kind)
    assert said["forward"]["dtype"] == loaded.dtype_name == "float32"
    if kind is CpuForward:
        assert said["forward"]["instructions"] == forward.native.isa == cpu_isa("float32")
        assert said["threads"]["threads"] == forward.native.n_threads
    else:
        assert said["forward"]["kernels"] == {"attention": "sdpa", "label scores": "torch"}
        assert "gpt_neox has no decoder" in said["forward"]["slower_because"]

    complete = balanced_labels(len(dataset), len(labels))
    before = scorer.runner.n_tokens_forwarded
    n_tokens = scorer.score_canonical(complete).n_tokens
    assert said["cost"]["tokens_per_evaluation"] == n_tokens
    if way != "growing":  # its final labels are scored by a runner of their own
        assert scorer.runner.n_tokens_forwarded - before == n_tokens

    fresh = factory.make_scorer(loaded, dataset, config)
    fresh.score(complete)
    held = fresh.runner.peak_kv_bytes
    if way == "growing":
        fresh.score_canonical(complete)
        held += fresh.canonical.runner.peak_kv_bytes
    assert said["memory"]["keys_and_values"] == held > 0


@pytest.mark.parametrize("channel", [True, False])
def test_the_cost_of_the_default_is_what_it_takes(channel):
    loaded = tiny_loaded("llama", max_position_embeddings=4096)
    dataset, _ = icm_fast.load_task("larger-than", limit=40, seed=0)
    config = SearchConfig(channel=channel)
    said = findings(loaded, dataset, config)["cost"]
    found = icm_fast.search(dataset, model=loaded, config=config)
    assert said["tokens"] == pytest.approx(found.n_tokens_forwarded, rel=0.15)


def test_the_naive_scorer_runs_whole_prompts(monkeypatch):
    loaded, dataset = tiny_loaded("llama"), reviews()
    config = SearchConfig(max_evaluations=3, n_initial=2, scorer="naive")
    said = findings(loaded, dataset, config)
    (scorer,) = scorers_of_a_search(monkeypatch, loaded, dataset, config)
    assert not hasattr(scorer, "runner")
    assert said["forward"]["name"] == "whole prompts"
    assert said["memory"]["keys_and_values"] == 0
    complete = balanced_labels(len(dataset), 2)
    assert scorer.score(complete).n_tokens == said["cost"]["tokens_per_evaluation"]


def test_prompt_and_label_tokens_are_those_that_are_scored():
    loaded, dataset = tiny_loaded("llama", bos=True), reviews(MULTI)
    said = findings(loaded, dataset, QUICK)
    plan = factory.make_scorer(loaded, dataset, QUICK).plan(np.full(len(dataset), -1, np.int32))
    shown = said["prompt"]["token_ids"]
    first_label = said["label tokens"]["tokens"][MULTI[0]]
    assert shown[: -len(first_label)][: len(plan.prompt_ids(0))] == plan.prompt_ids(0)
    assert shown[len(plan.prompt_ids(0)) :][: len(first_label)] == first_label
    assert said["prompt"]["marked"] == marked_text(loaded.tokenizer, shown)
    assert said["prompt"]["example"] == dataset.examples[0].id


def test_duplicates_are_named():
    dataset = reviews()
    examples = (*dataset.examples, Example("copy", dataset.examples[0].prompt))
    dataset = Dataset(examples, dataset.label_space, name="copies")
    said = findings(tiny_loaded("llama"), dataset, QUICK)
    assert said["duplicates"]["equal_prompts"] == [["r0", "copy"]]


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 1}, "33 is odd"),
        ({"hidden_act": "relu"}, "the activation relu has no kernel"),
        ({"mlp_bias": True}, "biases of their own"),
    ],
)
def test_why_the_native_decoder_does_not_run(changes, because):
    loaded = tiny_loaded("llama", **changes)
    said = findings(loaded, reviews(), QUICK)["forward"]
    assert said["name"] == "transformers"
    assert because in said["slower_because"]


def test_too_little_memory_for_the_packed_copy_is_said(monkeypatch):
    monkeypatch.setattr(cpu, "available_bytes", lambda: 1000)
    said = findings(tiny_loaded("llama"), reviews(), QUICK)["forward"]
    assert said["name"] == "transformers"
    assert "bytes, and 1,000 are free" in said["slower_because"]


def test_threads_and_memory_are_those_of_the_container(monkeypatch):
    from icm_fast.model import hardware, sharing

    monkeypatch.setattr(hardware, "processors", lambda *_: hardware.Processors(64, 32, 1.5))
    monkeypatch.setattr(hardware, "memory", lambda *_: hardware.Memory(2**36, 2**20))
    monkeypatch.setattr(sharing, "available_processors", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = {f.check: f for f in diagnose(reviews, LazyModel(tiny_loaded("llama")), QUICK)}
    assert found["threads"].detail == (
        "1 thread; 32 of 64 processors may be used, and the container's quota is 1.5"
    )
    assert found["threads"].fields == {
        "threads": 1, "usable": 1, "machine": 64, "affinity": 32, "quota": 1.5
    }  # fmt: skip
    assert "1.0 MiB free under the container's limit" in found["memory"].detail
    assert found["memory"].fields["container"] == found["memory"].fields["free"] == 2**20
    assert {f.name for f in fields(hardware.Memory)} <= set(found["memory"].fields)


FORBIDDEN = """
import json
from test_doctor import QUICK, findings, reviews, tiny_loaded
print(json.dumps(findings(tiny_loaded("llama"), reviews(), QUICK)["forward"]))
"""


def test_forbidden_instructions_are_the_reason():
    paths = [REPOSITORY / "tests" / "engine", REPOSITORY / "tests", *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN],
        env=os.environ
        | {"ICM_FAST_ISA": "portable", "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["instructions"] == "portable"
    assert said["slower_because"] == "ICM_FAST_ISA=portable forbids faster instructions"

"""Token ids in two orders, and what a cache of the previous prompt saves on them."""

import dataclasses

import numpy as np
import pytest
from bench_case import case_on

from benchmarks.engines.cases import CASES, balanced_labels, choose_case
from benchmarks.engines.peers.prefix import common_prefix, costs, reusable
from benchmarks.engines.workload import make_workload
from icm_fast.errors import InputError
from tiny_models import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def workload(tiny_case):
    return make_workload(tiny_case)


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        ([], [], 0),
        ([1, 2], [], 0),
        ([1, 2, 3], [1, 2, 4, 5], 2),
        ([1, 2], [1, 2, 3], 2),
        ([7], [8], 0),
    ],
)
def test_common_prefix(a, b, shared):
    assert common_prefix(a, b) == common_prefix(b, a) == shared


def test_the_last_token_is_always_forwarded():
    assert reusable([1, 2, 3], [1, 2, 3]) == 2
    assert reusable([1, 2, 3], [1, 2]) == 1
    prompts = [[1, 2, 3], [1, 2, 3], [1, 2, 4], [9]]
    assert costs(prompts, reuses_prefix=True) == [3, 1, 1, 1]
    assert costs(prompts, reuses_prefix=False) == [3, 3, 3, 1]


def test_our_order_is_the_plans_prompts_depth_first(workload):
    ordered = workload.ordered("ours")
    assert sorted(ordered.examples) == list(range(workload.n))
    for prompt, i in zip(ordered.prompts, ordered.examples, strict=True):
        assert prompt == workload.plan.prompt_ids(i)
    # Depth-first, neighbours share at least what the tree shares, so a cache of one prompt does.
    forwarded = sum(costs(ordered.prompts, reuses_prefix=True))
    assert forwarded <= workload.plan.n_tokens < sum(map(len, ordered.prompts))
    by_number = [workload.plan.prompt_ids(i) for i in range(workload.n)]
    assert forwarded < sum(costs(by_number, reuses_prefix=True))


def test_natural_order_has_all_others_ascending(workload):
    ordered = workload.ordered("natural")
    assert ordered.examples == list(range(workload.n))
    pieces, labels = workload.plan.pieces, workload.plan.labels.tolist()
    expected = pieces.context([0, 1, 2, 4, 5, 6, 7], labels) + list(pieces.prompt(3, first=False))
    assert ordered.prompts[3] == expected
    assert sum(map(len, ordered.prompts)) == workload.plan.naive_tokens


def test_both_orders_hold_the_same_tokens(workload):
    ours, natural = workload.ordered("ours"), workload.ordered("natural")
    for prompt, i in zip(ours.prompts, ours.examples, strict=True):
        assert len(prompt) == len(natural.prompts[i])


def test_job_can_be_written_and_read(workload, tmp_path):
    job = workload.job(workload.ordered("ours"), threads=2, cpus=[0, 1], repeats=3)
    job.write(tmp_path / "job.json")
    assert type(job).read(tmp_path / "job.json") == job
    assert job.source["task_source"]["limit"] == workload.n


def test_labels_are_balanced_seeded_and_not_gold():
    labels = balanced_labels(9, 2, seed=3)
    assert sorted(np.bincount(labels).tolist()) == [4, 5]
    assert np.array_equal(labels, balanced_labels(9, 2, seed=3))
    assert not np.array_equal(labels, balanced_labels(9, 2, seed=4))


def test_gold_changes_no_token(model_folders, tmp_path):
    from run_fakes import write_claims

    prompts = []
    for name, gold in (("a", lambda row: row % 2), ("b", None)):
        write_claims(tmp_path / f"{name}.jsonl", gold=gold)
        case = case_on(model_folders["llama"], tmp_path / f"{name}.jsonl")
        prompts.append(make_workload(case).ordered("natural").prompts)
    assert prompts[0] == prompts[1]


def test_named_cases_ask_for_their_data():
    with pytest.raises(InputError, match="needs its data; add --data"):
        choose_case("smollm2-truthfulqa-64")
    case = choose_case("smollm2-truthfulqa-64", data="x.jsonl")
    assert dataclasses.replace(case, data=None) == CASES["smollm2-truthfulqa-64"]
    changed = choose_case("smollm2-truthfulqa-64", data="x.jsonl", n=8, dtype="float32")
    assert changed.name == "smollm2-truthfulqa-8-float32"


def test_labels_of_several_tokens_are_refused(tmp_path, claims_file):
    from tiny_models import byte_tokenizer, tiny_model

    tiny_model("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the peers score the next token only"):
        make_workload(case_on(tmp_path, claims_file))


def test_contexts_beyond_the_model_are_refused(tiny_case):
    with pytest.raises(InputError, match="the largest n that fits is"):
        make_workload(dataclasses.replace(tiny_case, n=80))


def test_a_model_that_is_not_there_is_named(claims_file, tmp_path):
    with pytest.raises(InputError, match="cannot read model"):
        make_workload(case_on(tmp_path, claims_file))

"""The measurements for a GPU, run on the processor at tiny sizes, and what makes them fail."""

import json
import os
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.__main__ import LIMITS, Step, run_all, steps_of
from benchmarks.gpu.visit import attention as gpu_attention
from benchmarks.gpu.visit import whole
from benchmarks.gpu.visit.__main__ import STEPS
from benchmarks.gpu.visit.attention import Problem, attention, by_torch, select_fastest
from benchmarks.gpu.visit.ceilings import environment
from benchmarks.gpu.visit.record import FallbackError, Record
from icm_fast.kernels.tree_attention import naive, select, varlen
from icm_fast.kernels.tree_attention.versions import LIBRARIES
from icm_fast.model.forward.tile_search import batch_work
from icm_fast.plan.uniform import uniform_plan
from tiny_models import one_thread, tiny_loaded  # noqa: F401

CPU = torch.device("cpu")
UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "results.jsonl", "here", CPU, tiny=True)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def named(path):
    return {line["name"]: line for line in lines(path) if "name" in line}


# --- The steps -----------------------------------------------------------------------------------


def test_the_whole_path_equals_plain_transformers(record, tmp_path):
    whole.exact(record)
    assert record.failures == []
    found = [line for line in lines(tmp_path / "results.jsonl") if "ours_vs_plain" in line]
    assert len(found) == 4  # two dtypes, our layers and transformers' own
    for line in found:
        assert line["ours_vs_float32"] < (1e-5 if "float32," in line["name"] else 5e-2)
        assert line["same_bits_again"]


def test_one_utility_is_timed_against_a_cache_in_both_orders(record, tmp_path):
    whole.whole(record)
    assert record.failures == []
    found = named(tmp_path / "results.jsonl")
    ours = found["ours"]
    plan = uniform_plan(8, demonstration=9, query=6, root=1, batch_tokens=4096)
    assert ours["tokens"] == plan.total_tokens
    orders = [found[f"DynamicCache, {order} order"] for order in ("our", "natural")]
    assert all(line["prompts"] == line["of"] == 8 for line in orders)
    # A walk through the tree shares what the tree shares; the natural order shares less.
    assert ours["tokens"] <= orders[0]["tokens"] < orders[1]["tokens"] < 8 * (1 + 7 * 9 + 6)
    assert all(line["seconds"] > 0 for line in (ours, *orders))


def test_a_cache_that_is_cut_back_gives_what_whole_prompts_give(record):
    """What a peer is timed for is the same work."""
    plan = uniform_plan(5, demonstration=7, query=4, root=1)
    tokens = whole.Tokens.random(plan, 5, 7, 512)
    model = whole.random_llama(record, torch.float32, whole._TINY)
    plain = whole._plain_states(record, model, tokens)
    wanted = np.asarray(plan.query) >= 0
    runner = whole.runner_of(record, model, generic=False)
    tree = runner.last_hidden_states(plan, tokens.of, wanted)
    torch.testing.assert_close(tree, plain, atol=1e-4, rtol=1e-4)
    prompts = whole._orders(tokens)
    assert sorted(prompts["DynamicCache, our order"]) == sorted(
        tokens.in_our_order(k) for k in range(5)
    )
    assert whole.new_tokens([1, 2, 3], [1, 2, 3]) == 1
    assert whole.new_tokens([], [1, 2]) == 2
    assert whole.new_tokens([1, 5, 3], [1, 2, 3]) == 2


@UNCOMPILED
def test_every_attention_is_compared_and_timed(record, tmp_path):
    attention(record)
    assert record.failures == []
    found = lines(tmp_path / "results.jsonl")
    names = {line["name"] for line in found}
    assert names == {"naive", "torch, one call per segment", "copies alone", "varlen", "flex"}
    assert all(line["error"] < 1e-2 for line in found if "error" in line)


@pytest.mark.parametrize("batch", range(4))
def test_what_stands_for_a_peer_equals_the_definition(batch):
    plan = uniform_plan(9, demonstration=7, query=4, root=1, batch_tokens=60)
    work = batch_work(plan, batch)
    draw = torch.Generator().manual_seed(batch)
    query = torch.randn(work.n_tokens, 4, 16, generator=draw).transpose(0, 1)
    keys, values = torch.randn(2, 2, int(plan.pool_tokens), 16, generator=draw)
    wanted = naive.tree_attention(query, keys, values, work, scaling=0.25)
    found = varlen.tree_attention(query, keys, values, work, scaling=0.25, library=by_torch)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_every_library_is_a_peer_on_a_device(record, tmp_path, monkeypatch):
    """Those that do not serve are noted with the reason, and are no failure."""
    plan = uniform_plan(4, demonstration=7, query=4)
    query, pool = torch.zeros(2, 7, 8), torch.zeros(1, int(plan.pool_tokens), 8)
    problem = Problem(4, 7, 0, query, pool, pool, batch_work(plan, 0), 1)
    served = {"flex", "torch_flash"}
    libraries = [
        replace(one, unserved_because=lambda needs, name=one.name: "" if name in served else "no")
        for one in LIBRARIES
    ]
    monkeypatch.setattr(gpu_attention, "LIBRARIES", libraries)
    record.device = torch.device("cuda", 0)
    assert set(gpu_attention._libraries(record, problem)) == served
    noted = {n: line["not_timed"] for n, line in named(tmp_path / "results.jsonl").items()}
    assert noted == {"flash_attn_4": "no", "flash_attn": "no"}
    assert record.failures == []


def test_versions_and_ceilings_are_written(record, tmp_path):
    environment(record)
    assert record.failures == []
    first, *others = lines(tmp_path / "results.jsonl")
    assert first["versions"]["torch"]
    assert [line["name"] for line in others] == ["product", "copy"]


# --- What fails ----------------------------------------------------------------------------------


def test_another_forward_pass_is_not_timed(record):
    loaded = tiny_loaded("llama", generic=True)
    with pytest.raises(FallbackError, match="GenericForward would run, not DeviceForward"):
        whole.require(
            record, whole.ModelRunner(loaded, generic=True).forward, loaded, generic=False
        )


def test_a_slower_kernel_is_not_timed_in_silence(tmp_path, monkeypatch):
    """On a device, where nothing slower than the fastest may run."""
    record = Record(tmp_path / "results.jsonl", "whole", CPU, tiny=False)
    loaded = tiny_loaded("llama", generic=True)
    loaded.model.to(torch.bfloat16)
    forward = whole.DeviceForward(loaded)
    path = SimpleNamespace(sentence=lambda: "by triton", slower_because="wgmma failed its trial")
    monkeypatch.setattr(whole, "path_of", lambda *a: path)
    record.attempt("ours", lambda: whole.require(record, forward, loaded, generic=False))
    assert record.failures == ["ours: FallbackError: wgmma failed its trial"]
    assert named(record._path)["ours"]["failed"] == "FallbackError: wgmma failed its trial"
    path.slower_because = ""
    whole.require(record, forward, loaded, generic=False)


def test_an_attention_that_falls_back_fails_its_step(record, monkeypatch):
    select_fastest(record)
    assert record.failures == []
    monkeypatch.setattr(select, "slower_because", lambda query, pool: "not built")
    monkeypatch.setattr(torch, "empty", lambda *a, **k: None)
    record.device = torch.device("cuda", 0)
    select_fastest(record)
    assert record.failures == ["attention falls back: not built"]


def test_wrong_results_fail(record):
    plan = uniform_plan(4, demonstration=7, query=4)
    work = batch_work(plan, 0)
    query, pool = torch.randn(2, work.n_tokens, 8), torch.randn(1, int(plan.pool_tokens), 8)
    problem = Problem(4, 7, 0, query, pool, pool, work, 1)
    right = problem.by(naive.tree_attention)()
    assert problem.error(right) < 1e-6
    right[1, 0, 3] += 1
    record.check_error("wrong", problem.error(right), 2e-2)
    right[1, 0, 3] = torch.nan
    record.check_error("nan", problem.error(right), 2e-2)
    assert [failure.split(":")[0] for failure in record.failures] == ["wrong", "nan"]


# --- The command ---------------------------------------------------------------------------------


def test_both_calls_keep_to_their_minutes(tmp_path):
    """And all their own steps exist."""
    for call, minutes in (("first", 10), ("second", 5)):
        steps = steps_of(call, tmp_path / "r", tmp_path / "a.whl", tmp_path, tiny=False)
        assert sum(step.seconds for step in steps) <= LIMITS[call] < 60 * minutes
        for step in steps:
            if "benchmarks.gpu.visit" in step.command:
                assert step.command[2] in STEPS
        assert [step.name for step in steps if step.required] == ["install"] * (call == "first")


def code(text, seconds=20.0, **more):
    return Step("step " + text[:9], seconds, ("-c", text), **more)


def test_every_end_of_a_step_is_written(tmp_path):
    results = tmp_path / "results.jsonl"
    steps = [
        code("print(1)"),
        code("raise SystemExit(3)"),
        code("import time; time.sleep(60)", 0.5),
        Step("tool", 5, ("-c", ""), ("no-such-program",)),
        code("import os; assert os.environ['A'] == 'b'", environment={"A": "b"}),
    ]
    began = time.monotonic()
    failed = run_all(steps, results, 60.0, dict(os.environ))
    assert time.monotonic() - began < 15
    assert [line["exit_code"] for line in lines(results)] == [0, 3, 124, 127, 0]
    assert failed == [steps[1].name, steps[2].name, "tool"]


def test_nothing_runs_after_the_end_of_a_call(tmp_path):
    results = tmp_path / "results.jsonl"
    sleep = code("import time; time.sleep(60)")
    failed = run_all([sleep, code("print(2)"), code("print(3)")], results, 1.5, dict(os.environ))
    written = lines(results)
    assert written[0]["exit_code"] == 124
    assert written[0]["limit"] <= 1.5
    assert "skipped" in written[1]
    assert failed == [sleep.name, "step print(2)", "step print(3)"]


def test_without_the_package_the_rest_is_pointless(tmp_path):
    results = tmp_path / "results.jsonl"
    install = code("raise SystemExit(1)", required=True)
    assert run_all([install, code("print(2)")], results, 60.0, dict(os.environ)) == [install.name]
    assert len(lines(results)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("call", LIMITS)
def test_the_command_runs_dry(tmp_path, monkeypatch, call):
    results = tmp_path / "new" / "results.jsonl"
    words = ["benchmarks.gpu", call, "--tiny", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    codes = {line["step"]: line["exit_code"] for line in lines(results) if "exit_code" in line}
    wanted = {"first": ["environment", "exact", "attention", "whole"], "second": ["layers"]}
    assert codes == dict.fromkeys(wanted[call], 0)

"""The protocol from case to files, with peers in this process."""

import json

import pytest
from bench_case import LocalLauncher, case_on

from benchmarks.engines.document import benchmark_document
from benchmarks.engines.plot import benchmark_plot
from benchmarks.engines.results import benchmark_to_files
from benchmarks.engines.run import Settings, run_benchmark
from benchmarks.engines.table import benchmark_table
from benchmarks.engines.variants import choose_variants
from icm_fast import _core
from icm_fast.errors import InputError
from listeners import Listener
from tiny_models import one_thread  # noqa: F401

LOCAL = ["transformers-naive", "transformers-cache"]


def document(case, launcher, names=LOCAL, **settings):
    settings = Settings(**({"repeats": 2} | settings))
    said = Listener()
    benchmark = run_benchmark(case, choose_variants(names), launcher, settings, said)
    assert said.lines
    return json.loads(json.dumps(benchmark_document(benchmark, "python -m benchmarks.engines")))


def by_name(document):
    return {peer["name"]: peer for peer in document["peers"]}


def shifted(result):
    return result | {"scores": [[-x for x in row] for row in result["scores"]]}


def shortened(result):
    """As if only three prompts had been measured, a quarter of the tokens."""
    return result | {"scores": result["scores"][:3], "n_measured": 3, "measured_share": 0.25}


def test_right_answers_get_ratios(tiny_case, launcher):
    found = document(tiny_case, launcher)
    peers = by_name(found)
    assert list(peers) == [
        "ours",
        "transformers-naive",
        "transformers-cache-natural",
        "transformers-cache-ours",
    ]
    assert {peer["status"] for peer in peers.values()} == {"ok"}
    assert peers["ours"]["ratio_to_ours"] == 1
    ours, other = peers["ours"]["seconds"], peers["transformers-cache-ours"]
    assert other["ratio_to_ours"] == pytest.approx(other["seconds"]["median"] / ours["median"])
    flops = found["plan"]["flops"]["total"]
    assert peers["ours"]["fraction_of_limit"] == pytest.approx(flops / ours["median"] / 1e9)
    # The whole run has references of both orders: all prompts of ours, a sample of the natural.
    assert other["answers"]["n_compared"] == 8
    assert peers["transformers-naive"]["answers"]["n_compared"] == 6


def test_document_has_what_a_reader_needs(tiny_case, launcher):
    found = document(tiny_case, launcher, ["ours"])
    assert set(found) == {
        "schema",
        "kind",
        "command",
        "case",
        "threads",
        "repeats",
        "max_seconds",
        "machine",
        "matmul_flops_per_second",
        "plan",
        "peers",
    }
    assert found["case"]["n"] == 8
    assert found["case"]["dtype"] == "float32"
    assert {"cpu_flags", "versions", "load_average", "memory_bytes"} <= set(found["machine"])
    (ours,) = found["peers"]
    assert ours["tokens_forwarded"] == found["plan"]["tokens"]
    assert len(ours["seconds"]["repeats"]) == 2
    assert ours["versions"]["icm-fast"]
    assert ours["peak_rss_bytes"] > 1 << 20
    assert found["matmul_flops_per_second"]["float32"] == {"before": 1e9, "after": 1e9}


def test_wrong_answers_get_no_speed(tiny_case):
    launcher = LocalLauncher({"transformers-cache": shifted})
    found = document(tiny_case, launcher)
    wrong = by_name(found)["transformers-cache-ours"]
    assert wrong["status"] == "wrong"
    assert wrong["seconds"] is wrong["ratio_to_ours"] is wrong["fraction_of_limit"] is None
    line = next(s for s in benchmark_table(found).splitlines() if "cache-ours" in s)
    assert "| WRONG |  |  |  |  |" in line
    assert benchmark_plot(found).startswith(b"\x89PNG")


def test_our_own_wrong_answers_leave_no_ratio_at_all(tiny_case):
    found = document(tiny_case, LocalLauncher({"ours": shifted}))
    assert {peer["ratio_to_ours"] for peer in found["peers"]} == {None}
    assert by_name(found)["ours"]["status"] == "wrong"
    assert by_name(found)["transformers-naive"]["status"] == "ok"


def test_contradicting_references_end_the_run(tiny_case):
    class Contradicting(LocalLauncher):
        def run(self, peer, job):
            result = super().run(peer, job)
            return shifted(result) if peer == "ours" else result

    with pytest.raises(RuntimeError, match="differ from whole prompts"):
        document(tiny_case, Contradicting({}))


def test_table_says_extrapolated(tiny_case):
    launcher = LocalLauncher({"transformers-naive": shortened})
    found = document(tiny_case, launcher, ["transformers-naive"])
    naive = by_name(found)["transformers-naive"]
    assert naive["seconds"]["extrapolated"]
    assert naive["answers"]["n_compared"] == 3
    table = benchmark_table(found)
    assert "extrapolated from 3 of 8 prompts" in table
    assert table.count("extrapolated") == 1


def test_extrapolation_scales_by_the_share_of_tokens(tiny_case):
    def timed(result):
        return shortened(result) | {"seconds": [1.0, 3.0, 2.0]}

    found = document(tiny_case, LocalLauncher({"transformers-naive": timed}))
    seconds = by_name(found)["transformers-naive"]["seconds"]
    assert (seconds["min"], seconds["median"], seconds["max"]) == (4.0, 8.0, 12.0)


def test_a_peer_that_fails_does_not_stop_the_others(tiny_case):
    class Broken(LocalLauncher):
        def run(self, peer, job):
            self.broken = ("transformers-cache",) if len(self.runs) >= 2 else ()
            return super().run(peer, job)

    found = document(tiny_case, Broken({}))
    failed = by_name(found)["transformers-cache-natural"]
    assert failed["status"] == "failed"
    assert "out of patience" in failed["failure"]
    assert by_name(found)["transformers-naive"]["ratio_to_ours"] > 0
    assert "| FAILED |  |  |  |  |  | out of patience |" in benchmark_table(found)


def test_model_that_hardly_tells_contexts_apart_is_noted(tiny_case, launcher):
    found = document(tiny_case, launcher, ["ours"])
    assert "weak check" not in benchmark_table(found)
    found["peers"][0]["answers"]["signal"] = 1e-4
    assert "weak check" in benchmark_table(found)


def test_peer_that_uses_more_processors_is_noted(tiny_case, launcher):
    found = document(tiny_case, launcher, ["ours"])
    found["peers"][0]["processors_used"] = 1.05
    assert "CPUs" not in benchmark_table(found)
    found["peers"][0]["processors_used"] = 1.96
    assert "used 2.0 CPUs" in benchmark_table(found)


def test_every_row_has_all_columns(tiny_case):
    spoil = {"transformers-cache": shifted, "transformers-naive": shortened}
    table = benchmark_table(document(tiny_case, LocalLauncher(spoil)))
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {10}


def test_files(tiny_case, launcher, tmp_path):
    folder = tmp_path / "new" / "results"
    table = benchmark_to_files(
        tiny_case,
        choose_variants(["ours"]),
        launcher,
        Settings(repeats=1),
        folder=folder,
        command="python -m benchmarks.engines --case x",
        progress=None,
    )
    files = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {".json", ".md", ".png"}
    assert files[".md"].decode().rstrip() == table
    assert json.loads(files[".json"])["command"] == "python -m benchmarks.engines --case x"
    assert "python -m benchmarks.engines --case x" in table


def test_folder_is_checked_before_anything_runs(tiny_case, launcher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        benchmark_to_files(
            tiny_case,
            choose_variants(["ours"]),
            launcher,
            Settings(),
            folder=tmp_path / "file",
            command="",
            progress=None,
        )
    assert not launcher.runs


@pytest.mark.skipif(_core.cpu_int8_isa() is None, reason="this processor has no 8-bit products")
def test_int8_is_judged_as_the_approximation_it_is(tiny_case, launcher):
    found = by_name(document(tiny_case, launcher, ["ours-int8"]))
    assert found["ours"]["answers"]["limits"] == [1e-3, 1e-3]
    assert found["ours-int8"]["status"] == "ok"
    assert found["ours-int8"]["answers"]["limits"] == [0.1, 1.0]
    assert found["ours-int8"]["answers"]["maximum"] > 1e-3


def test_llama_cpp_refuses_other_architectures(tmp_path, claims_file, launcher):
    from bench_case import claims_tokenizer

    from tiny_models import tiny_model

    tiny_model("qwen3").save_pretrained(tmp_path)
    claims_tokenizer().save_pretrained(tmp_path)
    found = document(case_on(tmp_path, claims_file), launcher, ["llama-cpp-ours"])
    assert "cannot run model type 'qwen3'" in by_name(found)["llama-cpp-ours"]["failure"]

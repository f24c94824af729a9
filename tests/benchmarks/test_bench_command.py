"""The command line and the processes that it starts."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.engines import launch
from benchmarks.engines.cli import run
from benchmarks.engines.launch import Launcher, PeerError
from benchmarks.engines.peers.protocol import Job
from benchmarks.engines.variants import VARIANTS, choose_variants
from icm_fast.errors import InputError


def fails(capsys, arguments, *words):
    assert run(arguments) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


CASE = ["--case", "smollm2-truthfulqa-64", "--data", "x.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no case given", "--case", "smollm2-truthfulqa-64"]),
        (["--model", "smollm2"], ["--task, --limit"]),
        (["--case", "smolm2-truthfulqa-64"], ["unknown case", "'smollm2-truthfulqa-64'"]),
        (["--case", "qwen-shape-32"], ["needs its data", "--data"]),
        ([*CASE, "--peer", "vlm"], ["unknown peer 'vlm'", "did you mean 'vllm'"]),
        ([*CASE, "--dtype", "bf16"], ["unknown dtype 'bf16'", "'bfloat16'"]),
        ([*CASE, "--limit", "1"], ["limit = 1"]),
        ([*CASE, "--repeats", "0"], ["repeats = 0"]),
        ([*CASE, "--max-seconds", "-1"], ["max_seconds = -1"]),
        ([*CASE, "--curve", "--sizes", "8,many"], ["--sizes '8,many'"]),
        ([*CASE, "--curve", "--sizes", "1,8"], ["contains 1"]),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, arguments, *words)


@pytest.mark.parametrize("peer", ["vllm", "llama-cpp"])
def test_missing_environment_names_the_command(peer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "PEERS_DIR", tmp_path / ".peers")
    arguments = [*CASE, "--threads", "1", "--peer", peer]
    fails(capsys, arguments, f"bash benchmarks/peers/install_peers.sh {peer}", f".peers/{peer}")


def environment(folder):
    """An environment that would leave a mark if it were run."""
    python = folder / "llama-cpp" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {folder / 'ran'}\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return python


def test_the_working_folder_brings_no_programs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PEERS_DIR", tmp_path / "clone" / ".peers")
    environment(tmp_path / ".peers")
    monkeypatch.chdir(tmp_path)
    arguments = [*CASE, "--threads", "1", "--peer", "llama-cpp"]
    fails(capsys, arguments, "no environment", str(tmp_path / "clone" / ".peers"))
    assert not (tmp_path / ".peers" / "ran").exists()


def test_the_default_is_this_clone():
    assert Path(__file__).resolve().parents[2] / ".peers" == launch.PEERS_DIR


@pytest.mark.parametrize("name", [".", "llama-cpp", "llama-cpp/bin", "llama-cpp/bin/python"])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_programs_that_others_may_change_are_not_run(tmp_path, name, mode):
    environment(tmp_path / "peers")
    (tmp_path / "peers" / name).chmod(mode)
    with pytest.raises(InputError, match=r"others may change .*, which would be run"):
        Launcher(tmp_path / "peers", 1).check("llama-cpp")


def test_programs_of_another_user_are_not_run(tmp_path, monkeypatch):
    environment(tmp_path / "peers")
    Launcher(tmp_path / "peers", 1).check("llama-cpp")
    if os.geteuid() == 0:
        os.chown(tmp_path / "peers" / "llama-cpp" / "bin", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InputError, match="others may change"):
        Launcher(tmp_path / "peers", 1).check("llama-cpp")


def test_more_threads_than_processors(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, [*CASE, "--threads", "9999", "--peer", "ours"], "threads = 9999", "CPUs")


def test_without_matplotlib_the_extra_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fails(capsys, [*CASE, "--peer", "ours"], "pip install icm-fast[bench]")


def test_curve_has_its_own_name_and_largest_size(monkeypatch, capsys):
    seen = {}

    def curve_to_files(case, sizes, **rest):
        seen.update(case=case, sizes=sizes, rest=rest)
        return "table"

    monkeypatch.setattr("benchmarks.engines.results.curve_to_files", curve_to_files)
    arguments = ["--curve", "--model", "smollm2", "--task", "movie-sentiment", "--sizes", "16,8"]
    assert run(arguments) == 0
    assert seen["case"].name == "smollm2-movie-sentiment-curve"
    assert (seen["case"].n, seen["sizes"]) == (16, [8, 16])
    assert "smollm2-movie-sentiment-curve.json" in capsys.readouterr().out


def test_peers_by_name_bring_all_their_variants_and_ours():
    names = [variant.name for variant in choose_variants(["vllm", "llama-cpp-ours"])]
    assert names == [
        "ours",
        "vllm-natural-32",
        "vllm-natural-128",
        "vllm-ours-32",
        "vllm-ours-128",
        "llama-cpp-ours",
    ]
    assert [v.name for v in choose_variants([])] == list(VARIANTS)
    with pytest.raises(InputError, match="did you mean 'llama-cpp-ours'"):
        choose_variants(["llama-cpp-our"])


def test_a_process_measures_the_machine(tmp_path):
    launcher = Launcher(tmp_path, 1)
    assert len(launcher.cpus) == 1
    assert launcher.gemm_peak("float32", sizes=[32]) > 0


@pytest.fixture
def bare_peers(tmp_path):
    """Environments without site-packages: neither the engines nor icm_fast are there."""
    for name in ("vllm", "llama-cpp"):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
        python.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("peer", "package"), [("vllm", "vllm"), ("llama-cpp", "llama_cpp")])
def test_peer_modules_run_without_icm_fast(peer, package, bare_peers):
    launcher = Launcher(bare_peers, 1)
    launcher.check(peer)
    job = Job([[1, 2]], [0, 1], "", "float32", 1, launcher.cpus)
    with pytest.raises(PeerError, match=f"No module named '{package}'"):
        launcher.run(peer, job)


def test_a_killed_peer_is_told(tmp_path):
    folder = tmp_path / "vllm" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (folder / "python").chmod(0o755)
    launcher = Launcher(tmp_path, 1)
    job = Job([[1, 2]], [0, 1], "", "float32", 1, launcher.cpus)
    with pytest.raises(PeerError, match="signal 9"):
        launcher.run("vllm", job)

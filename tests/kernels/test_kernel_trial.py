"""The trial that a CUDA kernel must pass on a device before it is used there."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from icm_fast.kernels.tree_attention import AttentionWork, cuda, naive, trial

CPU = torch.device("cpu")


def problem(kind="plain", dtype=torch.bfloat16):
    name = f"{kind}, 64 wide, {dtype}"
    return next(p for p in trial.problems([64], CPU) if p.name == name)


def definition(*tensors, keys_per_split=0, **options):
    """As those that can split: the definition has no such option."""
    return naive.tree_attention(*tensors, **options)


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The names of a device and a library, and an empty cache folder."""
    path = tmp_path / "libicm_fast_cuda.so"
    path.write_bytes(b"code")
    monkeypatch.setattr(cuda, "library_path", lambda: path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "cache"))
    trial._select_products.cache_clear()
    yield torch.device("cuda", 0)
    trial._select_products.cache_clear()


def test_the_definition_passes_every_problem():
    kinds = list(trial.problems([64, 128], CPU))
    assert len({p.name for p in kinds}) == len(kinds) == 32
    assert {p.query.shape[0] // p.keys.shape[0] for p in kinds} == {1, 3, 4}
    assert max(s.start for p in kinds for s in p.work.segments) > 20_000
    for one in kinds:
        trial.check(definition, one)


@pytest.mark.parametrize("products", cuda.PRODUCTS)
@pytest.mark.parametrize(
    "kind", ["split", "window", "window alone", "sinks", "group of 1", "group of 3", "20,000 keys"]
)
def test_the_emulated_kernels_pass(emulated, products, kind, monkeypatch):
    monkeypatch.setattr(trial, "_REPEATS", 1)
    attend = partial(cuda.tree_attention, products=products, library=emulated)
    trial.check(attend, problem(kind))


def test_a_sum_that_ends_early_fails():
    """A sum that leaves out the last tenth of 20,000 keys."""
    long = problem("20,000 keys")
    first, last = long.work.segments
    begin = last.ranges[0][0]
    shorter = replace(last, ranges=((begin, begin + 18_000),), start=18_000)
    wrong = naive.tree_attention(
        long.query,
        long.keys,
        long.values,
        AttentionWork((first, shorter), long.work.n_tokens),
        **long.options,
    )
    with pytest.raises(ArithmeticError, match=r"20,000 keys, 64 wide.*differs by"):
        trial.check(lambda *a, **k: wrong, long)


def test_wrong_results_fail():
    wanted = problem()

    def wrong(*tensors, **options):
        out = definition(*tensors, **options)
        out[3, 7, 5] += 0.1
        return out

    with pytest.raises(ArithmeticError, match=r"plain, 64 wide, torch.bfloat16: differs by 0\.\d+"):
        trial.check(wrong, wanted)
    with pytest.raises(ArithmeticError, match="differs by nan"):
        trial.check(lambda *a, **k: torch.full_like(wanted.query, torch.nan), wanted)


def test_other_results_each_time_fail():
    times = []

    def unsteady(*tensors, **options):
        times.append(1)
        return definition(*tensors, **options) + 1e-3 * (len(times) == 2)

    with pytest.raises(ArithmeticError, match="differ between repetitions"):
        trial.check(unsteady, problem())


def test_a_key_too_many_fails():
    """A key that the window hides: errors in masks are found."""
    hidden = problem("window")
    wider = replace(hidden, options={**hidden.options, "sliding_window": 201})
    wrong = naive.tree_attention(
        hidden.query, hidden.keys, hidden.values, hidden.work, **wider.options
    )
    with pytest.raises(ArithmeticError, match="differs by"):
        trial.check(lambda *a, **k: wrong, hidden)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", ""),
        ("import sys; sys.exit('wrong')", "wrong"),
        ("import os; os._exit(7)", "its trial ended with exit code 7"),
        ("import time; time.sleep(60)", "its trial did not finish within 2 seconds"),
    ],
)
def test_every_end_of_a_process_is_reported(code, reason):
    assert trial.run([sys.executable, "-c", code], 2.0) == reason


def test_a_process_that_cannot_start_is_reported():
    assert "could not be started" in trial.run(["/nowhere/python"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_device_the_real_process_fails(device, tmp_path):
    """And nothing is stored."""
    assert "CUDA" in trial.failure("cuda_wgmma", device)
    assert not (tmp_path / "cache").exists()


def test_what_was_passed_is_remembered(device, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(trial, "run", lambda command, seconds: commands.append(command) or "")
    for _ in range(2):
        assert trial.failure("cuda", device) == ""
    assert len(commands) == 1
    assert commands[0][1:] == ["-P", "-m", trial.__name__, "cuda", "cuda:0", "64,128,256"]
    trial.failure("cuda_wgmma", device)
    trial.failure("cuda", device, (96,))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    trial.failure("cuda", device)
    (tmp_path / "libicm_fast_cuda.so").write_bytes(b"other code")
    trial.failure("cuda", device)
    assert len(commands) == 5


def test_a_failure_is_not_remembered(device, monkeypatch):
    answers = ["no memory", ""]
    monkeypatch.setattr(trial, "run", lambda command, seconds: answers.pop(0))
    assert trial.failure("cuda", device) == "no memory"
    assert trial.failure("cuda", device) == ""


def test_a_home_that_cannot_be_written_is_no_failure(device, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICM_FAST_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(trial, "run", lambda command, seconds: "")
    assert trial.failure("cuda", device) == ""


def test_the_fastest_kernel_that_passes_is_selected(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    tried = []

    def run(command, seconds):
        tried.append(command[-3])
        return "differs by 3" if command[-3] == "cuda_wgmma" else ""

    monkeypatch.setattr(trial, "run", run)
    with pytest.warns(RuntimeWarning, match="with wgmma is not used on NVIDIA H100: differs by 3"):
        assert trial.select_products(device) == "mma"
    assert trial.select_products(device) == "mma"
    assert tried == ["cuda_wgmma", "cuda"]
    trial._select_products.cache_clear()
    monkeypatch.setattr(trial, "run", lambda command, seconds: "")
    assert trial.select_products(device) == "wgmma"


def test_where_none_passes_none_is_selected(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(trial, "run", lambda command, seconds: "no kernel image")
    with pytest.warns(RuntimeWarning, match="with mma is not used") as warned:
        assert trial.select_products(device) is None
    assert len(warned) == 1


def test_its_command_refuses_what_it_does_not_know():
    with pytest.raises(SystemExit, match=r"must be one of cuda_wgmma, cuda, .*, not 'fma'"):
        trial.main(["fma", "cpu", "64"])


def test_its_command_ends_with_a_reason(monkeypatch):
    """A device's library refuses tensors on the CPU."""

    def refuse(*arguments, **options):
        raise ValueError("tensors are on cpu")

    monkeypatch.setattr(cuda, "tree_attention", refuse)
    with pytest.raises(SystemExit, match="tensors are on cpu"):
        trial.main(["cuda", "cpu", "64"])


@pytest.mark.gpu
@pytest.mark.parametrize("products", cuda.PRODUCTS)
def test_a_device_passes(products):
    if not cuda.library_path().is_file():
        pytest.skip("the CUDA kernels are not built; install with ICM_FAST_CUDA=ON")
    if products == "wgmma" and torch.cuda.get_device_capability() != cuda.WGMMA_CAPABILITY:
        pytest.skip("wgmma is for compute capability 9.0")
    device = torch.device("cuda", torch.cuda.current_device())
    assert trial.failure(trial.CUDA_VERSIONS[products], device) == ""

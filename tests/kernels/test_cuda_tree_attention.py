"""The CUDA kernels: on the emulated device that `make native-tests` builds, and on a real one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_cases import DEEP, ONE_TOKEN, OPTIONS, SHAPES, Sizes, make_case
from icm_fast.errors import InputError
from icm_fast.kernels.tree_attention import (
    AttentionWork,
    cuda,
    cuda_library,
    measured,
    naive,
    sdpa,
    select,
    trial,
)
from icm_fast.kernels.tree_attention.select import select_tree_attention

LIMITS = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
LONG = [((63, 1, 64), 3), ((3,), 70), DEEP, ONE_TOKEN]


def equal_widths(dim=64, heads=4, kv_heads=2):
    return Sizes(heads, kv_heads, dim, dim)


def check(case, library=None, keys_per_split=0, products="mma", **options):
    """The result against the definition in float32, relative to the largest value."""
    options.setdefault("scaling", case.query.shape[-1] ** -0.5)
    tensors = (case.query, case.keys, case.values)
    ours = {"library": library, "keys_per_split": keys_per_split, "products": products}
    out = cuda.tree_attention(*tensors, case.work, **ours, **options)
    wanted = naive.tree_attention(*(t.float() for t in tensors), case.work, **options)
    assert out.shape == wanted.shape
    assert out.dtype == case.query.dtype
    limit = LIMITS[out.dtype] * float(wanted.abs().max())
    torch.testing.assert_close(out.float(), wanted, atol=limit, rtol=0)


def on_device(case, device="cuda"):
    tensors = {name: getattr(case, name).to(device) for name in ("query", "keys", "values")}
    return replace(case, **tensors)


@pytest.mark.parametrize("products", cuda.PRODUCTS)
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("options", OPTIONS)
def test_emulated_equals_the_definition(emulated, dtype, options, products):
    case = make_case(SHAPES["odd batch"], dtype=dtype, sizes=equal_widths())
    check(case, emulated, products=products, **OPTIONS[options])


@pytest.mark.parametrize("products", cuda.PRODUCTS)
@pytest.mark.parametrize("dim", cuda.HEAD_DIMS)
def test_emulated_splits_and_widths(emulated, dim, products):
    case = make_case(LONG, dtype=torch.bfloat16, sizes=equal_widths(dim, 3, 1))
    check(case, emulated, products=products)
    check(case, emulated, keys_per_split=40, sliding_window=50, products=products)


def test_other_strides(emulated):
    """Queries with the strides of transformers, and every second head of a pool."""
    case = make_case(SHAPES["odd batch"], dtype=torch.bfloat16, sizes=equal_widths(kv_heads=4))
    case.query = case.query.transpose(0, 1).contiguous().transpose(0, 1)
    case.keys, case.values = case.keys[::2], case.values[::2]
    check(case, emulated)


def test_no_segments_are_nothing_to_do(emulated):
    case = make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths())
    out = cuda.tree_attention(
        case.query[:, :0], case.keys, case.values, AttentionWork((), 0), scaling=1, library=emulated
    )
    assert out.shape == (4, 0, 64)


def bad_segment(**changes):
    def change(case):
        (segment,) = case.work.segments
        case.work = AttentionWork((replace(segment, **changes),), case.work.n_tokens)

    return change


BAD = {
    "dtype": ("use bfloat16 or float16", lambda c: setattr(c, "query", c.query.float())),
    "head_dim": ("head_dim 8 has no", lambda c: setattr(c, "query", c.query[..., :8])),
    "values": (
        "must have the same width",
        lambda c: setattr(c, "values", c.values[..., :8]),
    ),
    "mixed": ("one dtype", lambda c: setattr(c, "keys", c.keys.half())),
    "heads": ("not a multiple of 2 key-value heads", lambda c: setattr(c, "query", c.query[:3])),
    "strides": ("rows must be contiguous", lambda c: setattr(c, "keys", c.keys.mT.contiguous().mT)),
    "outside": ("but the pool has", bad_segment(own=10**6)),
    "negative": (r"\(-1, 4\) is not a range of slots", bad_segment(ranges=((-1, 4), (5, 8)))),
    "position": ("ranges hold 8 tokens, but the segment starts at 9", bad_segment(start=9)),
    "far": ("below 2\\^31", bad_segment(own=2**31)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(emulated, name):
    case = make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths())
    message, change = BAD[name]
    change(case)
    with pytest.raises(ValueError, match=message):
        check(case, emulated)


def test_misaligned_rows_are_refused(emulated):
    case = make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths())
    shifted = torch.empty(case.query.numel() + 1, dtype=torch.bfloat16)[1:]
    case.query = shifted.view_as(case.query).copy_(case.query)
    with pytest.raises(RuntimeError, match="multiples of 16 bytes"):
        check(case, emulated)


def test_other_devices_are_refused(emulated):
    case = on_device(make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths()), "meta")
    with pytest.raises(ValueError, match="tensors are on meta, but the kernels are for cpu"):
        cuda.tree_attention(
            case.query, case.keys, case.values, case.work, scaling=1, library=emulated
        )


def test_unknown_products_are_refused(emulated):
    case = make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths())
    with pytest.raises(ValueError, match=r"one of \('mma', 'wgmma'\), not 'fma'"):
        check(case, emulated, products="fma")


def test_wgmma_is_for_its_devices_only(monkeypatch):
    def capability(found):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)

    capability((9, 0))
    cuda._check_products("wgmma", torch.device("cuda"))
    capability((10, 0))
    cuda._check_products("mma", torch.device("cuda"))
    with pytest.raises(ValueError, match=r"needs compute capability 9.0, cuda has \(10, 0\)"):
        cuda._check_products("wgmma", torch.device("cuda"))


def test_an_absent_library_is_told(tmp_path):
    with pytest.raises(InputError, match=r"not built .*ICM_FAST_CUDA=ON"):
        cuda.CudaLibrary(tmp_path / "libicm_fast_cuda.so")


def test_the_library_that_was_built_is_of_this_interface():
    """It also loads without a device, as on the login node of a cluster."""
    if not cuda.library_path().is_file():
        pytest.skip("the CUDA kernels are not built; install with nvcc on the PATH")
    library = cuda.CudaLibrary(cuda.library_path())
    assert library.device_type == "cuda"


def test_the_library_says_whether_it_copies_boxes(emulated):
    """Heads 256 wide take the other kernel, which copies row by row."""
    for width, boxes in ((64, True), (128, True), (256, False)):
        pool = torch.zeros(2, 128, width, dtype=torch.bfloat16)
        assert cuda.copies_boxes(pool, pool, emulated) == boxes


def test_another_file_is_no_library(tmp_path):
    path = tmp_path / "libicm_fast_cuda.so"
    path.write_text("no machine code")
    with pytest.raises(InputError, match="cannot be loaded"):
        cuda.CudaLibrary(path)


def test_a_library_of_another_interface_is_refused(emulated, monkeypatch):
    monkeypatch.setattr(cuda_library, "ABI_VERSION", 0)
    with pytest.raises(InputError, match="has interface 4, not 0"):
        cuda.CudaLibrary(Path(emulated._library._name))


def test_the_processor_takes_sdpa():
    case = make_case([ONE_TOKEN], dtype=torch.bfloat16, sizes=equal_widths())
    assert select.available("cpu") == ("sdpa", "naive")
    assert select_tree_attention(case.query, case.values) is sdpa.tree_attention


def test_a_device_takes_the_library_where_it_is_built(tmp_path, monkeypatch):
    path = tmp_path / "libicm_fast_cuda.so"
    monkeypatch.setattr(cuda, "library_path", lambda: path)
    monkeypatch.setattr(select, "has_triton_kernels", lambda device: False)
    monkeypatch.setattr(trial, "select_products", lambda device: "mma")
    monkeypatch.setattr(measured, "library_instead", lambda needs: None)
    assert select.available("cuda") == ("sdpa", "naive")
    path.touch()
    assert select.available("cuda:0") == ("cuda", "sdpa", "naive")
    monkeypatch.setattr(trial, "select_products", lambda device: "wgmma")
    assert select.available("cuda:0") == ("cuda_wgmma", "cuda", "sdpa", "naive")
    query = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=(4, 7, 64))
    assert select_tree_attention(query, query) is cuda.wgmma_tree_attention
    # A library that failed its trials is as good as none.
    monkeypatch.setattr(trial, "select_products", lambda device: None)
    assert select.available("cuda:0") == ("sdpa", "naive")
    assert select_tree_attention(query, query) is sdpa.tree_attention


def test_a_setting_takes_a_kernel_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "libicm_fast_cuda.so"
    path.touch()
    monkeypatch.setattr(cuda, "library_path", lambda: path)
    monkeypatch.setattr(select, "has_triton_kernels", lambda device: False)
    monkeypatch.setattr(trial, "select_products", lambda device: pytest.fail("it was tried"))
    monkeypatch.setenv(select.PRODUCTS_SETTING, "wgmma")
    assert select.available("cuda") == ("cuda_wgmma", "cuda", "sdpa", "naive")
    query = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=(4, 7, 64))
    assert select_tree_attention(query, query) is cuda.wgmma_tree_attention
    assert select.available("cpu") == ("sdpa", "naive")
    monkeypatch.setenv(select.PRODUCTS_SETTING, "mma")
    assert select_tree_attention(query, query) is cuda.tree_attention
    monkeypatch.setenv(select.PRODUCTS_SETTING, "tcgen05")
    with pytest.raises(InputError, match="must be one of auto, mma, wgmma, not 'tcgen05'"):
        select_tree_attention(query, query)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("dim", cuda.HEAD_DIMS)
@pytest.mark.parametrize("keys_per_split", [0, 40])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("products", cuda.PRODUCTS)
def test_a_device_equals_the_definition(dtype, dim, keys_per_split, options, products):
    if not cuda.library_path().is_file():
        pytest.skip("the CUDA kernels are not built; install with ICM_FAST_CUDA=ON")
    if products == "wgmma" and torch.cuda.get_device_capability() != cuda.WGMMA_CAPABILITY:
        pytest.skip("wgmma is for compute capability 9.0")
    sizes = equal_widths(dim)
    for segments in (SHAPES["odd batch"], LONG):
        case = on_device(make_case(segments, dtype=dtype, sizes=sizes))
        arguments = {
            name: value.cuda() if isinstance(value, torch.Tensor) else value
            for name, value in OPTIONS[options].items()
        }
        check(case, keys_per_split=keys_per_split, products=products, **arguments)
        best = "wgmma" if torch.cuda.get_device_capability() == cuda.WGMMA_CAPABILITY else "mma"
        assert trial.select_products(case.query.device) == best


@pytest.mark.gpu
def test_a_device_computes_what_its_emulation_does(emulated):
    """Both sum in float32, in the same blocks; only the order within a product may differ."""
    if not cuda.library_path().is_file():
        pytest.skip("the CUDA kernels are not built; install with ICM_FAST_CUDA=ON")
    case = make_case(LONG, dtype=torch.float16, sizes=equal_widths(128))
    real = on_device(case)
    results = [
        cuda.tree_attention(c.query, c.keys, c.values, c.work, scaling=0.1, library=library)
        for c, library in ((case, emulated), (real, None))
    ]
    torch.testing.assert_close(results[1].cpu(), results[0], atol=2e-3, rtol=2e-3)

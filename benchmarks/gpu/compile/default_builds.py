"""Every kernel in every default configuration, for compilation ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.compile.ahead_of_time import Build
from icm_fast.kernels.add_rms_norm import triton as add_rms_norm
from icm_fast.kernels.gated_activation import triton as gated_activation
from icm_fast.kernels.label_logprob import triton as label_logprob
from icm_fast.kernels.rope_kv_write import triton as rope_kv_write
from icm_fast.kernels.tree_attention import triton as tree_attention
from icm_fast.kernels.tree_attention.tiles import HEAD_DIMS, Tile, default_tiles, padded
from icm_fast.kernels.tree_attention.triton_kernels import merge_kernel, tree_attention_kernel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Triton's names of the dtypes that kernels support."""

GROUP = 3
"""Query heads per key-value head; not a power of two, by which kernels divide too cheaply."""

HIDDEN_SIZE = 2048
LARGEST_HIDDEN_SIZE = 8192
HEAD_NORM_DIM = 128
"""Heads of Qwen 3, which norms each query and key."""

_STRIDES = ("head_stride", "token_stride", "slot_stride", "row_stride")


def default_builds(target: int) -> list[Build]:
    """All builds of the defaults on a device of capability ``target``."""
    decoder = (*_rotations(), *_norms(), *_gates())
    return [*_attention(target), *_merges(target), *_labels(), *decoder]


def _attention(target: int) -> Iterator[Build]:
    """Both tiles of every width and dtype, with no model options and with all of them."""
    for dtype, torch_dtype in DTYPES.items():
        for dim in HEAD_DIMS:
            for size, tile in default_tiles(dim, torch_dtype, target)._asdict().items():
                for options in (False, True):
                    suffix = "-options" if options else ""
                    name = f"tree_attention-{dtype}-{dim}-{size}{suffix}"
                    yield attention_build(name, dtype, dim, tile, options)


def attention_build(name: str, dtype: str, dim: int, tile: Tile, options: bool) -> Build:
    """Tree attention of one width, with window, soft cap and sinks or without any."""
    data, floats, tables = f"*{dtype}", "*fp32", "*i32"
    arguments = dict.fromkeys(("query", "key_pool", "value_pool", "out"), data)
    arguments |= dict.fromkeys(("partial_out", "partial_lse", "sinks"), floats)
    arguments |= dict.fromkeys(("items", "blocks"), tables)
    arguments |= {"scaling": "fp32", "softcap": "fp32", "window": "i32", "kv_heads": "i32"}
    return Build(
        name,
        tree_attention_kernel,
        arguments | _strides(tree_attention_kernel),
        {
            "GROUP": GROUP,
            "HEAD_DIM": dim,
            "VALUE_DIM": dim,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_D": padded(dim),
            "BLOCK_V": padded(dim),
            "HAS_WINDOW": options,
            "HAS_SOFTCAP": options,
            "HAS_SINKS": options,
            "INTERPRET": False,
        },
        tile.num_warps,
        tile.num_stages,
    )


def _strides(kernel: object) -> dict[str, str]:
    names: list[str] = getattr(kernel, "arg_names")  # noqa: B009
    return {name: "i32" for name in names if name.endswith(_STRIDES)}


def _merges(target: int) -> Iterator[Build]:
    arguments = dict.fromkeys(("partial_out", "partial_lse", "sinks"), "*fp32")
    arguments |= {"merges": "*i32", "kv_heads": "i32"} | _strides(merge_kernel)
    for dtype, torch_dtype in DTYPES.items():
        for dim in HEAD_DIMS:
            block_m = default_tiles(dim, torch_dtype, target).long.block_m
            constants = {
                "GROUP": GROUP,
                "VALUE_DIM": dim,
                "BLOCK_M": block_m,
                "ROWS": min(tree_attention.MERGE_ROWS, block_m),
                "BLOCK_V": padded(dim),
                "HAS_SINKS": True,
            }
            pointers = arguments | {"out": f"*{dtype}"}
            warps = tree_attention.MERGE_WARPS
            yield Build(f"merge-{dtype}-{dim}", merge_kernel, pointers, constants, warps, 3)


def _labels() -> Iterator[Build]:
    for dtype in DTYPES:
        for width in (HIDDEN_SIZE, LARGEST_HIDDEN_SIZE):
            yield _label_rows(dtype, width)
        # States as the weights are, and float32 states after our own norm.
        for states in sorted({dtype, "fp32"}):
            yield _vocabulary(states, dtype)


_LOGIT_OPTIONS = {"scale": "fp32", "softcap": "fp32"}


def _label_rows(dtype: str, width: int) -> Build:
    arguments = dict.fromkeys(("hidden", "weight", "bias", "norm_weight"), f"*{dtype}")
    arguments |= {"states": "*fp32", "tokens": "*i64", "logits": "*fp32"}
    arguments |= {"norm_eps": "fp32", "n_tokens": "i32"} | _LOGIT_OPTIONS
    constants = {"WIDTH": width, "BLOCK": width}
    constants |= dict.fromkeys(("HAS_NORM", "HAS_BIAS", "HAS_SOFTCAP"), True)
    kernel, warps = label_logprob.label_rows_kernel, label_logprob.ROW_WARPS
    return Build(f"label_rows-{dtype}-{width}", kernel, arguments, constants, warps, 3)


def _vocabulary(states: str, dtype: str) -> Build:
    tile = label_logprob.default_tile(DTYPES[states], DTYPES[dtype])
    arguments = {"states": f"*{states}", "weight": f"*{dtype}", "bias": f"*{dtype}"}
    arguments |= {"partial": "*fp32"} | _LOGIT_OPTIONS
    arguments |= dict.fromkeys(("n_rows", "vocabulary", "parts"), "i32")
    constants = {
        "WIDTH": HIDDEN_SIZE,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "PIECES": label_logprob.pieces(DTYPES[states], DTYPES[dtype]),
        "HAS_BIAS": True,
        "HAS_SOFTCAP": True,
        "INTERPRET": False,
    }
    name = f"vocabulary-{states}-{dtype}"
    kernel = label_logprob.vocabulary_kernel
    return Build(name, kernel, arguments, constants, tile.num_warps, tile.num_stages)


def _rotations() -> Iterator[Build]:
    kernel = rope_kv_write.rope_kv_write_kernel
    names = ("query", "key", "value", "cos", "sin", "out", "key_pool", "value_pool")
    for dtype in DTYPES:
        arguments = dict.fromkeys(names, f"*{dtype}") | _strides(kernel)
        arguments |= {"slots": "*i64", "n_tokens": "i32", "n_heads": "i32"}
        for dim in HEAD_DIMS:
            constants = {
                "HEAD_DIM": dim,
                "VALUE_DIM": dim,
                "HALF": dim // 2,
                "BLOCK_T": rope_kv_write.BLOCK_T,
                "BLOCK_HALF": padded(dim // 2),
                "BLOCK_REST": 1,
                "BLOCK_V": padded(dim),
            }
            warps = rope_kv_write.NUM_WARPS
            yield Build(f"rope_kv_write-{dtype}-{dim}", kernel, arguments, constants, warps, 3)


def _norms() -> Iterator[Build]:
    """Whole rows with a residual, as between layers, and heads without one."""
    for dtype in DTYPES:
        for width in (HIDDEN_SIZE, LARGEST_HIDDEN_SIZE):
            for plus_one in (False, True):
                suffix = "-plus-one" if plus_one else ""
                name = f"add_rms_norm-{dtype}-{width}{suffix}"
                yield _norm(name, dtype, width, True, plus_one)
        yield _norm(f"rms_norm-{dtype}-{HEAD_NORM_DIM}", dtype, HEAD_NORM_DIM, False, False)


def _norm(name: str, dtype: str, width: int, has_residual: bool, plus_one: bool) -> Build:
    kernel = add_rms_norm.add_rms_norm_kernel
    names = ("x", "residual", "weight", "normed", "total")
    arguments = dict.fromkeys(names, f"*{dtype}") | _strides(kernel)
    rows, block, warps = add_rms_norm.tile(width)
    constants = {
        "WIDTH": width,
        "ROWS": rows,
        "BLOCK": block,
        "HAS_RESIDUAL": has_residual,
        "PLUS_ONE": plus_one,
    }
    return Build(name, kernel, arguments | {"eps": "fp32", "n_rows": "i32"}, constants, warps, 3)


def _gates() -> Iterator[Build]:
    kernel = gated_activation.gated_activation_kernel
    for dtype in DTYPES:
        arguments = dict.fromkeys(("gate", "up", "out"), f"*{dtype}") | _strides(kernel)
        arguments |= {"width": "i32"}
        for activation in gated_activation.ACTIVATIONS:
            constants = {
                "IS_GELU": activation == "gelu_tanh",
                "BLOCK": gated_activation.BLOCK,
            }
            warps = gated_activation.NUM_WARPS
            name = f"gated_activation-{dtype}-{activation}"
            yield Build(name, kernel, arguments, constants, warps, 3)
